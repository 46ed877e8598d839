//! Values of options and the words that name them.

use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
pub use sanafarm_coordinator::domain::amount::bytes;
use sanafarm_coordinator::domain::schedule::DeviceKind;
use sanafarm_proto::v1::{BinMode, DecodeMode, ErrorClass, ExportFormat, ImageFormat, ImageState, Layout};

use crate::job_view;
use crate::prompts::limits::{GUIDANCE, SIDE};

/// A picture size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) =
            text.split_once(['x', 'X', '×']).ok_or("expected width x height, such as 1024x768")?;
        Ok(Self { width: side("width", width)?, height: side("height", height)? })
    }
}

fn side(name: &str, text: &str) -> Result<u32, String> {
    match text.trim().parse::<u32>() {
        Ok(side) if SIDE.contains(&u64::from(side)) => Ok(side),
        Ok(_) | Err(_) => Err(format!("{name} must be from {} to {}", SIDE.start(), SIDE.end())),
    }
}

/// Reads a guidance scale.
pub fn guidance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if GUIDANCE.contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("must be a number from {} to {}", GUIDANCE.start(), GUIDANCE.end())),
    }
}

/// Reads a job name: it becomes a part of a folder name.
pub fn name(text: &str) -> Result<String, String> {
    let bad = |letter: char| letter.is_control() || matches!(letter, '/' | '\\');
    if text.is_empty() || text.contains(bad) || text.starts_with('.') || text.len() > 128 {
        return Err("a name has 1 to 128 letters, no slash and no dot in front".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads a label such as `zone=eu`.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        Some(_) | None => Err("expected name=value, such as zone=eu".to_owned()),
    }
}

/// Reads a length of time such as `90s`, `10m` or `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a length of time, such as 90s, 10m or 12h".to_owned();
    let span: Span = text.trim().parse().map_err(|_| wrong())?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    span.try_into().map_err(|_| wrong())
}

/// Reads a time: of the clock and the calendar, or from now on.
pub fn deadline(text: &str) -> Result<Timestamp, String> {
    deadline_from(text, Timestamp::now())
}

fn deadline_from(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong =
        || "expected a time such as 2026-11-30T08:00:00Z, or one from now on such as 2h or 3d".to_owned();
    let span: Span = text.parse().map_err(|_| wrong())?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    if span <= SignedDuration::ZERO {
        return Err("the deadline must be later than now".to_owned());
    }
    now.checked_add(span).map_err(|_| wrong())
}

/// Reads an error class: the word of the history.
pub fn error_class(text: &str) -> Result<ErrorClass, String> {
    let known = (1..).map_while(|number| ErrorClass::try_from(number).ok());
    let words: Vec<_> = known.clone().map(job_view::error_class).collect();
    let found = known.into_iter().find(|class| job_view::error_class(*class) == text);
    found.ok_or_else(|| format!("there are {}", words.join(", ")))
}

/// `--device-kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKindName {
    /// The processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

impl From<DeviceKindName> for DeviceKind {
    fn from(name: DeviceKindName) -> Self {
        match name {
            DeviceKindName::Cpu => Self::Cpu,
            DeviceKindName::Cuda => Self::Cuda,
        }
    }
}

/// `--bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bin {
    /// At the nearest trained size
    Always,
    /// A multiple of 32 as asked, any other at the nearest trained size
    Auto,
    /// As asked; a size that is no multiple of 32 is refused
    Never,
}

impl From<Bin> for BinMode {
    fn from(bin: Bin) -> Self {
        match bin {
            Bin::Always => Self::Always,
            Bin::Auto => Self::Auto,
            Bin::Never => Self::Never,
        }
    }
}

/// `--decode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Decode {
    /// In row bands, equal to the whole decode, in little memory
    Exact,
    /// Overlapping tiles blended as diffusers does it
    Blend,
    /// All at once
    Whole,
}

impl From<Decode> for DecodeMode {
    fn from(decode: Decode) -> Self {
        match decode {
            Decode::Exact => Self::Exact,
            Decode::Blend => Self::Blend,
            Decode::Whole => Self::Whole,
        }
    }
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PictureFormat {
    /// Loses nothing
    Png,
    /// Small, with losses
    Jpeg,
    /// Smaller, with losses
    Webp,
    /// Smaller than PNG, loses nothing
    WebpLossless,
}

impl From<PictureFormat> for ImageFormat {
    fn from(format: PictureFormat) -> Self {
        match format {
            PictureFormat::Png => Self::Png,
            PictureFormat::Jpeg => Self::Jpeg,
            PictureFormat::Webp => Self::Webp,
            PictureFormat::WebpLossless => Self::WebpLossless,
        }
    }
}

/// `--layout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutName {
    /// A file for each
    Files,
    /// In tars of about 1 GB, as the webdataset library reads them
    Webdataset,
}

