//! What a client submits, and the limits of it.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Invalid;
use super::form::Form;
use super::schedule::Needs;
use super::seed::MAX_SEED;
use super::settings::Settings;
use super::waiting::Wanted;
use super::webhook;

/// Longest prompt or negative prompt, in bytes.
pub const MAX_PROMPT: usize = 16 * 1024;
/// Longest pass-through object of a row, in bytes.
pub const MAX_EXTRA: usize = 64 * 1024;
/// Most images of one row.
pub const MAX_IMAGES_PER_PROMPT: u32 = 1024;
/// Highest priority; the lowest is its negative.
pub const MAX_PRIORITY: i32 = 1000;
/// Most jobs that a job may wait for.
pub const MAX_AFTER: usize = 1000;
/// Most labels that a job may ask for.
const MAX_LABELS: usize = 64;
/// Longest name, owner, model, output, token or row id, in bytes.
const MAX_TEXT: usize = 4096;

/// What a job renders with where a row says nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// Two submissions with one token are one job.
    pub client_token: String,
    /// For people.
    pub name: String,
    /// For people.
    pub owner: String,
    /// A folder as workers see it, or the name of the bundled model.
    pub model: String,
    /// A folder as workers see it, or an object-store URL.
    pub output: String,
    /// Defaults of size and sampling.
    pub settings: Settings,
    /// Default of what not to show.
    pub negative_prompt: String,
    /// Image `index` has seed `seed + index`.
    pub seed: u64,
    /// Copies of each row.
    pub images_per_prompt: u32,
    /// Object name below the output; empty for the default.
    pub name_template: String,
    /// Higher goes first.
    pub priority: i32,
    /// What a worker must have.
    pub needs: Needs,
    /// Jobs that come before it.
    pub after: Vec<Wanted>,
    /// What is not rendered by then is not rendered.
    pub deadline: Option<Timestamp>,
    /// What is written for each image.
    pub form: Form,
    /// Its pictures are added to those of earlier jobs in the output.
    pub append: bool,
    /// Called when it ends.
    pub webhook: Option<String>,
}

impl JobSpec {
    /// Whether a job can be made of this.
    pub fn check(&self) -> Result<(), Invalid> {
        let texts = [
            ("client token", &self.client_token, true),
            ("name", &self.name, false),
            ("owner", &self.owner, false),
            ("model", &self.model, true),
            ("output", &self.output, true),
            ("name template", &self.name_template, false),
        ];
        for (what, text, required) in texts {
            if required && text.is_empty() {
                return Err(Invalid::job(format!("the {what} is empty")));
            }
            check_text(what, text, MAX_TEXT)?;
        }
        check_text("negative prompt", &self.negative_prompt, MAX_PROMPT)?;
        check_seed(self.seed)?;
        if !(1..=MAX_IMAGES_PER_PROMPT).contains(&self.images_per_prompt) {
            return Err(Invalid::job(format!(
                "images per prompt {} is not between 1 and {MAX_IMAGES_PER_PROMPT}",
                self.images_per_prompt
            )));
        }
        check_priority(self.priority)?;
        if self.needs.labels.len() > MAX_LABELS {
            return Err(Invalid::job(format!("the job asks for more than {MAX_LABELS} labels")));
        }
        for (name, value) in &self.needs.labels {
            check_text("label", name, MAX_TEXT)?;
            check_text("label", value, MAX_TEXT)?;
        }
        if self.after.len() > MAX_AFTER {
            return Err(Invalid::job(format!("the job waits for more than {MAX_AFTER} others")));
        }
        for wanted in &self.after {
            check_text("id of a job that it waits for", &wanted.job, MAX_TEXT)?;
        }
        if let Some(url) = &self.webhook {
            check_text("webhook", url, MAX_TEXT)?;
            webhook::parse(url)?;
        }
        self.form.check()?;
        self.settings.check()
    }

