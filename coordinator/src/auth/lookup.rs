//! Tokens that were not seen before, read from the database: however many there are at once, one question is under way. A
//! good one among them waits for the next question and not for the others.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::Batcher;
use crate::store::Store;
use crate::store::records::TokenRecord;

/// Tokens in one question.
const MOST: usize = 1024;

/// From the id of a token to the token.
pub(crate) type Lookups = Batcher<String, Option<TokenRecord>>;

/// Ends with `stop`.
pub(crate) fn lookups(tasks: &TaskTracker, stop: CancellationToken, store: Arc<dyn Store>) -> Lookups {
    Batcher::start(tasks, stop, MOST, move |ids: Arc<[String]>| {
        let store = Arc::clone(&store);
        async move {
            let found = store.tokens_by_id(&ids).await?;
            let found: HashMap<&str, &TokenRecord> =
                found.iter().map(|token| (token.id.as_str(), token)).collect();
            Ok(ids.iter().map(|id| Ok(found.get(id.as_str()).copied().cloned())).collect())
        }
        .boxed()
    })
}
