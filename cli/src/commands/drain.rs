//! `sanafarm drain`: ask a worker to leave.

use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{Drain, DrainWorkerRequest, PresentWorker};
use tonic::Code;

use super::change::by;
use super::workers::worker_json;
use crate::args::DrainArgs;
use crate::connect::{Connection, Place};
use crate::error::{Error, Exit};
use crate::printer::Printer;
use crate::printer::amounts::counted;

/// Asks it and tells which sessions were asked.
pub async fn run(args: DrainArgs, printer: &Printer) -> Result<Exit, Error> {
    let connection =
        Connection::farm(Place { coordinator: args.coordinator, data: None, access: args.access.into() })
            .await?;
    let mut client = JobServiceClient::new(connection.channel.clone());
    let drain = if args.now { Drain::Now } else { Drain::Soon };
    let request =
        DrainWorkerRequest { worker: args.worker.clone(), drain: drain.into(), by: Some(by(args.reason)) };
    let answer = client.drain_worker(request).await.map_err(|status| {
        let error = Error::call(format!("drain {}", args.worker), &status);
        match status.code() {
            Code::NotFound | Code::FailedPrecondition => {
                error.hint("`sanafarm workers` lists those that are connected")
            }
            Code::Unimplemented => error.hint("the coordinator is older than this program"),
            _ => error,
        }
    })?;
    for worker in answer.into_inner().workers {
        match args.json {
            true => printer.data(worker_json(&worker))?,
            false => printer.data(sentence(&worker, drain))?,
        }
    }
    drop(client);
    connection.close().await;
    Ok(Exit::Success)
}

fn sentence(worker: &PresentWorker, drain: Drain) -> String {
    let when = match drain {
        Drain::Now => "at once",
        Drain::Soon | Drain::Unspecified => "when its image in hand is finished",
    };
    let held = counted(worker.leases.len() as u64, "lease");
    format!("{} (session {}) is asked to leave {when}; it holds {held}", worker.worker, worker.session_id)
}
