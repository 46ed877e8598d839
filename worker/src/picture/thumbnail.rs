//! A small copy of a picture, averaged from its rows as they pass.

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder};

use super::write::WriteError;

/// Longer side of a thumbnail at most.
const SIDE: u32 = 256;
const QUALITY: u8 = 85;

/// Averages areas: every pixel of the picture counts with the share of it that lies in a pixel of the thumbnail.
pub(super) struct Thumbnail {
    columns: Axis,
    lines: Axis,
    /// Sums over the width of the last row, for each pixel of a line of the thumbnail.
    across: Vec<u64>,
    /// Sums of the line at work.
    line: Vec<u64>,
    pixels: Vec<u8>,
}

/// A walk along one direction of the picture. Lengths are scaled so that all shares are whole numbers: a pixel of the
/// picture is `small` long and one of the thumbnail `large`.
#[derive(Clone, Copy)]
struct Axis {
    large: u64,
    small: u64,
    /// What is left of the thumbnail's pixel at work.
    room: u64,
}

impl Axis {
    /// The share of the next pixel of the picture in the thumbnail's pixel at work and, when that ends with it, the
    /// share in the one after.
    fn advance(&mut self) -> (u64, Option<u64>) {
        if self.small < self.room {
            self.room -= self.small;
            return (self.small, None);
        }
        let inside = self.room;
        let beyond = self.small - inside;
        self.room = self.large - beyond;
        (inside, Some(beyond))
    }
}

impl Thumbnail {
    pub(super) fn new(width: u32, height: u32) -> Self {
        let longer = u64::from(width.max(height));
        let axis = |side: u32| {
            let large = u64::from(side);
            let scaled = (large * u64::from(SIDE) + longer / 2) / longer;
            let small = if longer <= u64::from(SIDE) { large } else { scaled.max(1) };
            Axis { large, small, room: large }
        };
        let (columns, lines) = (axis(width), axis(height));
        let values = columns.small as usize * 3;
        Self {
            across: vec![0; values],
            line: vec![0; values],
            pixels: Vec::with_capacity(values * lines.small as usize),
            columns,
            lines,
        }
    }

    pub(super) fn row(&mut self, row: &[u8]) {
        self.across.fill(0);
        let (targets, _) = self.across.as_chunks_mut::<3>();
        let mut columns = self.columns;
        let mut target = 0;
        for pixel in row.as_chunks::<3>().0 {
            let (inside, beyond) = columns.advance();
            add(&mut targets[target], pixel, inside);
            if let Some(beyond) = beyond {
                target += 1;
                if beyond > 0 {
                    add(&mut targets[target], pixel, beyond);
                }
            }
        }
        let (inside, beyond) = self.lines.advance();
        self.add_line(inside);
        if let Some(beyond) = beyond {
            self.end_line();
            self.add_line(beyond);
        }
    }

    fn add_line(&mut self, share: u64) {
        for (sum, value) in self.line.iter_mut().zip(&self.across) {
            *sum += share * value;
        }
    }

    fn end_line(&mut self) {
        let area = self.columns.large * self.lines.large;
        self.pixels.extend(self.line.iter().map(|sum| ((sum + area / 2) / area) as u8));
        self.line.fill(0);
    }

    /// As a JPEG, when all rows have been taken.
    pub(super) fn finish(self) -> Result<Vec<u8>, WriteError> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, QUALITY);
        encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
        // At most 256.
        let (width, height) = (self.columns.small as u16, self.lines.small as u16);
        encoder.encode(&self.pixels, width, height, ColorType::Rgb)?;
        Ok(file)
    }
}

fn add(sums: &mut [u64; 3], pixel: &[u8; 3], share: u64) {
    for (sum, value) in sums.iter_mut().zip(pixel) {
        *sum += share * u64::from(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thumbnail(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Thumbnail {
        let mut thumbnail = Thumbnail::new(width, height);
        for y in 0..height {
            thumbnail.row(&(0..width).flat_map(|x| pixel(x, y)).collect::<Vec<_>>());
        }
        thumbnail
    }

    #[test]
    fn the_longer_side_has_256_pixels_and_small_pictures_stay_as_they_are() {
        for (size, small) in [
            ((1024, 1024), (256, 256)),
            ((4096, 2304), (256, 144)),
            ((300, 511), (150, 256)),
            ((257, 1), (256, 1)),
            ((1, 16_384), (1, 256)),
            ((256, 40), (256, 40)),
            ((40, 24), (40, 24)),
        ] {
            let thumbnail = thumbnail(size.0, size.1, |x, y| [x as u8, y as u8, 7]);
            assert_eq!((thumbnail.columns.small, thumbnail.lines.small), small, "{size:?}");
            assert_eq!(thumbnail.pixels.len() as u64, small.0 * small.1 * 3, "{size:?}");
            if size == (40, 24) {
                assert_eq!(thumbnail.pixels[3 * 41..3 * 42], [1, 1, 7]);
            }
        }
    }

    #[test]
    fn each_pixel_is_the_mean_of_its_area() {
        let value = |x: u32, y: u32, channel: u32| (x * 7 + y * 13 + channel * 50) % 251;
        let (width, height) = (700, 411);
        let thumbnail = thumbnail(width, height, |x, y| [0, 1, 2].map(|channel| value(x, y, channel) as u8));
        let (columns, lines) = (thumbnail.columns.small as u32, thumbnail.lines.small as u32);
        let overlap = |at: u32, target: u32, large: u32, small: u32| {
            let scale = f64::from(large) / f64::from(small);
            let (start, end) = (f64::from(target) * scale, f64::from(target + 1) * scale);
            (end.min(f64::from(at + 1)) - start.max(f64::from(at))).max(0.0)
        };
        for (column, line) in [(0, 0), (1, 0), (100, 77), (columns - 1, lines - 1), (17, lines - 1)] {
            for channel in 0..3 {
                let (mut sum, mut area) = (0.0, 0.0);
                for y in 0..height {
                    for x in 0..width {
                        let share = overlap(x, column, width, columns) * overlap(y, line, height, lines);
                        sum += share * f64::from(value(x, y, channel));
                        area += share;
                    }
                }
                let found = thumbnail.pixels[((line * columns + column) * 3 + channel) as usize];
                // Half a level of rounding.
                assert!((sum / area - f64::from(found)).abs() < 0.5001, "{column}, {line}: {found}");
            }
        }
    }

    #[test]
    fn it_is_a_jpeg_that_others_read() {
        let file = thumbnail(1000, 500, |x, _| [(x / 4) as u8; 3]).finish().unwrap();
        let read = super::super::pixels(&file).unwrap();
        assert_eq!((read.width, read.height), (256, 128));
        // A gradient from black to white survives JPEG within a few levels.
        assert!(read.rgb[0] < 6 && read.rgb[3 * 255] > 243, "{:?}", &read.rgb[..6]);
    }
}
