//! Telling the coordinator what the engine does, and hearing at once when a job has ended
//! or the worker is asked to leave. Hints in both directions: the
//! work goes on without them.

use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1::Progress;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::Activity;
use crate::leases::Leases;
use crate::leave::Leave;
use crate::retry::Backoff;
use crate::session::Session;

/// Least time between two messages.
const GAP: Duration = Duration::from_secs(1);
/// Waits between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Follows until it is dropped.
pub(crate) async fn follow(
    session: Session,
    activity: watch::Receiver<Vec<Activity>>,
    leases: Arc<Leases>,
    leave: Arc<Leave>,
) {
    let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let ended = converse(&session, activity.clone(), &leases, &leave, &mut pauses).await;
        tracing::debug!(?ended, "the coordinator does not follow");
        sleep(pauses.wait()).await;
    }
}

async fn converse(
    session: &Session,
    mut activity: watch::Receiver<Vec<Activity>>,
    leases: &Leases,
    leave: &Leave,
    pauses: &mut Backoff,
) -> Result<(), Status> {
    let (tell, told) = mpsc::channel(1);
    let mut notices = session.follow(ReceiverStream::new(told)).await?;
    *pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let telling = async {
        loop {
            // One device speaks for all.
            let now = activity.borrow_and_update().iter().find(|device| !device.stage.is_empty()).cloned();
            if tell.send(session.progress(now.unwrap_or_default())).await.is_err() {
                return;
            }
            sleep(GAP).await;
            // The engine has ended with its sender.
            if activity.changed().await.is_err() {
                return;
            }
        }
    };
    let listening = async {
        while let Some(notice) = notices.next().await {
            let notice = notice?;
            leave.asked(notice.drain(), "the coordinator asked");
            if !notice.ended_job.is_empty() {
                leases.job_ended(&notice.ended_job);
            }
        }
        Ok(())
    };
    tokio::select! {
        () = telling => Ok(()),
        ended = listening => ended,
    }
}

impl Session {
    /// What the engine does, as the coordinator is told.
    fn progress(&self, activity: Activity) -> Progress {
        Progress {
            session_id: self.id(),
            worker: self.worker().to_owned(),
            job_id: activity.job,
            index: activity.index,
            stage: activity.stage.to_owned(),
            step: activity.step,
            steps: activity.steps,
        }
    }
}
