//! `HistoryService`.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use sanafarm_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::status::status;
use super::{MessageStream, convert, story};
use crate::farm::Farm;

/// Longest time that a statement may run.
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// SQL for analysts, and stories for everybody.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub farm: Arc<Farm>,
    /// Ends answers that go on.
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl v1::history_service_server::HistoryService for History {
    type QueryStream = MessageStream<v1::QueryResponse>;

    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        let answers = self.farm.store.query(&request.into_inner().sql, QUERY_LIMIT).await.map_err(status)?;
        let stop = self.stop.clone();
        let messages = answers
            .map(|answer| answer.map(convert::answer_message).map_err(status))
            .take_until(stop.cancelled_owned());
        Ok(Response::new(messages.boxed()))
    }

    type StoryStream = MessageStream<v1::StoryResponse>;

    async fn story(&self, request: Request<v1::StoryRequest>) -> Result<Response<Self::StoryStream>, Status> {
        let request = request.into_inner();
        let told = story::tell(&self.farm, &request.subject, request.limit).await.map_err(status)?;
        let messages = told.map_err(status).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(messages.boxed()))
    }
}