    /// Whether there is time left for a job that is submitted now.
    pub fn check_deadline(&self, now: Timestamp) -> Result<(), Invalid> {
        match self.deadline {
            Some(deadline) if deadline <= now => {
                Err(Invalid::job(format!("the deadline {deadline:.0} has passed; give a later one")))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// One row of a prompt list. What is absent comes from the spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// What to show.
    pub prompt: String,
    /// What not to show.
    pub negative_prompt: Option<String>,
    /// Seed of its first copy.
    pub seed: Option<u64>,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Denoising steps.
    pub steps: Option<u32>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// The row's own name.
    pub id: Option<String>,
    /// All other columns as one JSON object; empty for none.
    pub extra: String,
    /// Line in the prompt list, counted from 1.
    pub line: u64,
}

impl Row {
    /// Its pass-through columns, after a check of everything but its settings.
    pub fn check(&self) -> Result<Map<String, Value>, Invalid> {
        if self.prompt.trim().is_empty() {
            return Err(Invalid::job("the prompt is empty"));
        }
        check_text("prompt", &self.prompt, MAX_PROMPT)?;
        if let Some(negative) = &self.negative_prompt {
            check_text("negative prompt", negative, MAX_PROMPT)?;
        }
        if let Some(id) = &self.id {
            check_text("id", id, MAX_TEXT)?;
        }
        if let Some(seed) = self.seed {
            check_seed(seed)?;
        }
        if self.extra.is_empty() {
            return Ok(Map::new());
        }
        check_text("pass-through columns", &self.extra, MAX_EXTRA)?;
        match serde_json::from_str(&self.extra) {
            Ok(Value::Object(columns)) => Ok(columns),
            Ok(_) => Err(Invalid::job("the pass-through columns are no JSON object")),
            Err(error) => Err(Invalid::job(format!("the pass-through columns are no JSON: {error}"))),
        }
    }

    /// Its settings: its own where it has them, else the job's.
    pub fn settings(&self, job: &Settings) -> Settings {
        Settings {
            width: self.width.unwrap_or(job.width),
            height: self.height.unwrap_or(job.height),
            steps: self.steps.unwrap_or(job.steps),
            guidance: self.guidance.unwrap_or(job.guidance),
            bin: job.bin,
            decode: job.decode,
        }
    }
}

fn check_text(what: &str, text: &str, limit: usize) -> Result<(), Invalid> {
    if text.len() > limit {
        return Err(Invalid::job(format!("the {what} has {} bytes; the limit is {limit}", text.len())));
    }
    // Neither SQL text nor a file name nor a PNG chunk can carry it.
    if text.contains('\0') {
        return Err(Invalid::job(format!("the {what} holds a NUL character")));
    }
    Ok(())
}

/// Whether a job may have this priority.
pub fn check_priority(priority: i32) -> Result<(), Invalid> {
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
        return Err(Invalid::job(format!(
            "priority {priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}"
        )));
    }
    Ok(())
}

fn check_seed(seed: u64) -> Result<(), Invalid> {
    if seed > MAX_SEED {
        return Err(Invalid::job(format!("seed {seed} is above {MAX_SEED}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row { prompt: "a cat".to_owned(), line: 1, ..Row::default() }
    }

    #[test]
    fn limits_of_a_row() {
        assert_eq!(row().check(), Ok(Map::new()));
        let columns = Row { extra: r#"{"b":1,"a":"x"}"#.to_owned(), ..row() }.check().unwrap();
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["b", "a"]);
        for wrong in [
            Row { prompt: "  ".to_owned(), ..row() },
            Row { prompt: "x".repeat(MAX_PROMPT + 1), ..row() },
            Row { prompt: "a\0b".to_owned(), ..row() },
            Row { extra: "[1]".to_owned(), ..row() },
            Row { extra: "{".to_owned(), ..row() },
            Row { seed: Some(u64::MAX), ..row() },
        ] {
            assert!(wrong.check().is_err(), "{:.80?}", wrong);
        }
    }
}
