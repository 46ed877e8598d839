//! The options that `render` and `submit` share.

use std::path::PathBuf;

use clap::Args;
use sanafarm_coordinator::domain::form::MAX_QUALITY;
use sanafarm_worker::models::BUNDLED;

use super::cache::CacheArgs;
use super::values::{Bin, Decode, LayoutName, OnDuplicate, PictureFormat, Size, guidance, name};
use crate::prompts::limits::{MAX_IMAGES_PER_PROMPT, MAX_STEPS, SEED};
use crate::prompts::{Chosen, Format};

/// A prompt list and what to make of it.
#[derive(Clone, Debug, Args)]
pub struct SubmissionArgs {
    /// Prompt list: .txt, .jsonl, .csv, .tsv, .parquet or .json, also .gz or .zst; a path, a URL (s3://, gs://, az://,
    /// https://) or - for standard input
    pub prompts: PathBuf,
    /// Model folder in the diffusers layout, hf:owner/name[@revision], s3://bucket/prefix (also gs://, az://), or the name of
    /// the bundled model
    #[arg(long, value_name = "MODEL", default_value = BUNDLED)]
    pub model: String,
    /// Where models are kept.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Folder for the pictures, or a place in a bucket (s3://, gs://, az://) [default: renders/NAME-TOKEN]
    #[arg(long, value_name = "DIR|URL")]
    pub output: Option<String>,
    /// Size in pixels, such as 1024x768 [default: the square that the model was trained for]
    #[arg(long, value_name = "WxH", allow_hyphen_values = true)]
    pub size: Option<Size>,
    /// Denoising steps [default: those of the model, 20 or with Sprint 2]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_STEPS)))]
    pub steps: Option<u32>,
    /// Guidance scale
    #[arg(long, value_name = "F", allow_hyphen_values = true, default_value_t = 4.5, value_parser = guidance)]
    pub guidance: f64,
    /// Image number i is rendered with seed N + i
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value_t = 0, value_parser = clap::value_parser!(u64).range(SEED))]
    pub seed: u64,
    /// Copies of each row, each with a seed of its own
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_IMAGES_PER_PROMPT)))]
    pub images_per_prompt: u32,
    /// What not to show; Sprint models take none
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub negative_prompt: String,
    /// Take only the first N rows
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Whether a size is rendered at the nearest trained size, then resized and cropped
    #[arg(long, value_enum, default_value_t = Bin::Auto)]
    pub bin: Bin,
    /// How a latent becomes a picture
    #[arg(long, value_enum, default_value_t = Decode::Exact)]
    pub decode: Decode,
    /// Name of the job [default: the list's file name]
    #[arg(long, value_parser = name)]
    pub name: Option<String>,
    /// The file of a picture; each carries its recipe
    #[arg(long, value_enum, default_value_t = PictureFormat::Png)]
    pub format: PictureFormat,
    /// Quality of jpeg and webp, 1 to 100 [default: 92 of jpeg, 90 of webp]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_QUALITY)))]
    pub quality: Option<u32>,
    /// How pictures lie in the output
    #[arg(long, value_enum, default_value_t = LayoutName::Files)]
    pub layout: LayoutName,
    /// Write a small JPEG of each picture to thumbnails/ as well
    #[arg(long)]
    pub thumbnails: bool,
    /// Names of pictures, of {index}, {seed}, {job}, {id}, {prompt_hash} and {COLUMN} of the list, such as
    /// {Category}/{index:08} [default: {index:08}-{seed}, in tars {index:08}]
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub name_template: String,
    /// Add the pictures to an output that holds those of jobs that have ended
    #[arg(long, requires = "output")]
    pub append: bool,
    /// How the list is written [default: by its extension, else by its first character]
    #[arg(long, value_enum)]
    pub list_format: Option<Format>,
    /// Column of the prompt [default: prompt, text or caption]
    #[arg(long, value_name = "C")]
    pub prompt_column: Option<String>,
    /// Column of the row's own name [default: id or image_id]
    #[arg(long, value_name = "C")]
    pub id_column: Option<String>,
    /// Column of the seed [default: seed]
    #[arg(long, value_name = "C")]
    pub seed_column: Option<String>,
    /// Column that is neither used nor passed through; may be given again
    #[arg(long, value_name = "C")]
    pub drop_column: Vec<String>,
    /// What to do when prompt, negative prompt, seed and settings of two images are the same
    #[arg(long, value_enum, default_value_t = OnDuplicate::Allow)]
    pub on_duplicate: OnDuplicate,
    /// Skip bad lines and list them at the end
    #[arg(long)]
    pub skip_invalid: bool,
}

impl SubmissionArgs {
    /// The columns that the user named.
    pub fn chosen_columns(&self) -> Chosen {
        Chosen {
            prompt: self.prompt_column.clone(),
            id: self.id_column.clone(),
            seed: self.seed_column.clone(),
            dropped: self.drop_column.clone(),
        }
    }
}
