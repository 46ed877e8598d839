//! Which size is rendered for a wanted size.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::{BinMode, Error};

/// Pixels of a side of one latent pixel.
pub const LATENT_SCALE: u32 = 32;

/// Longest side that is rendered, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// The sizes that the models were trained for: ratio (height over width), height, width.
type Bins = Vec<(String, u32, u32)>;

/// By sample size. The order inside a table counts: the first of equally near bins wins.
static BINS: LazyLock<HashMap<String, Bins>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("bins.json")).expect("bins.json is part of the program")
});

/// How a wanted size is met, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Width that the model computes.
    pub compute_width: u32,
    /// Height that the model computes.
    pub compute_height: u32,
    /// Width of the picture.
    pub width: u32,
    /// Height of the picture.
    pub height: u32,
}

/// Plans a picture for a model whose transformer has this `sample_size` (in latent pixels). Sides of 0 or above
/// [`MAX_SIDE`] are refused, and what `bin` cannot meet.
pub fn plan(width: u32, height: u32, bin: BinMode, sample_size: usize) -> Result<Plan, Error> {
    if [width, height].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
        return Err(Error::Size(format!("size {width}x{height}: both sides must be 1 to {MAX_SIDE} pixels")));
    }
    let whole = width.is_multiple_of(LATENT_SCALE) && height.is_multiple_of(LATENT_SCALE);
    let binned = match bin {
        BinMode::Always => true,
        BinMode::Auto => !whole,
        BinMode::Never if whole => false,
        BinMode::Never => {
            let (w, h) = (round_to_latent(width), round_to_latent(height));
            return Err(Error::Size(format!(
                "size {width}x{height} is no multiple of {LATENT_SCALE}; try {w}x{h}, or allow binning"
            )));
        }
    };
    let (compute_width, compute_height) =
        if binned { nearest(width, height, sample_size)? } else { (width, height) };
    Ok(Plan { compute_width, compute_height, width, height })
}

fn round_to_latent(side: u32) -> u32 {
    (side + LATENT_SCALE / 2).clamp(LATENT_SCALE, MAX_SIDE) / LATENT_SCALE * LATENT_SCALE
}

/// Width and height of the bin with the nearest shape.
fn nearest(width: u32, height: u32, sample_size: usize) -> Result<(u32, u32), Error> {
    let bins = BINS.get(&sample_size.to_string()).ok_or_else(|| {
        Error::Size(format!(
            "size {width}x{height}: there are no bins for a model of sample size {sample_size}; \
             ask for multiples of {LATENT_SCALE} without binning"
        ))
    })?;
    let wanted = f64::from(height) / f64::from(width);
    let distance =
        |ratio: &str| (ratio.parse::<f64>().expect("ratios of bins.json are numbers") - wanted).abs();
    let best = bins
        .iter()
        .map(|(ratio, bin_height, bin_width)| (distance(ratio), *bin_width, *bin_height))
        // `min_by` keeps the first of equals.
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .expect("no table of bins.json is empty");
    Ok((best.1, best.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(width: u32, height: u32, bin: BinMode) -> (u32, u32) {
        let plan = plan(width, height, bin, 32).unwrap();
        assert_eq!((plan.width, plan.height), (width, height));
        (plan.compute_width, plan.compute_height)
    }

    #[test]
    fn auto_bins_only_what_is_no_multiple_of_the_latent_pixel() {
        assert_eq!(compute(256, 256, BinMode::Auto), (256, 256));
        assert_eq!(compute(256, 256, BinMode::Always), (1024, 1024));
        assert_eq!(compute(250, 250, BinMode::Auto), (1024, 1024));
        assert_eq!(compute(1920, 1080, BinMode::Auto), (1344, 768));
        assert_eq!(compute(96, 160, BinMode::Never), (96, 160));
    }

    #[test]
    fn what_cannot_be_rendered_is_refused_with_a_way_out() {
        for (width, height) in [(0, 64), (64, 0), (16_385, 64), (64, u32::MAX)] {
            let error = plan(width, height, BinMode::Auto, 32).unwrap_err();
            assert!(matches!(error, Error::Size(_)), "{error}");
        }
        let error = plan(100, 64, BinMode::Never, 32).unwrap_err().to_string();
        assert!(error.contains("try 96x64"), "{error}");
        let error = plan(1, 16_383, BinMode::Never, 32).unwrap_err().to_string();
        assert!(error.contains("try 32x16384"), "{error}");
    }

    #[test]
    fn a_model_without_bins_still_renders_multiples() {
        assert!(plan(64, 96, BinMode::Auto, 8).is_ok());
        let error = plan(65, 96, BinMode::Auto, 8).unwrap_err();
        assert!(error.to_string().contains("sample size 8"), "{error}");
    }

    #[test]
    fn every_bin_can_be_computed() {
        let mut seen = 0;
        for (size, bins) in BINS.iter() {
            for (_, height, width) in bins {
                assert!(plan(*width, *height, BinMode::Never, size.parse().unwrap()).is_ok());
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen}");
    }
}
