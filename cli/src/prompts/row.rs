//! One row: its values, their types and their limits.

use std::ops::RangeInclusive;

use sanafarm_proto::v1::PromptRow;
use serde_json::{Map, Value};

use super::columns::Field;
use super::limits::{GUIDANCE, MAX_EXTRA, MAX_ID, MAX_PROMPT, SEED, SIDE, STEPS};

/// A value as the list gives it.
pub enum Given<'a> {
    /// A cell of a CSV or TSV file: empty means that nothing is given.
    Text(&'a str),
    /// A JSON value: null means that nothing is given.
    Json(&'a Value),
}

/// Puts a value where `field` says; `column` is the name that the user sees.
pub fn set(row: &mut PromptRow, field: Field, column: &str, given: &Given<'_>) -> Result<(), String> {
    match field {
        Field::Prompt => row.prompt = given.text(column)?.unwrap_or_default(),
        Field::NegativePrompt => row.negative_prompt = given.text(column)?,
        Field::Seed => row.seed = given.whole(column, SEED)?,
        Field::Width => row.width = given.whole(column, SIDE)?.map(small),
        Field::Height => row.height = given.whole(column, SIDE)?.map(small),
        Field::Steps => row.steps = given.whole(column, STEPS)?.map(small),
        Field::Guidance => row.guidance = given.real(column, GUIDANCE)?,
        Field::Id => row.id = given.id(column)?,
    }
    Ok(())
}

/// Checks what holds for every row, whatever it was read from.
pub fn check(row: &PromptRow) -> Result<(), String> {
    if row.prompt.trim().is_empty() {
        return Err("empty prompt".to_owned());
    }
    let texts = [
        ("prompt", row.prompt.as_str(), MAX_PROMPT),
        ("negative prompt", row.negative_prompt.as_deref().unwrap_or_default(), MAX_PROMPT),
        ("id", row.id.as_deref().unwrap_or_default(), MAX_ID),
        ("pass-through columns", row.extra.as_str(), MAX_EXTRA),
    ];
    for (name, text, limit) in texts {
        if text.len() > limit {
            return Err(format!("{name} longer than {} KiB", limit / 1024));
        }
        if text.contains('\0') {
            return Err(format!("{name} holds a NUL character"));
        }
    }
    Ok(())
}

/// The passed-through columns as JSON text; empty for none.
pub fn extra_text(extra: Map<String, Value>) -> String {
    if extra.is_empty() { String::new() } else { Value::Object(extra).to_string() }
}

/// What a JSON value is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Given<'_> {
    fn text(&self, column: &str) -> Result<Option<String>, String> {
        match self {
            Self::Text(text) => Ok(filled(text).then(|| (*text).to_owned())),
            Self::Json(Value::Null) => Ok(None),
            Self::Json(Value::String(text)) => Ok(Some(text.clone())),
            Self::Json(other) => Err(format!("`{column}` is {}, expected a string", kind(other))),
        }
    }

    /// Names may be numbers: many lists count their rows.
    fn id(&self, column: &str) -> Result<Option<String>, String> {
        match self {
            Self::Json(Value::Number(number)) => Ok(Some(number.to_string())),
            Self::Text(_) | Self::Json(_) => self.text(column),
        }
    }

    fn whole(&self, column: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
        let number = match self {
            Self::Text(text) if !filled(text) => return Ok(None),
            Self::Json(Value::Null) => return Ok(None),
            Self::Text(text) => {
                let text = text.trim();
                text.parse::<u64>().ok().or_else(|| text.parse::<f64>().ok().and_then(whole_number))
            }
            Self::Json(Value::Number(number)) => {
                number.as_u64().or_else(|| number.as_f64().and_then(whole_number))
            }
            Self::Json(other) => {
                return Err(format!("`{column}` is {}, expected a whole number", kind(other)));
            }
        };
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(_) | None => Err(format!(
                "`{column}` is {self}, expected a whole number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    fn real(&self, column: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, String> {
        let number = match self {
            Self::Text(text) if !filled(text) => return Ok(None),
            Self::Json(Value::Null) => return Ok(None),
            Self::Text(text) => text.trim().parse::<f64>().ok(),
            Self::Json(Value::Number(number)) => number.as_f64(),
            Self::Json(other) => return Err(format!("`{column}` is {}, expected a number", kind(other))),
        };
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(_) | None => Err(format!(
                "`{column}` is {self}, expected a number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }
}

impl std::fmt::Display for Given<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(formatter, "`{}`", text.trim()),
            Self::Json(value) => write!(formatter, "{value}"),
        }
    }
}

fn filled(text: &str) -> bool {
    !text.trim().is_empty()
}

/// Spreadsheets and data frames write 512 as 512.0.
fn whole_number(number: f64) -> Option<u64> {
    let exact = number.fract() == 0.0 && (0.0..9e15).contains(&number);
    exact.then_some(number as u64)
}

/// Ranges above end far below `u32::MAX`.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
