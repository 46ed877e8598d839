//! A list's rows go to the coordinator in batches, never all in memory.

use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::{JobSpec, Seal, SubmitJobRequest, SubmitJobResponse};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::spool::Spool;
use super::{blocking, taken};
use crate::error::{Error, Exit};

/// Batches under way.
const BATCHES: usize = 4;

/// Streams the job to the coordinator, and waits for its answer.
pub async fn send(
    client: &mut JobServiceClient<Channel>,
    spool: Spool,
    spec: JobSpec,
) -> Result<SubmitJobResponse, Error> {
    let (sender, receiver) = mpsc::channel(BATCHES);
    let pipe = Pipe { sender, answered: CancellationToken::new(), runtime: Handle::current() };
    let answered = pipe.answered.clone();
    let sent = spec.clone();
    let feed = blocking(move || feed(spool, sent, &pipe));
    let call = async {
        let answer = client.submit_job(ReceiverStream::new(receiver)).await;
        answered.cancel();
        answer
    };
    let (fed, answer) = tokio::join!(feed, call);
    // What went wrong here explains the error of the call, which missed its seal.
    fed??;
    let status = match answer {
        Ok(answer) => return Ok(answer.into_inner()),
        Err(status) => status,
    };
    if let Some(error) = taken::explain(client, &status, &spec).await {
        return Err(error);
    }
    let error = Error::call("submit the job", &status);
    if error.exit != Exit::Failure {
        return Err(error);
    }
    // It may be in although no answer came.
    Err(error.hint("run the same command again: a job that is in already is found, not made twice"))
}

/// Where the reading thread puts what is to be sent.
pub struct Pipe {
    /// The request stream of the call.
    pub sender: mpsc::Sender<SubmitJobRequest>,
    /// Cancelled when the call was answered: an answer before the seal leaves the stream open and unread,
    /// and whoever waits for room in it would wait for ever.
    pub answered: CancellationToken,
    /// Where the waiting is done.
    pub runtime: Handle,
}

impl Pipe {
    /// Waits for room and sends; false when nobody wants more.
    fn send(&self, part: Part) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                sent = self.sender.send(SubmitJobRequest { part: Some(part) }) => sent.is_ok(),
                () = self.answered.cancelled() => false,
            }
        })
    }
}

/// Sends spec, batches and seal. Ends early, and well, when the coordinator needs no more.
pub fn feed(mut spool: Spool, spec: JobSpec, pipe: &Pipe) -> Result<(), Error> {
    if !pipe.send(Part::Spec(spec)) {
        return Ok(());
    }
    for batch in spool.batches()? {
        if !pipe.send(Part::Batch(batch?)) {
            return Ok(());
        }
    }
    pipe.send(Part::Seal(Seal { rows: spool.rows }));
    Ok(())
}
