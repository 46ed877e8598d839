//! The second reading of a list: its rows go to the coordinator in batches, never all in memory.

use prost::Message;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::{JobSpec, PromptBatch, PromptRow, Seal, SubmitJobRequest, SubmitJobResponse};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::blocking;
use super::selection::{Selection, Taken};
use super::survey::{ContentHash, Skipped, Survey, list_error};
use crate::error::Error;
use crate::prompts::PromptList;

/// Rows of a batch.
const BATCH_ROWS: usize = 1000;
/// A batch is sent when its rows weigh this much. With the longest row on top it stays far below the
/// 4 MiB that gRPC takes by default.
const BATCH_BYTES: usize = 1 << 20;
/// Batches under way.
const BATCHES: usize = 4;

/// Streams the job to the coordinator. Its answer, and the lines that were left out.
pub async fn send(
    client: &mut JobServiceClient<Channel>,
    list: PromptList,
    selection: Selection,
    survey: Survey,
    spec: JobSpec,
) -> Result<(SubmitJobResponse, Skipped), Error> {
    let (sender, receiver) = mpsc::channel(BATCHES);
    let pipe = Pipe { sender, answered: CancellationToken::new(), runtime: Handle::current() };
    let answered = pipe.answered.clone();
    let feed = blocking(move || feed(&list, &selection, spec, &survey, &pipe).map(|()| survey.skipped));
    let call = async {
        let answer = client.submit_job(ReceiverStream::new(receiver)).await;
        answered.cancel();
        answer
    };
    let (fed, answer) = tokio::join!(feed, call);
    // What is wrong with the list explains the error of the call, which missed its seal.
    let skipped = fed??;
    let answer = answer.map_err(|status| Error::call("submit the job", &status))?;
    Ok((answer.into_inner(), skipped))
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
pub fn feed(
    list: &PromptList,
    selection: &Selection,
    spec: JobSpec,
    survey: &Survey,
    pipe: &Pipe,
) -> Result<(), Error> {
    let send = |part| pipe.send(part);
    if !send(Part::Spec(spec)) {
        return Ok(());
    }
    let mut hash = ContentHash::default();
    let mut batch = Batch::default();
    for taken in selection.rows(list).map_err(|error| list_error(&error))? {
        match taken.map_err(|error| list_error(&error))? {
            Taken::Row(row) => {
                hash.add(row.clone());
                batch.add(row);
            }
            Taken::Skipped(_) => {}
        }
        if batch.is_full() && !send(Part::Batch(batch.take())) {
            return Ok(());
        }
    }
    if !batch.rows.is_empty() && !send(Part::Batch(batch.take())) {
        return Ok(());
    }
    if hash.rows() != survey.rows || hash.finish() != survey.content_sha256 {
        return Err(Error::mistake(format!("{}: changed while it was being read", list.name()))
            .hint("nothing was started; run the command again when the list is whole"));
    }
    send(Part::Seal(Seal { rows: survey.rows }));
    Ok(())
}

#[derive(Default)]
struct Batch {
    rows: Vec<PromptRow>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, row: PromptRow) {
        self.bytes += row.encoded_len();
        self.rows.push(row);
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> PromptBatch {
        self.bytes = 0;
        PromptBatch { rows: std::mem::take(&mut self.rows) }
    }
}
