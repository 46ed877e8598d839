//! Values of options and the words that name them.

use std::str::FromStr;

use clap::ValueEnum;
use sanafarm_proto::v1::{BinMode, DecodeMode, ImageState};

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

impl From<ImageStateName> for ImageState {
    fn from(name: ImageStateName) -> Self {
        match name {
            ImageStateName::Pending => Self::Pending,
            ImageStateName::Done => Self::Done,
            ImageStateName::Failed => Self::Failed,
        }
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
