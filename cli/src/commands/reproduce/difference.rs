//! How two pictures differ.

use sanafarm_worker::picture::{self, Unreadable};

/// What comparing two pictures gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The files are the same to the bit.
    Identical,
    /// The pixels are, the files are not.
    SamePixels,
    /// Pixels differ.
    Differs(Difference),
}

/// How much pixels differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest difference of a channel, of 255.
    pub max: u8,
    /// Mean difference of the channels, of 255.
    pub mean: f64,
    /// Mean square of the differences.
    square: f64,
    /// Share of the pixels that differ.
    pub share: f64,
}

impl Difference {
    /// Peak signal-to-noise ratio in dB; none when there is no difference.
    pub fn psnr(&self) -> Option<f64> {
        (self.square > 0.0).then(|| 10.0 * (255.0 * 255.0 / self.square).log10())
    }
}

impl Verdict {
    /// The word of the output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::SamePixels => "same_pixels",
            Self::Differs(_) => "differs",
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Identical => "identical: the new file is the same to the bit".to_owned(),
            Self::SamePixels => "same pixels: every pixel is the same, the files are not".to_owned(),
            Self::Differs(difference) => format!(
                "differs: by {} of 255 at most, {:.4} in the mean, PSNR {:.2} dB; {:.4} % of the pixels are others",
                difference.max,
                difference.mean,
                difference.psnr().unwrap_or(f64::INFINITY),
                difference.share * 100.0
            ),
        }
    }

    /// Whether no channel of a pixel differs by more than that.
    pub fn is_within(&self, tolerance: u8) -> bool {
        match self {
            Self::Identical | Self::SamePixels => true,
            Self::Differs(difference) => difference.max <= tolerance,
        }
    }
}

/// Compares two picture files of one size. Blocks.
pub fn compare(one: &[u8], other: &[u8]) -> Result<Verdict, Unreadable> {
    if one == other {
        return Ok(Verdict::Identical);
    }
    let (one, other) = (picture::pixels(one)?, picture::pixels(other)?);
    if (one.width, one.height) != (other.width, other.height) {
        return Err(Unreadable::WrongSize);
    }
    let difference = difference(&one.rgb, &other.rgb);
    Ok(if difference.max == 0 { Verdict::SamePixels } else { Verdict::Differs(difference) })
}

fn difference(one: &[u8], other: &[u8]) -> Difference {
    let (mut max, mut sum, mut squares, mut different) = (0, 0_u64, 0_u64, 0_u64);
    let pixels = one.as_chunks::<3>().0;
    for (one, other) in pixels.iter().zip(other.as_chunks::<3>().0) {
        different += u64::from(one != other);
        for (one, other) in one.iter().zip(other) {
            let apart = one.abs_diff(*other);
            max = max.max(apart);
            sum += u64::from(apart);
            squares += u64::from(apart).pow(2);
        }
    }
    let channels = (pixels.len() * 3).max(1) as f64;
    Difference {
        max,
        mean: sum as f64 / channels,
        square: squares as f64 / channels,
        share: different as f64 / pixels.len().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_by_its_size_and_its_spread() {
        let one = [0_u8; 12];
        let mut other = one;
        (other[0], other[1]) = (10, 2);
        let told = difference(&one, &other);
        assert_eq!((told.max, told.mean, told.share), (10, 1.0, 0.25));
        let psnr = told.psnr().unwrap();
        assert!((psnr - 10.0 * (65_025.0_f64 / (104.0 / 12.0)).log10()).abs() < 1e-9, "{psnr}");
        assert_eq!(difference(&one, &one).psnr(), None);
        let verdict = Verdict::Differs(told);
        assert!(verdict.is_within(10) && !verdict.is_within(9));
    }
}
