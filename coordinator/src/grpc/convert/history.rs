//! Answers to SQL, and stories.

use sanafarm_proto::v1;

use super::timestamp;
use super::worker::device_message;
use crate::store::records::{Answer, AttemptLog, Cell, EventRecord, OfWorker};

pub(in crate::grpc) fn answer_message(answer: Answer) -> v1::QueryResponse {
    let part = match answer {
        Answer::Columns(names) => v1::query_response::Part::Columns(v1::Columns { names }),
        Answer::Rows(rows) => {
            let rows = rows
                .into_iter()
                .map(|cells| v1::Row { cells: cells.into_iter().map(cell_message).collect() })
                .collect();
            v1::query_response::Part::Rows(v1::Rows { rows })
        }
    };
    v1::QueryResponse { part: Some(part) }
}

fn cell_message(cell: Cell) -> v1::Cell {
    let value = match cell {
        Cell::Null => None,
        Cell::Integer(number) => Some(v1::cell::Value::Integer(number)),
        Cell::Real(number) => Some(v1::cell::Value::Real(number)),
        Cell::Text(text) => Some(v1::cell::Value::Text(text)),
        Cell::Blob(bytes) => Some(v1::cell::Value::Blob(bytes)),
    };
    v1::Cell { value }
}

pub(in crate::grpc) fn story_worker(of: &OfWorker) -> v1::StoryWorker {
    let session_id = of.session.clone().map(String::from).unwrap_or_default();
    v1::StoryWorker { worker: of.worker.clone(), session_id }
}

pub(in crate::grpc) fn log_message(log: AttemptLog) -> v1::AttemptLog {
    v1::AttemptLog {
        attempt: log.attempt,
        session_id: log.session.map(String::from).unwrap_or_default(),
        worker: log.worker,
        device_id: log.device,
        at: Some(timestamp(log.at)),
        log: log.log,
    }
}

pub(in crate::grpc) fn event_message(event: EventRecord) -> v1::Event {
    v1::Event {
        seq: event.seq,
        at: Some(timestamp(event.at)),
        kind: event.kind,
        job_id: event.job.map(String::from).unwrap_or_default(),
        shard_id: event.shard.map(String::from).unwrap_or_default(),
        range: event.range.map(|range| v1::ShardRange {
            first_index: range.first,
            last_index: range.last,
            images: range.images,
        }),
        image_index: event.index,
        attempt: event.attempt,
        session_id: event.session.map(String::from).unwrap_or_default(),
        worker: event.worker,
        devices: event.devices.into_iter().map(device_message).collect(),
        detail: event.detail,
        actor: event.actor,
        reason: event.reason,
    }
}
