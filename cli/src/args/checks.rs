//! Arguments of `verify`, `reproduce` and `gc`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{CacheArgs, PlaceArgs, values};

/// `verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each picture is read and must have the size and the hash of the history, and carry the recipe of the \
                        history. Exit code 2 when something is wrong. Failed images have no picture and are only counted.\n\
                        With --requeue a damaged object is removed before its image is rendered again, because workers \
                        overwrite nothing. One that has the hash of the history is never removed."
)]
pub struct VerifyArgs {
    /// Job id, or a beginning that fits one job only
    pub job: String,
    /// Read nothing: look only whether each object is there and as large as it should be
    #[arg(long, conflicts_with = "deep")]
    pub quick: bool,
    /// Decode every pixel as well
    #[arg(long)]
    pub deep: bool,
    /// Look at so many pictures only, picked at random; in the layout webdataset at so many tars
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: Option<u64>,
    /// Have what is missing or damaged rendered again, after damaged objects were removed
    #[arg(long)]
    pub requeue: bool,
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, requires = "requeue")]
    pub reason: String,
    /// Objects that are read at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// Where the output lies as seen from here [default: as the job says]
    #[arg(long, value_name = "PLACE")]
    pub output: Option<String>,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object for each problem, and a last one that sums up
    #[arg(long)]
    pub json: bool,
}

/// `reproduce`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 0 when the new file is the same to the bit, or its pixels are; 2 when pixels differ by more \
                        than the tolerance. On one kind of device a picture depends on its recipe alone; another kind rounds \
                        differently."
)]
pub struct ReproduceArgs {
    /// A picture file, or JOB/INDEX for an image of a job
    #[arg(value_name = "FILE|JOB/INDEX")]
    pub picture: String,
    /// Folder or name of the model, also hf:owner/name and s3://bucket/prefix [default: that of the job, or the name in the
    /// recipe]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Where models are kept.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Render on cpu or cuda:N [default: cpu for pictures that were made in f32, else the first CUDA device of a build that has
    /// them]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Keep the new picture here; a file that is there is left alone
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Largest difference of a channel of a pixel, of 255, that counts as the same
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub tolerance: u8,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// `gc`.
#[derive(Debug, Args)]
#[command(
    after_help = "Lists what lies in an output and belongs to nobody: objects of ended jobs that are not the picture of \
                        a done image, tars that were never committed, files that a killed worker left half-written. \
                        Objects that the history does not know are listed as unknown and never deleted. Nothing of a job \
                        that has not ended is touched."
)]
pub struct GcArgs {
    /// An output folder or object-store URL as jobs name it, or a job, whose output is meant
    #[arg(value_name = "OUTPUT|JOB")]
    pub of: String,
    /// Delete what belongs to nobody; without it everything stays
    #[arg(long)]
    pub delete: bool,
    /// Leave alone what was written later than that long ago, such as 30m or 2d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = values::duration)]
    pub older_than: Duration,
    /// Where the jobs are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// One JSON object for each object, and a last one that sums up
    #[arg(long)]
    pub json: bool,
}
