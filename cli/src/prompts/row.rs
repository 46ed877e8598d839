//! One row: which value goes where, and what every row must keep to.

use sanafarm_proto::v1::PromptRow;

use super::columns::Field;
use super::limits::{GUIDANCE, MAX_EXTRA, MAX_ID, MAX_PROMPT, SEED, SIDE, STEPS};
use super::value::Value;

/// Puts a value where `field` says; `column` is the name that the user sees.
pub fn set(row: &mut PromptRow, field: Field, column: &str, value: Value<'_>) -> Result<(), String> {
    match field {
        Field::Prompt => row.prompt = value.text(column)?.unwrap_or_default(),
        Field::NegativePrompt => row.negative_prompt = value.text(column)?,
        Field::Seed => row.seed = value.whole(column, SEED)?,
        Field::Width => row.width = value.whole(column, SIDE)?.map(small),
        Field::Height => row.height = value.whole(column, SIDE)?.map(small),
        Field::Steps => row.steps = value.whole(column, STEPS)?.map(small),
        Field::Guidance => row.guidance = value.real(column, GUIDANCE)?,
        Field::Id => row.id = value.id(column)?,
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

/// Ranges above end far below `u32::MAX`.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
