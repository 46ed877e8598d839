//! Workers that are asked to leave, over the wire.

use std::time::Duration;

use sanafarm_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::support::{Farm, farm, row};

impl Farm {
    /// Follows as a session does; its first message is on its way.
    async fn follow(&mut self, session: &str) -> (mpsc::Sender<v1::Progress>, Streaming<v1::Notice>) {
        let (tell, told) = mpsc::channel(4);
        let progress =
            v1::Progress { session_id: session.to_owned(), worker: "w1".to_owned(), ..Default::default() };
        tell.send(progress).await.unwrap();
        let notices = self.workers.follow(ReceiverStream::new(told)).await.unwrap().into_inner();
        (tell, notices)
    }

    async fn drain(
        &mut self,
        worker: &str,
        drain: v1::Drain,
    ) -> Result<Vec<v1::PresentWorker>, tonic::Status> {
        let by = v1::By { actor: "ann".to_owned(), reason: "an update".to_owned() };
        let request = v1::DrainWorkerRequest { worker: worker.to_owned(), drain: drain.into(), by: Some(by) };
        Ok(self.jobs.drain_worker(request).await?.into_inner().workers)
    }
}

#[tokio::test]
async fn a_session_that_is_asked_to_leave_is_told_at_once_and_the_others_are_not() {
    let mut farm = farm().await;
    farm.submit("a", (1..=3).map(row).collect()).await;
    let (asked, other) = (farm.session().await, farm.session().await);
    let (_tell, mut notices) = farm.follow(&asked).await;
    let (_other_tell, mut other_notices) = farm.follow(&other).await;
    // Hints go to whoever has said who it is: asked again until they are heard.
    let notice = loop {
        let told = farm.drain(&asked, v1::Drain::Now).await.unwrap();
        assert_eq!(
            (told.len(), told[0].session_id.as_str(), told[0].drain()),
            (1, asked.as_str(), v1::Drain::Now)
        );
        if let Ok(notice) = tokio::time::timeout(Duration::from_millis(200), notices.message()).await {
            break notice.unwrap().unwrap();
        }
    };
    assert_eq!((notice.drain(), notice.ended_job.as_str()), (v1::Drain::Now, ""));
    let heard = tokio::time::timeout(Duration::from_millis(100), other_notices.message()).await;
    assert!(heard.is_err(), "{heard:?}");
    assert_eq!(farm.lease(&asked, Duration::ZERO).await, None);
    assert!(farm.lease(&other, Duration::ZERO).await.is_some());
    let renewal = v1::RenewLeasesRequest { session_id: asked.clone(), ..Default::default() };
    let renewed = farm.workers.renew_leases(renewal).await.unwrap().into_inner();
    assert_eq!(renewed.drain(), v1::Drain::Now);
}

#[tokio::test]
async fn nobody_can_be_drained_who_is_not_there() {
    let mut farm = farm().await;
    let unknown = farm.drain("nobody", v1::Drain::Soon).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "no worker or session nobody"));
    let session = farm.session().await;
    let close = v1::CloseSessionRequest { session_id: session.clone(), reason: "done".to_owned() };
    farm.workers.close_session(close).await.unwrap();
    let gone = farm.drain("w1", v1::Drain::Soon).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::FailedPrecondition, "worker w1 is not connected"));
    let gone = farm.drain(&session, v1::Drain::Soon).await.unwrap_err();
    assert_eq!(gone.message(), format!("session {session} is not connected"));
}

#[tokio::test]
async fn what_a_worker_says_of_itself_is_listed() {
    let mut farm = farm().await;
    let session = farm.session().await;
    let device = v1::DeviceStats { device_id: "cpu".to_owned(), idle: 0.25, batch: 2, ..Default::default() };
    let stats = v1::WorkerStats { devices: vec![device], outbox_images: 7, ..Default::default() };
    let renewal = v1::RenewLeasesRequest {
        session_id: session.clone(),
        stats: Some(stats.clone()),
        leaving: "spot notice".to_owned(),
        ..Default::default()
    };
    farm.workers.renew_leases(renewal).await.unwrap();
    let listed = farm.jobs.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!((listed[0].stats.as_ref(), listed[0].leaving.as_str()), (Some(&stats), "spot notice"));
    assert_eq!(listed[0].drain(), v1::Drain::Unspecified);
}

/// As after a restore of the database: a worker must not take its session for the one that is not known.
#[tokio::test]
async fn results_of_a_shard_that_nobody_knows_are_told_from_an_unknown_session() {
    let mut farm = farm().await;
    farm.submit("a", vec![row(1)]).await;
    let session = farm.session().await;
    let known = farm.lease(&session, Duration::ZERO).await.unwrap();
    let nobodys = "0193a0b0-0000-7000-8000-000000000000".to_owned();
    let reference = v1::LeaseRef { shard_id: nobodys.clone(), attempt: 1 };
    let unknown = v1::Lease { r#ref: Some(reference), ..known.clone() };
    let refused = farm.try_report(&session, &unknown, |_| true).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::OutOfRange, &*format!("no shard {nobodys}")));
    let refused = farm.try_report(&nobodys, &known, |_| true).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, &*format!("no session {nobodys}")));
}
