//! Exact squares: the finest stages, run for one column of squares at a time.
//!
//! A convolution's result near the sides of a column needs pixels of the neighbouring columns, so each layer takes a
//! window that is wider than what it has to give, and what it gives beyond that is cropped (reference section 11).
//! Windows end where the picture ends, never beyond: there the zeros around a window are those around the picture.
//! Above and below nothing is computed twice, since every convolution keeps its last rows, as with bands.
//!
//! Kernels may compute blocks of [`GRAIN`] x [`GRAIN`] pixels together (Winograd), in which a pixel's rounding depends
//! on all pixels that the block reads. So windows begin at multiples of the block, and a layer must get right every
//! block that holds a needed pixel.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use candle_core::{Result, Tensor};

use super::chain::Chain;
use super::layout::{Kind, Module};
use super::stream::{Delay, Rows, Source};

/// Side of the largest block of pixels that a 3x3 convolution may compute together. A convolution that computes
/// larger ones needs a larger number here, or tiles are no longer exact.
pub const GRAIN: usize = 4;

/// Stages up to this one are cut into squares, unless there is attention in them. Coarser stages run in bands of a few
/// rows: their windows would be the widest compared with what they give.
const COARSEST: usize = 1;

/// The first of the modules that run in squares.
pub fn first(modules: &[Module]) -> usize {
    let global = |module: &Module| matches!(module.kind, Kind::Attention { .. } | Kind::Gated { .. });
    let local = modules.iter().rposition(global).map_or(0, |last| last + 1);
    let fine = modules.iter().position(|module| module.level <= COARSEST).unwrap_or(modules.len());
    local.max(fine)
}

/// The side of squares that are computed for a wanted side.
pub fn side(wanted: usize) -> usize {
    wanted.max(1).checked_next_multiple_of(8).unwrap_or(wanted)
}

/// The columns of the squares in a picture of `width`.
pub fn columns(width: usize, side: usize) -> impl Iterator<Item = Range<usize>> {
    (0..width).step_by(side).map(move |left| left..width.min(left.saturating_add(side)))
}

/// The columns that each of `modules` takes so that the last gives `out` of a picture of `width`; then `out` itself.
pub fn windows(modules: &[Module], out: Range<usize>, width: usize) -> Vec<Range<usize>> {
    let mut windows = vec![out.clone()];
    let mut needed = out;
    for module in modules.iter().rev() {
        let (above, below) = (width >> module.level, width >> module.input_level());
        needed = match module.kind {
            Kind::Norm { .. } => needed,
            Kind::Conv { .. } => around(needed, above),
            Kind::Residual { .. } => around(around(needed, above), above),
            // From a copy with all pixels.
            Kind::Upsample { shuffle: false, shortcut: false, .. } => halved(around(needed, above)),
            Kind::Upsample { .. } => around(halved(needed), below),
            Kind::Attention { .. } | Kind::Gated { .. } | Kind::Downsample { .. } => 0..below,
        };
        windows.push(blocks(needed.clone(), below));
    }
    windows.reverse();
    windows
}

/// The blocks that hold the pixels.
fn blocks(pixels: Range<usize>, width: usize) -> Range<usize> {
    pixels.start / GRAIN * GRAIN..pixels.end.next_multiple_of(GRAIN).min(width)
}

/// What a 3x3 convolution reads for the blocks that hold the pixels.
fn around(pixels: Range<usize>, width: usize) -> Range<usize> {
    let blocks = blocks(pixels, width);
    blocks.start.saturating_sub(1)..(blocks.end + 1).min(width)
}

fn halved(pixels: Range<usize>) -> Range<usize> {
    pixels.start / 2..pixels.end.div_ceil(2)
}

/// The columns that `module` computes from a window, before they are cropped.
pub fn computed(module: &Module, window: &Range<usize>) -> Range<usize> {
    match module.kind {
        Kind::Upsample { .. } => 2 * window.start..2 * window.end,
        Kind::Downsample { .. } => window.start / 2..window.end / 2,
        Kind::Conv { .. }
        | Kind::Residual { .. }
        | Kind::Attention { .. }
        | Kind::Gated { .. }
        | Kind::Norm { .. } => window.clone(),
    }
}

