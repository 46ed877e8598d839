//! The columns of the manifest: DiffusionDB's names first, then ours.

use super::line::Line;
use crate::store::records::{Job, ResultRecord};

/// What a column holds. All columns may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Real,
    /// Milliseconds since 1970 in UTC.
    Time,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Text(String),
    Integer(i64),
    Real(f64),
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

/// A column that every manifest has.
pub(super) struct Column {
    pub name: &'static str,
    pub kind: Kind,
    pub value: fn(&Job, &Line) -> Value,
}

const fn column(name: &'static str, kind: Kind, value: fn(&Job, &Line) -> Value) -> Column {
    Column { name, kind, value }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Stored integers are never above `i64::MAX`.
fn integer(value: u64) -> Value {
    i64::try_from(value).map_or(Value::Null, Value::Integer)
}

fn unknown(_: &Job, _: &Line) -> Value {
    Value::Null
}

fn of_result(line: &Line, value: impl Fn(&ResultRecord) -> Value) -> Value {
    line.row.image.result.as_ref().map_or(Value::Null, value)
}

fn of_done(line: &Line, value: impl Fn(&ResultRecord) -> Value) -> Value {
    of_result(line, |result| if result.error.is_some() { Value::Null } else { value(result) })
}

/// In order.
pub(super) const COLUMNS: &[Column] = &[
    column("image_name", Kind::Text, |_, l| text(&l.row.image.object)),
    column("prompt", Kind::Text, |_, l| text(&l.row.image.prompt)),
    column("part_id", Kind::Integer, unknown),
    column("seed", Kind::Integer, |_, l| integer(l.row.image.seed)),
    column("step", Kind::Integer, |_, l| integer(l.row.image.settings.steps.into())),
    column("cfg", Kind::Real, |_, l| Value::Real(l.row.image.settings.guidance)),
    column("sampler", Kind::Integer, unknown),
    column("width", Kind::Integer, |_, l| integer(l.row.image.settings.width.into())),
    column("height", Kind::Integer, |_, l| integer(l.row.image.settings.height.into())),
    column("user_name", Kind::Text, |j, _| if j.owner.is_empty() { Value::Null } else { text(&j.owner) }),
    column("timestamp", Kind::Time, |_, l| of_result(l, |r| Value::Integer(r.finished_at.as_millisecond()))),
    column("image_nsfw", Kind::Real, unknown),
    column("prompt_nsfw", Kind::Real, unknown),
    column("index", Kind::Integer, |_, l| integer(l.row.image.index)),
    column("state", Kind::Text, |_, l| text(l.row.image.state.word())),
    column("negative_prompt", Kind::Text, |_, l| text(&l.row.image.negative_prompt)),
    column("model", Kind::Text, |j, _| text(&j.model)),
    column("weights_sha256", Kind::Text, |_, l| l.recipe_text("weights_sha256").into()),
    column("dtype", Kind::Text, |_, l| l.recipe_text("dtype").into()),
    column("decode", Kind::Text, |_, l| text(l.row.image.settings.decode.word())),
    column("sha256", Kind::Text, |_, l| of_result(l, |r| r.sha256.clone().into())),
    column("bytes", Kind::Integer, |_, l| of_result(l, |r| r.bytes.map_or(Value::Null, integer))),
    column("job_id", Kind::Text, |j, _| text(j.id.as_str())),
    column("shard_id", Kind::Text, |_, l| of_result(l, |r| text(r.shard.as_str()))),
    column("attempt", Kind::Integer, |_, l| of_result(l, |r| integer(r.attempt.into()))),
    column("worker", Kind::Text, |_, l| of_result(l, |r| text(&r.worker))),
    column("device", Kind::Text, |_, l| of_result(l, |r| text(&r.device))),
    column("render_seconds", Kind::Real, |_, l| of_done(l, |r| Value::Real(r.render_seconds))),
    column("decode_seconds", Kind::Real, |_, l| of_done(l, |r| Value::Real(r.decode_seconds))),
    column("error_class", Kind::Text, |_, l| {
        of_result(l, |r| r.error.as_ref().map_or(Value::Null, |(class, _)| text(class.word())))
    }),
    column("error", Kind::Text, |_, l| {
        of_result(l, |r| r.error.as_ref().map_or(Value::Null, |(_, error)| text(error)))
    }),
    column("id", Kind::Text, |_, l| l.row.prompt_id.clone().into()),
    column("line", Kind::Integer, |_, l| integer(l.row.line)),
    column("format", Kind::Text, |j, _| text(j.form.format.word())),
    column("archive", Kind::Text, |_, l| of_done(l, |r| r.archive.clone().into())),
    column("thumbnail", Kind::Text, |_, l| l.row.image.thumbnail.clone().into()),
    column("entropy", Kind::Real, |_, l| {
        of_done(l, |r| r.quality.map_or(Value::Null, |q| Value::Real(q.entropy)))
    }),
    column("clipped", Kind::Real, |_, l| {
        of_done(l, |r| r.quality.map_or(Value::Null, |q| Value::Real(q.clipped)))
    }),
];
