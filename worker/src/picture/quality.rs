//! A look at the pixels of a picture as they pass: enough to sort out what is no picture.

use serde::{Deserialize, Serialize};

use super::write::WriteError;

/// What a look at the pixels of a picture gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Of the brightness of its pixels (256 levels), in bits: 0 for one brightness, 8 at most.
    pub entropy: f64,
    /// Share of its pixels that are black or white in every channel.
    pub clipped: f64,
}

impl From<Quality> for sanafarm_proto::v1::Quality {
    fn from(quality: Quality) -> Self {
        Self { entropy: quality.entropy, clipped: quality.clipped }
    }
}

/// Counts while rows pass.
pub(super) struct Look {
    /// Pixels by brightness. Neighbours are often equally bright: counted in turn in four tables, they need not wait for
    /// each other.
    brightness: [[u32; 256]; 4],
    clipped: u64,
    /// The colour of all pixels so far, as long as there is only one.
    colour: Option<[u8; 3]>,
    pixels: u64,
}

impl Default for Look {
    fn default() -> Self {
        Self { brightness: [[0; 256]; 4], clipped: 0, colour: None, pixels: 0 }
    }
}

impl Look {
    pub(super) fn row(&mut self, row: &[u8]) {
        let (pixels, _) = row.as_chunks::<3>();
        let Some(first) = pixels.first() else { return };
        if self.pixels == 0 {
            self.colour = Some(*first);
        }
        if self.colour.is_some_and(|colour| pixels.iter().any(|pixel| *pixel != colour)) {
            self.colour = None;
        }
        self.pixels += pixels.len() as u64;
        let mut clipped = 0_u32;
        for (pixel, turn) in pixels.iter().zip((0..4).cycle()) {
            let table: &mut [u32; 256] = &mut self.brightness[turn];
            table[brightness(*pixel)] += 1;
            clipped += u32::from(*pixel == [0; 3] || *pixel == [255; 3]);
        }
        self.clipped += u64::from(clipped);
    }

    /// Refuses a flat picture: one of several pixels that all have the same colour, so that its entropy is 0.
    pub(super) fn finish(self) -> Result<Quality, WriteError> {
        if let Some(colour) = self.colour
            && self.pixels > 1
        {
            return Err(WriteError::Flat(colour));
        }
        let pixels = self.pixels as f64;
        let mut entropy = 0.0;
        for level in 0..256 {
            let count: u64 = self.brightness.iter().map(|table| u64::from(table[level])).sum();
            if count > 0 {
                let share = count as f64 / pixels;
                entropy -= share * share.log2();
            }
        }
        // One level gives -0.
        Ok(Quality { entropy: entropy.abs(), clipped: self.clipped as f64 / pixels })
    }
}

/// Luma of ITU-R BT.709, in 256ths.
fn brightness([r, g, b]: [u8; 3]) -> usize {
    (usize::from(r) * 54 + usize::from(g) * 183 + usize::from(b) * 19) >> 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pixels: &[[u8; 3]], width: usize) -> Result<Quality, WriteError> {
        let mut look = Look::default();
        pixels.chunks(width).for_each(|row| look.row(row.as_flattened()));
        look.finish()
    }

    #[test]
    fn entropy_is_that_of_the_brightness_of_all_pixels() {
        let grey = |levels: u32| (0..4096).map(|at| [(at % levels) as u8; 3]).collect::<Vec<_>>();
        for (levels, bits) in [(2, 1.0), (16, 4.0), (256, 8.0)] {
            let quality = look(&grey(levels), 64).unwrap();
            assert!((quality.entropy - bits).abs() < 1e-12, "{levels}: {quality:?}");
        }
        // Of one brightness and two colours: nothing to see, and not flat either.
        let quality = look(&[[0, 0, 1], [0, 0, 2]], 1).unwrap();
        assert_eq!((quality.entropy, quality.clipped), (0.0, 0.0));
    }

    #[test]
    fn pixels_that_are_black_or_white_in_every_channel_are_clipped() {
        let pixels = [[0; 3], [255; 3], [255, 0, 255], [0, 0, 1], [254; 3], [255; 3], [9; 3], [0; 3]];
        assert_eq!(look(&pixels, 3).unwrap().clipped, 0.5);
    }

    #[test]
    fn a_picture_of_one_colour_is_flat_and_a_single_other_pixel_makes_it_none() {
        for width in [1, 7, 12] {
            let mut pixels = vec![[200, 3, 4]; 12];
            let flat = look(&pixels, width).unwrap_err();
            assert!(flat.to_string().contains("#c80304"), "{flat}");
            for at in [0, 6, 11] {
                pixels[at] = [200, 3, 5];
                assert!(look(&pixels, width).is_ok(), "pixel {at}, rows of {width}");
                pixels[at] = [200, 3, 4];
            }
        }
        assert!(look(&[[1, 2, 3]], 1).is_ok(), "one pixel cannot have two colours");
    }
}
