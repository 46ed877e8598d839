//! The one pass over all images of an output.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::line::Line;
use super::metadata::MetadataWriter;
use super::table::TableWriter;
use super::{Error, temporary};
use crate::domain::form::Layout;
use crate::domain::listing::{PART_IMAGES, part_name};
use crate::domain::state::ImageState;
use crate::store::records::{Job, ManifestRow};

/// Different patterns of names that the card tells.
const MOST_PATTERNS: usize = 100;

/// What is passed over, and where the files are made.
pub(super) struct Pass {
    pub jobs: Vec<Job>,
    /// Pass-through columns of all of them.
    pub columns: Vec<String>,
    pub layout: Layout,
    pub scratch: PathBuf,
}

/// A part of the manifest that is complete.
pub(super) struct Part {
    /// Below the output.
    pub name: String,
    pub file: NamedTempFile,
}

/// What a pass gives.
pub(super) struct Passed {
    pub manifest: NamedTempFile,
    /// In the layout of files.
    pub metadata: Option<NamedTempFile>,
    pub totals: Totals,
}

/// What a pass has seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    /// Pictures.
    pub pictures: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Patterns that their names fit, such as `*/*.png`.
    pub patterns: BTreeSet<String>,
}

impl Totals {
    fn add(&mut self, line: &Line) {
        let image = &line.row.image;
        match image.state {
            ImageState::Done => {
                self.pictures += 1;
                self.bytes += image.result.as_ref().and_then(|result| result.bytes).unwrap_or_default();
                let pattern = pattern(&image.object);
                if self.patterns.len() < MOST_PATTERNS || self.patterns.contains(&pattern) {
                    self.patterns.insert(pattern);
                }
            }
            ImageState::Failed | ImageState::Pending => {}
        }
    }
}

/// The pattern of all names in as many folders and with the same extension.
fn pattern(object: &str) -> String {
    let folders = "*/".repeat(object.matches('/').count());
    let extension = object.rsplit_once('.').map_or("", |(_, extension)| extension);
    format!("{folders}*.{extension}")
}

impl Pass {
    /// Takes pages of rows with the number of their job, and hands parts out. Blocks.
    pub fn run(
        &self,
        mut pages: mpsc::Receiver<(usize, Vec<ManifestRow>)>,
        parts: &mpsc::Sender<Part>,
    ) -> Result<Passed, Error> {
        let failed = |source| Error::Scratch { folder: self.scratch.clone(), source };
        let is_files = self.layout == Layout::Files;
        let mut totals = Totals::default();
        let mut table = self.table()?;
        let mut metadata = match is_files {
            true => Some(MetadataWriter::new(temporary(&self.scratch)?, &self.columns)),
            false => None,
        };
        let mut part: Option<TableWriter<'_, NamedTempFile>> = None;
        let (mut number, mut rows) = (0, 0);
        while let Some((job, page)) = pages.blocking_recv() {
            let Some(job) = self.jobs.get(job) else { continue };
            let lines: Vec<_> = page.into_iter().map(Line::read).collect();
            lines.iter().for_each(|line| totals.add(line));
            table.write(job, &lines)?;
            let Some(metadata) = &mut metadata else { continue };
            metadata.write(job, &lines).map_err(failed)?;
            let mut open = match part.take() {
                Some(open) => open,
                None => self.table()?,
            };
            open.write(job, &lines)?;
            rows += lines.len() as u64;
            if rows >= PART_IMAGES {
                hand_out(open, number, parts)?;
                (number, rows) = (number + 1, 0);
            } else {
                part = Some(open);
            }
        }
        if let Some(open) = part {
            hand_out(open, number, parts)?;
        }
        let metadata = metadata.map(MetadataWriter::finish).transpose().map_err(failed)?;
        Ok(Passed { manifest: table.finish()?, metadata, totals })
    }

    fn table(&self) -> Result<TableWriter<'_, NamedTempFile>, Error> {
        Ok(TableWriter::new(temporary(&self.scratch)?, &self.columns)?)
    }
}

fn hand_out(
    part: TableWriter<'_, NamedTempFile>,
    number: u64,
    parts: &mpsc::Sender<Part>,
) -> Result<(), Error> {
    let part = Part { name: part_name(number), file: part.finish()? };
    // Nobody takes it where the output refused one before: that error is told.
    let _ = parts.blocking_send(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn a_pattern_fits_names_in_as_many_folders() {
        assert_eq!(pattern("a.png"), "*.png");
        assert_eq!(pattern("a.b/c/d.jpg"), "*/*/*.jpg");
    }
}
