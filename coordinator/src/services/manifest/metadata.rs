//! `metadata.jsonl` as Hugging Face ImageFolder reads it: one line per picture, the same keys in every line.

use std::io::{BufWriter, Result, Write};

use serde_json::{Map, Value, json};

use super::line::{Line, free_names};
use crate::domain::state::ImageState;
use crate::store::records::Job;

/// Our keys, in order. `file_name` is the one that ImageFolder wants.
pub(super) const KEYS: [&str; 11] = [
    "file_name",
    "text",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "steps",
    "guidance",
    "model",
    "index",
    "id",
];

/// Writes a line for every image that is done.
pub(super) struct MetadataWriter<'a, F: Write> {
    file: BufWriter<F>,
    columns: &'a [String],
    names: Vec<String>,
}

impl<'a, F: Write> MetadataWriter<'a, F> {
    pub fn new(file: F, columns: &'a [String]) -> Self {
        Self { file: BufWriter::new(file), columns, names: free_names(columns, &KEYS) }
    }

    pub fn write(&mut self, job: &Job, lines: &[Line]) -> Result<()> {
        for line in lines {
            match line.row.image.state {
                ImageState::Done => {
                    let object = self.object(job, line);
                    serde_json::to_writer(&mut self.file, &object)?;
                    self.file.write_all(b"\n")?;
                }
                // There is no file to tell of.
                ImageState::Failed | ImageState::Pending => {}
            }
        }
        Ok(())
    }

    fn object(&self, job: &Job, line: &Line) -> Map<String, Value> {
        let image = &line.row.image;
        let values: [Value; KEYS.len()] = [
            json!(image.object),
            json!(image.prompt),
            json!(image.negative_prompt),
            json!(image.seed),
            json!(image.settings.width),
            json!(image.settings.height),
            json!(image.settings.steps),
            json!(image.settings.guidance),
            json!(job.model),
            json!(image.index),
            json!(line.row.prompt_id),
        ];
        let own = KEYS.iter().map(|key| (*key).to_owned()).zip(values);
        let extra = self.names.iter().cloned().zip(self.columns.iter().map(|c| json!(line.extra_text(c))));
        own.chain(extra).collect()
    }

    /// Ends the file and gives it back.
    pub fn finish(self) -> Result<F> {
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}
