//! The synthetic engine: it waits, and says what a real one would say of a picture.

use std::time::Duration;

use sanafarm_proto::v1::image_result::Outcome;
use sanafarm_proto::v1::{ImageDone, ImageResult, LeasedImage, Settings};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What it calls itself wherever a device has a name.
pub const ENGINE: &str = "synthetic engine";
/// Of a picture that nobody made.
const BYTES: u64 = 1_600_000;
/// Part of the time on the device that decoding takes.
const DECODE: f64 = 0.25;
const WEIGHTS: &str = "5a17e71c5a17e71c5a17e71c5a17e71c5a17e71c5a17e71c5a17e71c5a17e71c";

/// Waits for the stated time an image.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    image: Duration,
    told_seconds: f64,
}

impl Engine {
    /// An engine that takes `image_seconds` for an image and says that it took `told_seconds`.
    pub fn new(image_seconds: f64, told_seconds: f64) -> Self {
        Self { image: Duration::from_secs_f64(image_seconds), told_seconds }
    }

    /// Waits as long as the image takes: the stated time, give or take a tenth, or else a thousand workers go on in
    /// step.
    pub async fn render(&self, image: &LeasedImage) {
        if !self.image.is_zero() {
            // The seeds of a job follow each other: the golden ratio spreads them evenly.
            let spread = (image.seed as f64 * 0.618_033_988_749_894_9).fract();
            tokio::time::sleep(self.image.mul_f64(0.9 + 0.2 * spread)).await;
        }
    }

    /// What a worker reports of an image whose picture is stored.
    pub fn result(&self, model: &str, settings: &Settings, image: LeasedImage) -> ImageResult {
        let recipe = Recipe::new(model, settings, &image).to_json();
        let sha256 = hex(&Sha256::digest(&recipe));
        ImageResult {
            index: image.index,
            outcome: Some(Outcome::Done(ImageDone {
                object: image.object,
                bytes: BYTES,
                sha256,
                recipe,
                quality: None,
            })),
            device_id: "cpu".to_owned(),
            render_seconds: self.told_seconds,
            decode_seconds: self.told_seconds * DECODE,
            log: String::new(),
        }
    }
}

/// As large as the recipe of a real worker: the same fields.
#[derive(Serialize)]
struct Recipe<'a> {
    program: &'static str,
    version: &'static str,
    model: &'a str,
    weights_sha256: &'static str,
    prompt: &'a str,
    negative_prompt: &'a str,
    seed: u64,
    width: u32,
    height: u32,
    compute_width: u32,
    compute_height: u32,
    steps: u32,
    guidance: f64,
    scheduler: &'static str,
    dtype: &'static str,
    bin: &'static str,
    decode: &'static str,
}

impl<'a> Recipe<'a> {
    fn new(model: &'a str, settings: &Settings, image: &'a LeasedImage) -> Self {
        Self {
            program: ENGINE,
            version: env!("CARGO_PKG_VERSION"),
            model,
            weights_sha256: WEIGHTS,
            prompt: &image.prompt,
            negative_prompt: &image.negative_prompt,
            seed: image.seed,
            width: settings.width,
            height: settings.height,
            compute_width: settings.width,
            compute_height: settings.height,
            steps: settings.steps,
            guidance: settings.guidance,
            scheduler: "dpm-solver++",
            dtype: "f32",
            bin: "auto",
            decode: "exact",
        }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }
}

/// Bytes as hex digits: quick, for what the workers cost is taken from those who are measured.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(digits.map(|digit| DIGITS[usize::from(digit)]));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submit::{model, prompt, spec};

    #[test]
    fn a_result_is_as_large_as_a_real_one() {
        let spec = spec(&model(), "/out".as_ref(), "token".to_owned());
        let image = LeasedImage {
            index: 7,
            prompt: prompt(7),
            negative_prompt: spec.negative_prompt,
            seed: 8,
            object: "00000007-8.png".to_owned(),
            ..LeasedImage::default()
        };
        let result = Engine::new(0.0, 1.0).result(&spec.model, &spec.settings.unwrap(), image);
        let Some(Outcome::Done(done)) = result.outcome else { panic!("not done") };
        assert_eq!(done.sha256.len(), 64);
        assert_eq!(hex(&[0x0f, 0xa9]), "0fa9");
        assert!((550..=650).contains(&done.recipe.len()), "{} bytes: {}", done.recipe.len(), done.recipe);
    }
}
