//! Bilinear resize and centre crop, row by row, as diffusers does it on the whole picture.

use crate::Error;

/// Resizes so that the wanted size is covered, and cuts out its centre.
#[derive(Debug)]
pub(crate) struct Resize {
    columns: Vec<Tap>,
    rows: Vec<Tap>,
    /// Source rows taken.
    taken: usize,
    /// Rows given.
    given: usize,
    /// The last source row but one and the last, already as wide as the result.
    above: Vec<f32>,
    below: Vec<f32>,
    mixed: Vec<f32>,
}

/// Where a value of the result comes from along one axis: `near * (1 - weight) + far * weight`.
#[derive(Clone, Copy, Debug)]
struct Tap {
    near: usize,
    far: usize,
    weight: f32,
}

impl Resize {
    /// Sizes are width and height.
    pub(crate) fn new(source: (usize, usize), wanted: (usize, usize)) -> Self {
        let ratio = (wanted.1 as f64 / source.1 as f64).max(wanted.0 as f64 / source.0 as f64);
        // Cutting off can give one pixel less than wanted (diffusers#8911); the crop then starts at -1 there
        // and leaves a strip. Never less than wanted.
        let resized = |source: usize, wanted: usize| ((source as f64 * ratio) as usize).max(wanted);
        let axis = |source, wanted| taps(source, resized(source, wanted), wanted);
        let width = wanted.0 * 3;
        Self {
            columns: axis(source.0, wanted.0),
            rows: axis(source.1, wanted.1),
            taken: 0,
            given: 0,
            above: vec![0.0; width],
            below: vec![0.0; width],
            mixed: vec![0.0; width],
        }
    }

    /// Takes the next source row and gives all rows that need no later one.
    pub(crate) fn push(
        &mut self,
        row: &[f32],
        out: &mut dyn FnMut(&[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        std::mem::swap(&mut self.above, &mut self.below);
        let (source, _) = row.as_chunks::<3>();
        let (target, _) = self.below.as_chunks_mut::<3>();
        for (pixel, tap) in target.iter_mut().zip(&self.columns) {
            for (channel, value) in pixel.iter_mut().enumerate() {
                *value = tap.mix(source[tap.near][channel], source[tap.far][channel]);
            }
        }
        let last = self.taken;
        self.taken += 1;
        while let Some(tap) = self.rows.get(self.given).filter(|tap| tap.far <= last) {
            // `far` is this row, or an earlier call would have given it; `near` is this row or the one above.
            let near = if tap.near == last { &self.below } else { &self.above };
            for ((value, near), far) in self.mixed.iter_mut().zip(near).zip(&self.below) {
                *value = tap.mix(*near, *far);
            }
            self.given += 1;
            out(&self.mixed)?;
        }
        Ok(())
    }
}

impl Tap {
    fn mix(&self, near: f32, far: f32) -> f32 {
        near * (1.0 - self.weight) + far * self.weight
    }
}

/// The taps of the `wanted` values in the middle of `resized`: half-pixel centres, no antialias, in f32 as
/// torch counts (its builds fuse the multiplication and the addition).
fn taps(source: usize, resized: usize, wanted: usize) -> Vec<Tap> {
    let start = (resized - wanted) / 2;
    let scale = source as f32 / resized as f32;
    (start..start + wanted)
        .map(|i| {
            let at = scale.mul_add(i as f32 + 0.5, -0.5).max(0.0);
            let near = (at as usize).min(source - 1);
            Tap { near, far: (near + 1).min(source - 1), weight: (at - near as f32).clamp(0.0, 1.0) }
        })
        .collect()
}