impl From<LayoutName> for Layout {
    fn from(name: LayoutName) -> Self {
        match name {
            LayoutName::Files => Self::Files,
            LayoutName::Webdataset => Self::Webdataset,
        }
    }
}

/// `--on-duplicate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDuplicate {
    /// Render both
    Allow,
    /// Refuse the list and name the two rows
    Refuse,
    /// Drop the later one
    Merge,
}

/// `--state` of `images`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageStateName {
    /// No result yet
    Pending,
    /// Rendered and stored
    Done,
    /// Given up
    Failed,
}

/// A kind of file that a job is exported to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormatName {
    /// As manifest.parquet
    Parquet,
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
}

impl From<ExportFormatName> for ExportFormat {
    fn from(name: ExportFormatName) -> Self {
        match name {
            ExportFormatName::Parquet => Self::Parquet,
            ExportFormatName::Csv => Self::Csv,
            ExportFormatName::Jsonl => Self::Jsonl,
        }
    }
}

impl From<ImageStateName> for ImageState {
    fn from(name: ImageStateName) -> Self {
        match name {
            ImageStateName::Pending => Self::Pending,
            ImageStateName::Done => Self::Done,
            ImageStateName::Failed => Self::Failed,
        }
    }
}

/// An image as `JOB/INDEX`.
pub fn image(text: &str) -> Result<(String, u64), String> {
    let parts = text.rsplit_once('/').and_then(|(job, index)| Some((job, index.parse::<u64>().ok()?)));
    match parts {
        Some((job, index)) if !job.is_empty() => Ok((job.to_owned(), index)),
        Some(_) | None => Err("expected JOB/INDEX, such as 0199b3f2/7 for image 7 of a job".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_limited() {
        assert_eq!("1024x768".parse(), Ok(Size { width: 1024, height: 768 }));
        assert_eq!("0x512".parse::<Size>(), Err("width must be from 1 to 16384".to_owned()));
        assert_eq!("512x16385".parse::<Size>(), Err("height must be from 1 to 16384".to_owned()));
        assert_eq!("512".parse::<Size>(), Err("expected width x height, such as 1024x768".to_owned()));
    }

    #[test]
    fn error_classes_are_words_of_the_history() {
        assert_eq!(error_class("out_of_memory"), Ok(ErrorClass::OutOfMemory));
        assert!(error_class("unknown").unwrap_err().starts_with("there are prompt, size, "));
    }

    #[test]
    fn bytes_and_labels_are_read() {
        assert_eq!(bytes("24GB"), Ok(24_000_000_000));
        assert_eq!((bytes("1.5 GiB"), bytes("7")), (Ok(3 << 29), Ok(7)));
        for bad in ["", "GB", "-1GB", "24 apples", "1e99TB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(label("zone=eu"), Ok(("zone".to_owned(), "eu".to_owned())));
        assert!(label("zone").is_err() && label("=eu").is_err());
    }

    #[test]
    fn a_deadline_is_a_time_or_a_span_from_now() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (text, time) in [
            ("2026-11-30T08:00:00Z", "2026-11-30T08:00:00Z"),
            ("2026-11-30T08:00:00+02:00", "2026-11-30T06:00:00Z"),
            ("2h", "2026-11-23T14:00:00Z"),
            ("1h30m", "2026-11-23T13:30:00Z"),
            ("3d", "2026-11-26T12:00:00Z"),
            ("2 weeks", "2026-12-07T12:00:00Z"),
            ("90 min", "2026-11-23T13:30:00Z"),
        ] {
            assert_eq!(deadline_from(text, now), Ok(time.parse().unwrap()), "{text}");
        }
        for bad in ["", "soon", "2", "-2h", "0s", "2h ago", "1 month", "2026-11-30", "9999999999h"] {
            assert!(deadline_from(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn guidance_is_finite_and_limited() {
        assert_eq!(guidance("4.5"), Ok(4.5));
        assert!(guidance("nan").is_err() && guidance("-1").is_err() && guidance("1e9").is_err());
    }

    #[test]
    fn names_cannot_leave_the_renders_folder() {
        assert_eq!(name("cats v2"), Ok("cats v2".to_owned()));
        for bad in ["", "..", "../x", "a/b", "a\\b", ".hidden", "a\nb"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
