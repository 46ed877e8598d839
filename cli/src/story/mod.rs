//! The story of a job, an image or a worker as the user reads it.
//!
//! - `words`: an event as a sentence
//! - `runs`: events of one sort that follow each other, as one line
//! - `ends`: the first and the last lines

mod ends;
mod runs;
#[cfg(test)]
mod tests;
mod words;

use sanafarm_proto::v1::Event;
use serde_json::{Map, Value, json};

use crate::job_view::time_json;

pub use ends::{closing, heading, older};
pub use runs::Runs;
pub use words::{Words, when};

/// An event as one JSON object.
pub fn event_json(event: &Event, words: Words) -> Value {
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    let detail: Value = serde_json::from_str(&event.detail).unwrap_or_else(|_| json!(event.detail));
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| object.insert(name.to_owned(), value);
    add("seq", if event.seq == 0 { Value::Null } else { json!(event.seq) });
    add("at", time_json(event.at.as_ref()));
    add("kind", json!(event.kind));
    add("text", json!(words.sentence(event)));
    add("job_id", text(&event.job_id));
    add("image_index", json!(event.image_index));
    add("shard_id", text(&event.shard_id));
    add("first_index", json!(event.range.map(|range| range.first_index)));
    add("last_index", json!(event.range.map(|range| range.last_index)));
    add("images", json!(event.range.map(|range| range.images)));
    add("attempt", json!(event.attempt));
    add("session_id", text(&event.session_id));
    add("worker", text(&event.worker));
    add("actor", text(&event.actor));
    add("reason", text(&event.reason));
    add("detail", detail);
    Value::Object(object)
}
