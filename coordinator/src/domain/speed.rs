//! What images took, and what others would take by that.

use std::collections::HashSet;

use super::form::ImageFormat;

/// Jobs that go on, the newest of a model, and their last images, which tell what images take now.
pub(crate) const OPEN_JOBS: i64 = 20;
pub(crate) const OPEN_IMAGES: i64 = 200;
/// Images of a job that tell at its end what images take.
const ENDED_IMAGES: u64 = 20_000;
/// Speeds of a model that are told, those of the newest jobs: nobody renders in as many sizes.
pub(crate) const MAX_SPEEDS: i64 = 10_000;

/// What one image took, by size, steps and format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Pixels of the picture.
    pub pixels: u64,
    /// Denoising steps.
    pub steps: u32,
    /// The file of the picture.
    pub format: ImageFormat,
    /// Mean seconds on the device.
    pub seconds: f64,
    /// Mean bytes of the stored picture.
    pub bytes: f64,
    /// Images that were measured.
    pub images: u64,
}

impl Speed {
    fn work(&self) -> f64 {
        work(self.pixels, self.steps)
    }
}

/// Images of each settings group that tell at the end of a job with so many groups what images take.
pub(crate) fn images_of_each(groups: u64) -> i64 {
    (ENDED_IMAGES / groups.max(1)).clamp(1, 200) as i64
}

/// The first of those that tell of the same images: what comes first is believed.
pub(crate) fn first_of_each(mut speeds: Vec<Speed>) -> Vec<Speed> {
    let mut known = HashSet::new();
    speeds.retain(|speed| known.insert((speed.pixels, speed.steps, speed.format.word())));
    speeds
}

/// What an image would take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// Seconds on the device.
    pub seconds: f64,
    /// Bytes of the stored picture; none when no picture of this format was stored.
    pub bytes: Option<f64>,
    /// Images that the seconds were measured on.
    pub images: u64,
    /// Pixels and steps of those, when they are other ones.
    pub scaled_from: Option<(u64, u32)>,
}

/// What an image takes by what was measured with its model; none when nothing was. Images alike tell best. Without any, time
/// goes by pixels and steps, as in the view `keda_backlog`, and bytes by pixels, from the nearest that there is. Files of
/// another format tell of their time only.
pub fn guess(speeds: &[Speed], pixels: u64, steps: u32, format: ImageFormat) -> Option<Guess> {
    let wanted = work(pixels, steps);
    // The first of equals: newer ones come first. Of the same time one of the same format is as good for both.
    let near = |speed: &&Speed| {
        let alike = (speed.pixels, speed.steps) == (pixels, steps);
        (!alike, far(speed.work(), wanted), speed.format != format)
    };
    let nearest = speeds.iter().min_by(|a, b| {
        let ((a_other, a_far, a_format), (b_other, b_far, b_format)) = (near(a), near(b));
        a_other.cmp(&b_other).then(a_far.total_cmp(&b_far)).then(a_format.cmp(&b_format))
    })?;
    let alike = (nearest.pixels, nearest.steps) == (pixels, steps);
    let stored = speeds.iter().filter(|speed| speed.format == format && speed.bytes > 0.0);
    let stored = stored.min_by(|a, b| {
        let size = |speed: &Speed| far(speed.pixels as f64, pixels as f64);
        let more = |speed: &Speed| speed.steps.abs_diff(steps);
        size(a).total_cmp(&size(b)).then(more(a).cmp(&more(b)))
    });
    Some(Guess {
        seconds: if alike { nearest.seconds } else { nearest.seconds * wanted / nearest.work() },
        bytes: stored.map(|speed| speed.bytes * pixels as f64 / speed.pixels.max(1) as f64),
        images: nearest.images,
        scaled_from: (!alike).then_some((nearest.pixels, nearest.steps)),
    })
}

/// What the time of an image goes by.
fn work(pixels: u64, steps: u32) -> f64 {
    pixels.max(1) as f64 * f64::from(steps.max(1))
}

/// How many times the one is the other, whichever is more.
fn far(a: f64, b: f64) -> f64 {
    (a / b).max(b / a)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: ImageFormat = ImageFormat::Png;

    fn speed(pixels: u64, steps: u32, seconds: f64) -> Speed {
        Speed { pixels, steps, format: PNG, seconds, bytes: pixels as f64 * 2.0, images: 7 }
    }

    #[test]
    fn images_alike_tell_and_the_newer_of_them_first() {
        let speeds = [speed(400, 10, 1.0), speed(100, 10, 3.0), speed(100, 10, 9.0)];
        let told = guess(&speeds, 100, 10, PNG).unwrap();
        assert_eq!(told, Guess { seconds: 3.0, bytes: Some(200.0), images: 7, scaled_from: None });
        assert_eq!(guess(&[], 100, 10, PNG), None);
    }

    #[test]
    fn other_sizes_and_steps_are_scaled_from_the_nearest_by_work() {
        let speeds = [speed(100, 10, 1.0), speed(6400, 10, 32.0)];
        let near = guess(&speeds, 200, 10, PNG).unwrap();
        assert_eq!((near.seconds, near.bytes, near.scaled_from), (2.0, Some(400.0), Some((100, 10))));
        let far = guess(&speeds, 6400, 20, PNG).unwrap();
        assert_eq!((far.seconds, far.bytes, far.scaled_from), (64.0, Some(12_800.0), Some((6400, 10))));
    }

    #[test]
    fn files_of_another_format_tell_of_their_time_only() {
        let jpeg = Speed { format: ImageFormat::Jpeg, bytes: 10.0, seconds: 5.0, ..speed(100, 10, 0.0) };
        let told = guess(&[jpeg], 100, 10, PNG).unwrap();
        assert_eq!((told.seconds, told.bytes, told.scaled_from), (5.0, None, None));
        // Bytes of the right format, if of another size; and of two that took the same time that of the right format.
        let told = guess(&[jpeg, speed(400, 10, 9.0)], 100, 10, PNG).unwrap();
        assert_eq!((told.seconds, told.bytes), (5.0, Some(200.0)));
        let both = guess(&[jpeg, speed(100, 10, 6.0)], 100, 10, PNG).unwrap();
        assert_eq!(both.seconds, 6.0);
    }
}
