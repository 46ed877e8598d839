//! One job as it streams in: rows become images with a seed, a name, a settings group and a shard.

use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Invalid;
use super::form::Layout;
use super::seed::image_seed;
use super::settings::{Settings, SettingsKey};
use super::shard::{ShardRange, Sharder, archive_images, shard_images};
use super::spec::{JobSpec, Row};
use super::speed::Speed;
use super::template::{Named, Template};

/// Most different settings in one job; each holds a shard open while rows stream in.
pub const MAX_GROUPS: usize = 10_000;
/// Most different pass-through columns in one job.
pub const MAX_COLUMNS: usize = 500;

/// A batch is full with this many images or bytes of text: enough to be fast, little enough to be one
/// transaction.
const BATCH_IMAGES: usize = 4000;
const BATCH_BYTES: usize = 4 << 20;

/// A prompt as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPrompt {
    /// Row number, counted from 0.
    pub row: u64,
    /// Line in the prompt list.
    pub line: u64,
    /// The row's own name.
    pub id: Option<String>,
    /// What to show.
    pub prompt: String,
    /// What not to show; none for the job's.
    pub negative_prompt: Option<String>,
    /// Pass-through columns as a JSON object.
    pub extra: Option<String>,
}

/// An image as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewImage {
    /// Place in the job, counted from 0.
    pub index: u64,
    /// Its prompt.
    pub row: u64,
    /// Its settings group.
    pub group: u32,
    /// Seed of the starting noise.
    pub seed: u64,
    /// Name below the output.
    pub object: String,
}

/// What a few rows add to a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Settings seen for the first time.
    pub groups: Vec<(u32, Settings)>,
    /// Pass-through columns seen for the first time, with their position.
    pub columns: Vec<(u32, String)>,
    /// One per row.
    pub prompts: Vec<NewPrompt>,
    /// In index order.
    pub images: Vec<NewImage>,
    /// Shards that are complete.
    pub shards: Vec<ShardRange>,
}

/// Rows of one job on their way into the store. Its memory follows the number of different settings and
/// columns, not of rows.
#[derive(Debug)]
pub struct Submission {
    spec: JobSpec,
    template: Template,
    target: Duration,
    speeds: Vec<Speed>,
    groups: HashMap<SettingsKey, (u32, u32)>,
    columns: HashSet<String>,
    sharder: Sharder,
    rows: u64,
    images: u64,
    /// Images of earlier jobs in the output.
    before: u64,
    batch: Batch,
    batch_bytes: usize,
}

impl Submission {
    /// Checks the spec. `target` is what a shard should take, `speeds` what was measured with this model.
    pub fn new(spec: JobSpec, target: Duration, speeds: Vec<Speed>) -> Result<Self, Invalid> {
        spec.check()?;
        let template = Template::parse(&spec.name_template, &spec.form)?;
        Ok(Self {
            spec,
            template,
            target,
            speeds,
            groups: HashMap::new(),
            columns: HashSet::new(),
            sharder: Sharder::default(),
            rows: 0,
            images: 0,
            before: 0,
            batch: Batch::default(),
            batch_bytes: 0,
        })
    }

    /// Names go on after those of so many images of earlier jobs. To be said before the first row.
    pub fn continue_after(&mut self, images: u64) {
        self.before = images;
    }

    /// Adds the next row.
    pub fn push(&mut self, row: Row) -> Result<(), Invalid> {
        let line = row.line;
        self.push_unnamed(row).map_err(|invalid| invalid.at_line(line))
    }

