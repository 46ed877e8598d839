//! `sanafarm logs`: what workers logged about an image.

use sanafarm_proto::v1::history_service_client::HistoryServiceClient;
use sanafarm_proto::v1::{AttemptLog, GetLogsRequest};
use serde_json::{Value, json};
use tonic::Code;

use crate::args::LogsArgs;
use crate::connect::Connection;
use crate::error::{Error, Exit};
use crate::job_view::time_json;
use crate::printer::{Printer, one_line};
use crate::story::when;

/// Prints the log of each attempt as it comes.
pub async fn run(args: LogsArgs, printer: &Printer) -> Result<Exit, Error> {
    let (job, index) = args.image;
    let connection = Connection::reading(args.place.into()).await?;
    let mut client = HistoryServiceClient::new(connection.channel.clone());
    let failed = |status: tonic::Status| {
        let error = Error::call(format!("print the logs of {job}/{index}"), &status);
        match status.code() {
            Code::NotFound => {
                error.hint("`sanafarm jobs` lists jobs, `sanafarm images JOB` the images of one")
            }
            Code::Unimplemented => error.hint("the coordinator is older than this program"),
            _ => error,
        }
    };
    let request = GetLogsRequest { job_id: job.clone(), index, attempt: args.attempt };
    let mut logs = client.get_logs(request).await.map_err(failed)?.into_inner();
    let mut attempts = 0;
    while let Some(log) = logs.message().await.map_err(failed)? {
        if args.json {
            printer.data(log_json(&log))?;
        } else {
            lines(&log).into_iter().try_for_each(|line| printer.data(line))?;
        }
        attempts += 1;
    }
    if attempts == 0 {
        let which = args.attempt.map(|attempt| format!(" in attempt {attempt}")).unwrap_or_default();
        printer.note(format!("nothing was logged about image {index} of job {job}{which}"));
    }
    drop((client, logs));
    connection.close().await;
    Ok(Exit::Success)
}

/// A heading and what was logged, as no terminal can be steered by it.
fn lines(log: &AttemptLog) -> Vec<String> {
    let worker = if log.worker.is_empty() { "an unknown worker" } else { &log.worker };
    let heading =
        format!("attempt {} on {worker}, {}, {}", log.attempt, log.device_id, when(log.at.as_ref()));
    std::iter::once(one_line(&heading))
        .chain(log.log.lines().map(|line| format!("  {}", one_line(line))))
        .collect()
}

fn log_json(log: &AttemptLog) -> Value {
    json!({
        "attempt": log.attempt,
        "worker": if log.worker.is_empty() { Value::Null } else { json!(log.worker) },
        "session_id": if log.session_id.is_empty() { Value::Null } else { json!(log.session_id) },
        "device": log.device_id,
        "at": time_json(log.at.as_ref()),
        "log": log.log,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_cannot_steer_the_terminal() {
        let log = AttemptLog {
            attempt: 2,
            device_id: "cpu".to_owned(),
            at: Some(prost_types::Timestamp { seconds: 1_795_402_020, nanos: 0 }),
            log: "one\n\u{1b}[31mtwo\n".to_owned(),
            ..AttemptLog::default()
        };
        let told =
            ["attempt 2 on an unknown worker, cpu, 2026-11-23 02:47:00 UTC", "  one", r"  \u{1b}[31mtwo"];
        assert_eq!(lines(&log), told);
    }
}
