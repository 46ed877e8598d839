//! The second reading of a list: its rows go to the coordinator in batches, never all in memory.

use prost::Message;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::submit_job_request::Part;
use sanafarm_proto::v1::{JobSpec, PromptBatch, PromptRow, Seal, SubmitJobRequest, SubmitJobResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::blocking;
use super::selection::{Selection, Taken};
use super::survey::{ContentHash, Survey, list_error};
use crate::error::Error;
use crate::prompts::PromptList;

/// Rows of a batch.
const BATCH_ROWS: usize = 1000;
/// A batch is sent when its rows weigh this much. With the longest row on top it stays far below the
/// 4 MiB that gRPC takes by default.
const BATCH_BYTES: usize = 1 << 20;
/// Batches under way.
const BATCHES: usize = 4;

/// Streams the job to the coordinator.
pub async fn send(
    client: &mut JobServiceClient<Channel>,
    list: PromptList,
    selection: Selection,
    survey: &Survey,
    spec: JobSpec,
) -> Result<SubmitJobResponse, Error> {
    let (sender, receiver) = mpsc::channel(BATCHES);
    let (rows, sha256) = (survey.rows, survey.content_sha256.clone());
    let feed = blocking(move || feed(&list, &selection, spec, rows, &sha256, &sender));
    let call = client.submit_job(ReceiverStream::new(receiver));
    let (fed, answer) = tokio::join!(feed, call);
    // What is wrong with the list explains the error of the call, which missed its seal.
    fed??;
    Ok(answer.map_err(|status| Error::call("submit the job", &status))?.into_inner())
}

/// Sends spec, batches and seal. Ends early, and well, when the coordinator needs no more.
fn feed(
    list: &PromptList,
    selection: &Selection,
    spec: JobSpec,
    rows: u64,
    sha256: &str,
    sender: &mpsc::Sender<SubmitJobRequest>,
) -> Result<(), Error> {
    let send = |part| sender.blocking_send(SubmitJobRequest { part: Some(part) }).is_ok();
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
    if hash.rows() != rows || hash.finish() != sha256 {
        return Err(Error::mistake(format!("{}: changed while it was being read", list.name()))
            .hint("nothing was started; run the command again when the list is whole"));
    }
    send(Part::Seal(Seal { rows }));
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
