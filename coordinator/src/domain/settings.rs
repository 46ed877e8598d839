//! What images of one shard have in common.

use super::Invalid;
use super::word::words;

/// Longest side, in pixels.
pub const MAX_SIDE: u32 = 16384;
/// Most denoising steps.
pub const MAX_STEPS: u32 = 1000;
/// Highest guidance scale.
pub const MAX_GUIDANCE: f64 = 100.0;

words! {
    /// How a wanted size is met.
    BinMode, "bin mode" {
        /// A multiple of 32 as asked, any other size at the nearest trained size.
        Auto = "auto",
        /// At the nearest trained size.
        Always = "always",
        /// As asked; a size that is no multiple of 32 is refused.
        Never = "never",
    }
}

words! {
    /// How a latent becomes a picture.
    DecodeMode, "decode mode" {
        /// In row bands, equal to the whole decode.
        Exact = "exact",
        /// Overlapping tiles blended as diffusers does it.
        Blend = "blend",
        /// All at once.
        Whole = "whole",
    }
}

/// Size and sampling of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance scale.
    pub guidance: f64,
    /// How the size is met.
    pub bin: BinMode,
    /// How the latent is decoded.
    pub decode: DecodeMode,
}

/// Settings as a map key: equal keys are rendered alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SettingsKey(u32, u32, u32, u64, BinMode, DecodeMode);

impl Settings {
    /// Whether a worker could render this.
    pub fn check(&self) -> Result<(), Invalid> {
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(Invalid::job(format!("{name} {side} is not between 1 and {MAX_SIDE}")));
            }
            if self.bin == BinMode::Never && side % 32 != 0 {
                return Err(Invalid::job(format!(
                    "{name} {side} is no multiple of 32; choose one or allow the nearest trained size"
                )));
            }
        }
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return Err(Invalid::job(format!("steps {} is not between 1 and {MAX_STEPS}", self.steps)));
        }
        if !(0.0..=MAX_GUIDANCE).contains(&self.guidance) {
            return Err(Invalid::job(format!(
                "guidance {} is not between 0 and {MAX_GUIDANCE}",
                self.guidance
            )));
        }
        Ok(())
    }

    /// Pixels of one picture.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The key that groups images into shards. `-0.0` and `0.0` are one guidance.
    pub fn key(&self) -> SettingsKey {
        let guidance = self.guidance + 0.0;
        SettingsKey(self.width, self.height, self.steps, guidance.to_bits(), self.bin, self.decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            width: 512,
            height: 512,
            steps: 20,
            guidance: 4.5,
            bin: BinMode::Auto,
            decode: DecodeMode::Exact,
        }
    }

    #[test]
    fn limits() {
        assert_eq!(settings().check(), Ok(()));
        for wrong in [
            Settings { width: 0, ..settings() },
            Settings { height: 16385, ..settings() },
            Settings { steps: 0, ..settings() },
            Settings { guidance: f64::NAN, ..settings() },
            Settings { guidance: -1.0, ..settings() },
            Settings { width: 500, bin: BinMode::Never, ..settings() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