/// All columns of squares side by side.
pub struct Joined<'a> {
    columns: Vec<Column<'a>>,
}

struct Column<'a> {
    rows: Rows<'a>,
    /// Rows whose neighbours are not there yet.
    ready: Delay,
}

impl<'a> Joined<'a> {
    /// The layers from `first` on over `rows`, for a picture of `width` in squares of `side`.
    pub fn new(rows: Rows<'a>, chain: &'a Chain, first: usize, width: usize, side: usize) -> Self {
        let modules = &chain.modules()[first..];
        let height = side >> modules[0].input_level();
        let ranges: Vec<_> = columns(width, side).collect();
        let next = vec![0; ranges.len()];
        let shared =
            Rc::new(RefCell::new(Shared { rows, ended: false, bands: VecDeque::new(), first: 0, next }));
        let column = |(index, out)| {
            let windows = windows(modules, out, width);
            let taken = Taken {
                shared: Rc::clone(&shared),
                column: index,
                window: windows[0].clone(),
                height: height.max(1),
                waiting: Delay::default(),
            };
            let mut rows: Rows<'a> = Box::new(taken);
            for (offset, module) in modules.iter().enumerate() {
                rows = chain.layer(first + offset, rows, Some((side >> module.level).max(1)), None);
                let (there, wanted) = (computed(module, &windows[offset]), windows[offset + 1].clone());
                if there != wanted {
                    rows = Box::new(Cropped { rows, skip: wanted.start - there.start, width: wanted.len() });
                }
            }
            Column { rows, ready: Delay::default() }
        };
        Self { columns: ranges.into_iter().enumerate().map(column).collect() }
    }
}

impl Source for Joined<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Some((first, others)) = self.columns.split_first_mut() else { return Ok(None) };
        let Some(rows) = first.rows.next()? else { return Ok(None) };
        let count = rows.dim(0)?;
        let mut parts = vec![rows];
        for column in others {
            while column.ready.len()? < count {
                let Some(rows) = column.rows.next()? else {
                    candle_core::bail!("a column of tiles is too short")
                };
                column.ready.push(rows);
            }
            parts.push(column.ready.take(count)?);
        }
        Tensor::cat(&parts, 1).map(Some)
    }
}

/// Rows that several columns take, each its own window; a band is kept until the last has taken it.
struct Shared<'a> {
    rows: Rows<'a>,
    ended: bool,
    bands: VecDeque<Tensor>,
    /// Number of the first band kept.
    first: usize,
    /// Number of the band that each column takes next.
    next: Vec<usize>,
}

impl Shared<'_> {
    fn next(&mut self, column: usize) -> Result<Option<Tensor>> {
        let index = self.next[column] - self.first;
        if index == self.bands.len() && !self.ended {
            match self.rows.next()? {
                Some(band) => self.bands.push_back(band),
                None => self.ended = true,
            }
        }
        let Some(band) = self.bands.get(index).cloned() else { return Ok(None) };
        self.next[column] += 1;
        while self.next.iter().all(|&next| next > self.first) {
            self.bands.pop_front();
            self.first += 1;
        }
        Ok(Some(band))
    }
}

/// A column's window of shared rows, as many at a time as a square has.
struct Taken<'a> {
    shared: Rc<RefCell<Shared<'a>>>,
    column: usize,
    window: Range<usize>,
    height: usize,
    waiting: Delay,
}

impl Source for Taken<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        while self.waiting.len()? < self.height {
            let Some(band) = self.shared.borrow_mut().next(self.column)? else { break };
            self.waiting.push(band.narrow(1, self.window.start, self.window.len())?.contiguous()?);
        }
        match self.waiting.len()?.min(self.height) {
            0 => Ok(None),
            count => self.waiting.take(count).map(Some),
        }
    }
}

/// Rows without what was computed beyond the next window.
struct Cropped<'a> {
    rows: Rows<'a>,
    skip: usize,
    width: usize,
}