    fn push_unnamed(&mut self, row: Row) -> Result<(), Invalid> {
        let columns = row.check()?;
        let settings = row.settings(&self.spec.settings);
        settings.check()?;
        self.learn_columns(&columns)?;
        let (group, size) = self.group(&settings)?;
        let negative = row.negative_prompt.as_ref().unwrap_or(&self.spec.negative_prompt);
        let id = row.id.as_ref().map_or(0, String::len);
        let text = row.prompt.len() + negative.len() + id + row.extra.len();
        for copy in 0..u64::from(self.spec.images_per_prompt) {
            let index = self.images;
            let seed = image_seed(self.spec.seed, row.seed, index, copy);
            let object = self.template.name(&Named {
                index: self.before + index,
                seed,
                job: &self.spec.name,
                id: row.id.as_deref(),
                prompt: &row.prompt,
                columns: &columns,
            })?;
            let bytes = text + object.len();
            self.batch.images.push(NewImage { index, row: self.rows, group, seed, object });
            self.batch.shards.extend(self.sharder.push(group, index, size, bytes));
            self.images += 1;
        }
        self.batch_bytes += row.prompt.len() + row.extra.len();
        self.batch.prompts.push(NewPrompt {
            row: self.rows,
            line: row.line,
            id: row.id,
            prompt: row.prompt,
            negative_prompt: row.negative_prompt.filter(|text| *text != self.spec.negative_prompt),
            extra: Some(row.extra).filter(|text| !text.is_empty()),
        });
        self.rows += 1;
        Ok(())
    }

    fn learn_columns(&mut self, columns: &Map<String, Value>) -> Result<(), Invalid> {
        for column in columns.keys() {
            if self.columns.contains(column) {
                continue;
            }
            if self.columns.len() == MAX_COLUMNS {
                return Err(Invalid::job(format!("the list has more than {MAX_COLUMNS} columns")));
            }
            self.batch.columns.push((self.columns.len() as u32, column.clone()));
            self.columns.insert(column.clone());
        }
        Ok(())
    }

    /// The settings group and its shard size.
    fn group(&mut self, settings: &Settings) -> Result<(u32, u32), Invalid> {
        let key = settings.key();
        if let Some(known) = self.groups.get(&key) {
            return Ok(*known);
        }
        if self.groups.len() == MAX_GROUPS {
            return Err(Invalid::job(format!("the list has more than {MAX_GROUPS} different settings")));
        }
        let fresh = (self.groups.len() as u32, self.shard_size(settings));
        self.groups.insert(key, fresh);
        self.batch.groups.push((fresh.0, *settings));
        Ok(fresh)
    }

    /// The wanted number of images in a shard of these settings.
    fn shard_size(&self, settings: &Settings) -> u32 {
        let (pixels, format) = (settings.pixels(), self.spec.form.format);
        let mut alike =
            self.speeds.iter().filter(|speed| speed.pixels == pixels && speed.steps == settings.steps);
        let seconds = alike.clone().next().map(|speed| speed.seconds);
        match self.spec.form.layout {
            Layout::Files => shard_images(self.target, seconds),
            Layout::Webdataset => {
                let measured = alike.find(|speed| speed.format == format && speed.bytes > 0.0);
                let guess = || pixels as f64 * format.bytes_per_pixel();
                archive_images(self.target, seconds, measured.map_or_else(guess, |speed| speed.bytes))
            }
        }
    }

    /// It is time to call `take_batch`.
    pub fn is_full(&self) -> bool {
        self.batch.images.len() >= BATCH_IMAGES || self.batch_bytes >= BATCH_BYTES
    }

    /// What came in since the last call.
    pub fn take_batch(&mut self) -> Batch {
        self.batch_bytes = 0;
        std::mem::take(&mut self.batch)
    }

