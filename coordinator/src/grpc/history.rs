//! `HistoryService`.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use sanafarm_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::status::status;
use super::story::no_image;
use super::{MessageStream, convert, own, story};
use crate::auth::Principal;
use crate::domain::id::JobId;
use crate::farm::Farm;

/// Longest time that a statement may run.
const QUERY_LIMIT: Duration = Duration::from_secs(60);
/// Logs read from the store at a time.
const LOGS_PAGE: u32 = 20;

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
        Principal::of(&request)?.must_see_all("sql")?;
        let answers = self.farm.store.query(&request.into_inner().sql, QUERY_LIMIT).await.map_err(status)?;
        let stop = self.stop.clone();
        let messages = answers
            .map(|answer| answer.map(convert::answer_message).map_err(status))
            .take_until(stop.cancelled_owned());
        Ok(Response::new(messages.boxed()))
    }

    type StoryStream = MessageStream<v1::StoryResponse>;

    async fn story(&self, request: Request<v1::StoryRequest>) -> Result<Response<Self::StoryStream>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let told = story::tell(&self.farm, &who, &request.subject, request.limit).await.map_err(status)?;
        let messages = told.map_err(status).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(messages.boxed()))
    }

    type GetLogsStream = MessageStream<v1::AttemptLog>;

    async fn get_logs(
        &self,
        request: Request<v1::GetLogsRequest>,
    ) -> Result<Response<Self::GetLogsStream>, Status> {
        let who = Principal::of(&request)?;
        let request = request.into_inner();
        let job = own::job(&self.farm, &who, &request.job_id).await?;
        if request.index >= job.images {
            return Err(status(no_image(&job, request.index)));
        }
        let logs = Logs { farm: Arc::clone(&self.farm), job: job.id, index: request.index, after: Some(0) };
        let logs = match request.attempt {
            None => logs,
            Some(attempt) => Logs { after: attempt.checked_sub(1), ..logs },
        };
        let wanted = move |log: &v1::AttemptLog| request.attempt.is_none_or(|attempt| log.attempt == attempt);
        let messages = stream::try_unfold(logs, Logs::step)
            .map_ok(|page| stream::iter(page.into_iter().map(Ok)))
            .try_flatten()
            // They come in order.
            .try_take_while(move |log| std::future::ready(Ok(wanted(log))))
            .take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(messages.boxed()))
    }
}

/// Somebody who reads the logs of an image.
struct Logs {
    farm: Arc<Farm>,
    job: JobId,
    index: u64,
    /// None when there are no more.
    after: Option<u32>,
}

impl Logs {
    async fn step(mut logs: Self) -> Result<Option<(Vec<v1::AttemptLog>, Self)>, Status> {
        let Some(after) = logs.after else { return Ok(None) };
        let page = logs.farm.store.logs(&logs.job, logs.index, after, LOGS_PAGE).await.map_err(status)?;
        logs.after = page.last().filter(|_| page.len() == LOGS_PAGE as usize).map(|last| last.attempt);
        Ok(Some((page.into_iter().map(convert::log_message).collect(), logs)))
    }
}