impl Source for Cropped<'_> {
    fn next(&mut self) -> Result<Option<Tensor>> {
        let Some(rows) = self.rows.next()? else { return Ok(None) };
        rows.narrow(1, self.skip, self.width)?.contiguous().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use candle_core::{Device, Tensor};
    use serde_json::json;

    use super::super::{Decoder, Tiling, decoder_tensors, layout};
    use super::*;
    use crate::Error;
    use crate::config::AutoencoderConfig;
    use crate::noise::Generator;
    use crate::weights::Weights;

    /// A decoder that is wide enough for all kernels of the released ones, with random weights.
    fn decoder(change: serde_json::Value) -> (AutoencoderConfig, Decoder) {
        let mut value = json!({
            "latent_channels": 8,
            "attention_head_dim": 8,
            "upsample_block_type": "interpolate",
            "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
            "decoder_block_out_channels": [16, 32, 32, 32],
            "decoder_layers_per_block": [3, 2, 1, 1],
            "decoder_qkv_multiscales": [[], [], [], [5]],
        });
        let (Some(map), serde_json::Value::Object(change)) = (value.as_object_mut(), change) else {
            panic!("no objects")
        };
        map.extend(change);
        let config = AutoencoderConfig::from_value(value, Path::new("wide")).unwrap();
        let mut noise = Generator::new(5);
        let tensors: HashMap<String, Tensor> = decoder_tensors(&config)
            .into_iter()
            .map(|(name, shape)| {
                let count: usize = shape.iter().product();
                let spread = (shape.first().map_or(1, |&out| count / out) as f32).sqrt().recip();
                let values = noise.randn(count).into_iter().map(|value| value * spread).collect();
                (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let decoder = Decoder::load(&config, &Weights::from_file(&path).unwrap()).unwrap();
        (config, decoder)
    }

    fn bits(decoder: &Decoder, latent: &Tensor, tiling: Tiling) -> Vec<u32> {
        let mut bits = Vec::new();
        let mut take = |rows: &Tensor| -> std::result::Result<(), Error> {
            bits.extend(crate::ops::to_vec(rows)?.into_iter().map(f32::to_bits));
            Ok(())
        };
        decoder.decode(latent, tiling, &mut take).unwrap();
        bits
    }

    #[test]
    fn blocks_of_pixels_that_are_computed_together_stay_together() {
        for change in [
            json!({}),
            json!({"upsample_block_type": "pixel_shuffle", "decoder_layers_per_block": [0, 2, 1, 1]}),
            json!({"decoder_layers_per_block": [0, 2, 1, 1]}),
        ] {
            let (_, decoder) = decoder(change);
            let (height, width) = (7, 13);
            let values = Generator::new(2).randn(height * width * 8);
            let latent = Tensor::from_vec(values, (height, width, 8), &Device::Cpu).unwrap();
            let whole = bits(&decoder, &latent, Tiling::Whole);
            assert_eq!(whole.len(), height * width * 64 * 3);
            for side in [8, 16, 24, 40, 48, 64, 72] {
                assert!(bits(&decoder, &latent, Tiling::Tiles(side)) == whole, "tiles of {side}");
            }
            for band in [1, 8, 24, 100] {
                assert!(bits(&decoder, &latent, Tiling::Bands(Some(band))) == whole, "bands of {band}");
            }
        }
    }

    #[test]
    fn windows_hold_what_is_needed_and_end_at_the_picture() {
        let (config, _) = decoder(json!({}));
        let modules = layout::decoder(&config);
        let modules = &modules[first(&modules)..];
        assert_eq!(modules[0].name, "decoder.up_blocks.1.0");
        let (width, side) = (1024, 128);
        let windows = |out: Range<usize>| windows(modules, out, width);
        let (inner, left, right) = (windows(512..512 + side), windows(0..side), windows(width - side..width));
        for (index, module) in modules.iter().enumerate() {
            let size = width >> module.input_level();
            assert_eq!((left[index].start, right[index].end), (0, size));
            let window = &inner[index];
            assert!(window.start.is_multiple_of(GRAIN) && window.end.is_multiple_of(GRAIN));
            let (there, wanted) = (computed(module, window), &inner[index + 1]);
            assert!(there.start <= wanted.start && wanted.end <= there.end, "{}: {there:?}", module.name);
        }
        // At half the size, three blocks of two convolutions and the last one: 4 pixels each, 1 for the last.
        assert_eq!(inner[inner.len() - 1], 512..640);
        assert_eq!(inner[inner.len() - 2], 508..644);
    }
}