    /// Ends the submission: checks the number of rows and hands out the rest with the shards that are not full.
    pub fn seal(mut self, rows: u64) -> Result<Batch, Invalid> {
        if self.rows == 0 {
            return Err(Invalid::job("the prompt list is empty"));
        }
        if self.rows != rows {
            return Err(Invalid::job(format!(
                "{} rows arrived but the seal says {rows}; submit again",
                self.rows
            )));
        }
        self.batch.shards.extend(self.sharder.finish());
        Ok(self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::form::{Form, ImageFormat};
    use crate::domain::schedule::Needs;
    use crate::domain::settings::{BinMode, DecodeMode};
    use proptest::prelude::*;

    fn spec() -> JobSpec {
        JobSpec {
            client_token: "t".to_owned(),
            name: "n".to_owned(),
            owner: String::new(),
            model: "sana-tiny".to_owned(),
            output: "/out".to_owned(),
            settings: Settings {
                width: 64,
                height: 64,
                steps: 4,
                guidance: 4.5,
                bin: BinMode::Auto,
                decode: DecodeMode::Exact,
            },
            negative_prompt: String::new(),
            seed: 100,
            images_per_prompt: 2,
            name_template: String::new(),
            priority: 0,
            needs: Needs::default(),
            after: Vec::new(),
            deadline: None,
            form: Form::default(),
            append: false,
            webhook: None,
        }
    }

    fn row(line: u64, width: Option<u32>) -> Row {
        Row { prompt: format!("p{line}"), width, line, ..Row::default() }
    }

    proptest! {
        #[test]
        fn nothing_depends_on_where_batches_are_cut(widths in prop::collection::vec(1u32..4, 1..60), cut in 1usize..20) {
            let run = |cut: usize| {
                let mut submission = Submission::new(spec(), Duration::from_secs(120), vec![]).unwrap();
                let mut whole = Batch::default();
                let mut add = |batch: Batch| {
                    whole.groups.extend(batch.groups);
                    whole.prompts.extend(batch.prompts);
                    whole.images.extend(batch.images);
                    whole.shards.extend(batch.shards);
                };
                for (n, width) in widths.iter().enumerate() {
                    submission.push(row(n as u64 + 1, Some(width * 32))).unwrap();
                    if n % cut == 0 {
                        add(submission.take_batch());
                    }
                }
                add(submission.seal(widths.len() as u64).unwrap());
                whole
            };
            let whole = run(cut);
            prop_assert_eq!(&whole, &run(usize::MAX));
            prop_assert_eq!(whole.images.len(), widths.len() * 2);
            for (n, image) in whole.images.iter().enumerate() {
                prop_assert_eq!(image.index, n as u64);
                prop_assert_eq!(image.row, n as u64 / 2);
                prop_assert_eq!(image.seed, 100 + n as u64);
            }
        }
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        let mut submission = Submission::new(spec(), Duration::from_secs(120), vec![]).unwrap();
        let error = submission.push(row(17, Some(0))).unwrap_err();
        assert_eq!(error.to_string(), "line 17: width 0 is not between 1 and 16384");
    }

    #[test]
    fn an_empty_or_short_list_is_refused() {
        let fresh = || Submission::new(spec(), Duration::from_secs(120), vec![]).unwrap();
        assert_eq!(fresh().seal(0).unwrap_err().what, "the prompt list is empty");
        let mut short = fresh();
        short.push(row(1, None)).unwrap();
        assert!(short.seal(2).unwrap_err().what.contains("1 rows arrived"));
    }

    #[test]
    fn measured_speed_sets_the_shard_size() {
        let mut submission = Submission::new(spec(), Duration::from_secs(120), vec![speed()]).unwrap();
        for line in 1..=4 {
            submission.push(row(line, None)).unwrap();
        }
        let images: Vec<u32> = submission.seal(4).unwrap().shards.iter().map(|shard| shard.images).collect();
        assert_eq!(images, [4, 4]);
    }

    fn speed() -> Speed {
        let format = ImageFormat::Png;
        Speed { pixels: 64 * 64, steps: 4, format, seconds: 30.0, bytes: 0.0, images: 1 }
    }

    #[test]
    fn a_tar_has_as_many_images_as_make_a_gigabyte() {
        let form = Form { layout: Layout::Webdataset, format: ImageFormat::Jpeg, ..Form::default() };
        let size = |speeds: Vec<Speed>| {
            let submission =
                Submission::new(JobSpec { form, ..spec() }, Duration::from_secs(120), speeds).unwrap();
            submission.shard_size(&spec().settings)
        };
        let fast = Speed { seconds: 0.1, bytes: 5e6, ..speed() };
        assert_eq!(size(vec![]), 320);
        assert_eq!(size(vec![speed()]), 40);
        // What PNGs of this size weigh tells nothing of JPEGs, but their time does.
        assert_eq!(size(vec![fast]), 2560);
        assert_eq!(size(vec![fast, Speed { format: ImageFormat::Jpeg, ..fast }]), 199);
    }

    #[test]
    fn names_go_on_after_those_of_earlier_jobs() {
        let mut submission = Submission::new(spec(), Duration::from_secs(120), vec![]).unwrap();
        submission.continue_after(500);
        submission.push(row(1, None)).unwrap();
        let images = submission.seal(1).unwrap().images;
        assert_eq!((images[1].index, images[1].object.as_str()), (1, "00000501-101.png"));
    }
}
