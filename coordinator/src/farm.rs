//! What calls and duties share.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use sanafarm_telemetry::coordinator::COMMIT_SECONDS;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{AuthFailures, Lookups, Tokens, lookups};
use crate::batch::Batcher;
use crate::demand::Demands;
use crate::dispatch::Dispatcher;
use crate::grpc::{Outputs, SessionWorkers};
use crate::live::Live;
use crate::options::Options;
use crate::store::Store;
use crate::store::records::{Renewal, Renewed, Report, Reported};

/// Reports in one call of the store: some thousand images.
const MOST_REPORTS: usize = 64;
/// Renewals in one call of the store.
const MOST_RENEWALS: usize = 1024;

/// One coordinator from the inside.
#[derive(Debug)]
pub(crate) struct Farm {
    pub store: Arc<dyn Store>,
    pub live: Live,
    /// Hands out shards.
    pub dispatcher: Dispatcher,
    /// Results on their way into the store.
    pub reports: Batcher<Report, Reported>,
    /// Signs of life on their way into the store.
    pub renewals: Batcher<Renewal, Renewed>,
    /// What workers could do, as it was seen last.
    pub demands: Demands,
    /// Outputs that URLs are signed for.
    pub outputs: Outputs,
    /// Workers of sessions that callers of one worker spoke for.
    pub sessions: SessionWorkers,
    /// Those in use.
    pub tokens: Arc<Tokens>,
    /// Those that are not, on their way out of the store.
    pub token_lookups: Lookups,
    /// Callers that were turned away.
    pub auth_failures: Arc<AuthFailures>,
    pub options: Options,
    /// Duties, submissions and connections inside the process; all of them end after `stop`.
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl Farm {
    pub fn new(store: Arc<dyn Store>, options: Options) -> Self {
        let (live, tasks, stop) = (Live::new(), TaskTracker::new(), CancellationToken::new());
        let (lease_duration, caps) = (options.lease_duration, options.caps());
        let dispatcher =
            Dispatcher::start(&tasks, stop.clone(), Arc::clone(&store), live.watch_ready(), lease_duration);
        let to = Arc::clone(&store);
        let reports = Batcher::start(&tasks, stop.clone(), MOST_REPORTS, move |reports: Arc<[Report]>| {
            let store = Arc::clone(&to);
            async move {
                let start = Instant::now();
                let answers = store.report_results(&reports, caps, store.clock()).await;
                metrics::histogram!(COMMIT_SECONDS).record(start.elapsed());
                answers
            }
            .boxed()
        });
        let to = Arc::clone(&store);
        let renewals =
            Batcher::start(&tasks, stop.clone(), MOST_RENEWALS, move |renewals: Arc<[Renewal]>| {
                let store = Arc::clone(&to);
                async move { store.renew_leases(&renewals, lease_duration, store.clock()).await }.boxed()
            });
        let token_lookups = lookups(&tasks, stop.clone(), Arc::clone(&store));
        let (demands, outputs, sessions) =
            (Demands::default(), Outputs::default(), SessionWorkers::default());
        let (tokens, auth_failures) = (Arc::default(), Arc::default());
        Self {
            store,
            live,
            dispatcher,
            reports,
            renewals,
            demands,
            outputs,
            sessions,
            tokens,
            token_lookups,
            auth_failures,
            options,
            tasks,
            stop,
        }
    }
}
