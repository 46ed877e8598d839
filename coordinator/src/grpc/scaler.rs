//! KEDA's external scaler: how much there is to do for workers of one sort.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use sanafarm_proto::externalscaler::external_scaler_server::ExternalScaler;
use sanafarm_proto::externalscaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::status::status;
use super::{MessageStream, convert};
use crate::auth::Principal;
use crate::demand::FRESH;
use crate::domain::scaling::WorkerSort;
use crate::farm::Farm;
use crate::store::records::Demand;

/// The one metric.
const METRIC: &str = "backlog-device-seconds";
/// It is that of the jobs of all owners.
const BACKLOG: &str = "the backlog";
/// While nothing is to do and no hint comes, it is looked this often.
const LOOK: Duration = Duration::from_secs(5);

/// The backlog for autoscalers.
#[derive(Clone, Debug)]
pub(super) struct Scaler {
    pub farm: Arc<Farm>,
    /// Ends calls that wait.
    pub stop: CancellationToken,
}

/// What a scaled object is for.
fn sort(object: &ScaledObjectRef) -> Result<WorkerSort, Status> {
    let metadata = object.scaler_metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    WorkerSort::parse(metadata).map_err(|invalid| Status::invalid_argument(invalid.to_string()))
}

fn specs(sort: &WorkerSort) -> GetMetricSpecResponse {
    let target = sort.target_seconds;
    let spec = MetricSpec {
        metric_name: METRIC.to_owned(),
        target_size: target.ceil() as i64,
        target_size_float: target,
    };
    GetMetricSpecResponse { metric_specs: vec![spec] }
}

/// What is left for such workers, as it was a moment ago.
async fn demand(farm: &Farm, sort: &WorkerSort) -> Result<Vec<Demand>, Status> {
    let seen = farm.demands.look(farm.store.as_ref()).await.map_err(status)?;
    Ok(seen.iter().filter(|demand| sort.can_do(&demand.model, &demand.needs)).cloned().collect())
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        Principal::of(&request)?.must_see_all(BACKLOG)?;
        let result = !demand(&self.farm, &sort(request.get_ref())?).await?.is_empty();
        Ok(Response::new(IsActiveResponse { result }))
    }

    type StreamIsActiveStream = MessageStream<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Principal::of(&request)?.must_see_all(BACKLOG)?;
        let watch = Watch {
            sort: sort(request.get_ref())?,
            ready: self.farm.live.watch_ready(),
            jobs: self.farm.live.watch_jobs(),
            told: None,
            farm: Arc::clone(&self.farm),
            stop: self.stop.clone(),
        };
        Ok(Response::new(stream::unfold(watch, Watch::step).boxed()))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        Ok(Response::new(specs(&sort(request.get_ref())?)))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        Principal::of(&request)?.must_see_all(BACKLOG)?;
        let request = request.into_inner();
        let object = request.scaled_object_ref.ok_or_else(|| convert::missing("scaledObjectRef"))?;
        if request.metric_name != METRIC {
            let text = format!("unknown metric {:?}; there is {METRIC}", request.metric_name);
            return Err(Status::invalid_argument(text));
        }
        let seconds: f64 =
            demand(&self.farm, &sort(&object)?).await?.iter().map(Demand::device_seconds).sum();
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: seconds.ceil() as i64,
            metric_value_float: seconds,
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }

    type StreamMetricSpecStream = MessageStream<GetMetricSpecResponse>;

    /// They follow from the metadata and never change: told once, and the stream stays open.
    async fn stream_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        let first = stream::once(std::future::ready(Ok(specs(&sort(request.get_ref())?))));
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(first.chain(stream::pending()).take_until(stop).boxed()))
    }
}

/// Who is told whether there is anything to do.
struct Watch {
    farm: Arc<Farm>,
    stop: CancellationToken,
    sort: WorkerSort,
    ready: watch::Receiver<()>,
    jobs: watch::Receiver<()>,
    told: Option<bool>,
}

impl Watch {
    /// The next change; none when the coordinator stops.
    async fn step(mut self) -> Option<(Result<IsActiveResponse, Status>, Self)> {
        loop {
            // A hint that comes while the database is asked counts.
            self.ready.borrow_and_update();
            self.jobs.borrow_and_update();
            let demands = &self.farm.demands;
            let seen = tokio::select! {
                () = self.stop.cancelled() => return None,
                seen = demands.look_after(self.farm.store.as_ref(), Instant::now()) => seen,
            };
            let result = match seen {
                Err(error) => return Some((Err(status(error)), self)),
                Ok(seen) => seen.iter().any(|demand| self.sort.can_do(&demand.model, &demand.needs)),
            };
            if self.told != Some(result) {
                self.told = Some(result);
                return Some((Ok(IsActiveResponse { result }), self));
            }
            // While there is work, workers give hints all the time, and its end may be told a moment later.
            let (is_active, look) = (result, if result { FRESH } else { LOOK });
            tokio::select! {
                () = self.stop.cancelled() => return None,
                // The senders live as long as the farm.
                _ = self.ready.changed(), if !is_active => {}
                _ = self.jobs.changed(), if !is_active => {}
                () = tokio::time::sleep(look) => {}
            }
        }
    }
}
