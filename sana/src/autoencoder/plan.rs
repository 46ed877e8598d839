//! What a decode costs, from the configuration alone: multiply-adds, how many of them are done twice, and memory.
//!
//! [`Plan::of`] counts what the decoder computes, column by column and tile by tile as it does it; a test counts in
//! the layers themselves and compares.

use std::ops::Range;

use super::layout::{self, Kind, Module};
use super::{Tiling, tiles};
use crate::Error;
use crate::config::AutoencoderConfig;

/// The work of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageWork {
    /// The stage: its results have the picture's sides divided by `2^level`.
    pub level: usize,
    /// Multiply-adds computed. Convolutions count with all their taps, those after nearest upsampling with the 2x2
    /// that are left when equal pixels are put together; norms, activations and shortcuts do not count.
    pub multiply_adds: u128,
    /// Those of the untiled decode.
    pub whole: u128,
}

/// The cost of decoding one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// From the latent's size to the picture's.
    pub stages: Vec<StageWork>,
    /// Bytes of activations at the peak, an estimate; see [`Plan::of`].
    pub activations: u128,
}

impl Plan {
    /// The cost of a picture of `width` x `height` pixels.
    ///
    /// Memory follows this formula, in f32 values: the largest over all layers of what exists while a layer works on a
    /// band (its input, what is between its parts, its result), plus the rows that all layers keep between bands (the last
    /// ones of every convolution's input, at most 6), plus the input of the largest attention, which waits whole for its
    /// second pass; with blended tiles one row of decoded tiles twice. Buffers of the kernels are not in it.
    /// The caller's own copy of the picture and the weights are not in it.
    ///
    /// Errors: sides that are 0 or no multiples of the latent pixel, or a blend whose stride does not fit its tile.
    pub fn of(config: &AutoencoderConfig, size: (usize, usize), tiling: Tiling) -> Result<Self, Error> {
        Self::placed(config, size, tiling, false)
    }

    /// The same on a device, whose bands are larger where their height is free.
    pub fn on_device(
        config: &AutoencoderConfig,
        size: (usize, usize),
        tiling: Tiling,
    ) -> Result<Self, Error> {
        Self::placed(config, size, tiling, true)
    }

    fn placed(
        config: &AutoencoderConfig,
        (width, height): (usize, usize),
        tiling: Tiling,
        on_device: bool,
    ) -> Result<Self, Error> {
        let scale = config.scale();
        // Far beyond what fits into memory, and far from where sums of sizes would overflow.
        let fits = |side: usize| side > 0 && side <= 1 << 30 && side.is_multiple_of(scale);
        if !fits(width) || !fits(height) {
            return Err(Error::Size(format!(
                "a picture of {width}x{height} cannot be decoded: sides must be multiples of {scale}"
            )));
        }
        let modules = layout::decoder(config);
        let mut stages: Vec<StageWork> = (0..config.decoder.len())
            .rev()
            .map(|level| StageWork { level, multiply_adds: 0, whole: 0 })
            .collect();
        let deepest = config.decoder.len() - 1;
        let activations = match tiling {
            Tiling::Whole | Tiling::Bands(_) | Tiling::Tiles(_) => {
                let shapes = shapes(&modules, (width, height), tiling, on_device);
                for (module, shape) in modules.iter().zip(&shapes) {
                    let stage = &mut stages[deepest - module.level];
                    stage.multiply_adds += shape.computed * (height >> module.level) as u128 * each(module);
                }
                4 * values(&modules, &shapes, (width, height))
            }
            Tiling::Blend { tile, stride } => {
                blend(&modules, &mut stages, (width, height), (tile / scale, stride / scale))? * 4
            }
        };
        for module in &modules {
            let pixels = (width >> module.level) as u128 * (height >> module.level) as u128;
            stages[deepest - module.level].whole += pixels * each(module);
        }
        Ok(Self { stages, activations })
    }

    /// Multiply-adds of all stages.
    pub fn multiply_adds(&self) -> u128 {
        self.stages.iter().map(|stage| stage.multiply_adds).sum()
    }

    /// Those of the untiled decode.
    pub fn whole(&self) -> u128 {
        self.stages.iter().map(|stage| stage.whole).sum()
    }

    /// The share that is computed again, of the untiled decode.
    pub fn recomputed(&self) -> f64 {
        self.multiply_adds() as f64 / self.whole() as f64 - 1.0
    }
}

/// Rows that a convolution keeps at most, those that wait for a block of rows to be complete with them.
const KEPT: u128 = 6;

fn each(module: &Module) -> u128 {
    u128::from(module.multiply_adds())
}

/// How a module runs.
struct Shape {
    /// Columns of its result that are computed, over all columns of tiles.
    computed: u128,
    /// Columns of its input, over all columns of tiles.
    taken: u128,
    /// Columns of its input at a time, at most.
    widest: u128,
    /// Rows of its input in a band.
    band: u128,
}

fn shapes(
    modules: &[Module],
    (width, height): (usize, usize),
    tiling: Tiling,
    on_device: bool,
) -> Vec<Shape> {
    let local = match tiling {
        Tiling::Tiles(_) => tiles::first(modules),
        Tiling::Whole | Tiling::Bands(_) | Tiling::Blend { .. } => modules.len(),
    };
    // A band begins at the latent; a layer's bands follow from there.
    let deepest = modules[0].level;
    let first = tiling.band(on_device, deepest, width >> deepest, modules[0].channels().1);
    let first = first.unwrap_or(height >> deepest).min(height >> deepest);
    let mut band = first;
    let rows_of = |index: usize, level: usize, channels: usize| match tiling {
        Tiling::Tiles(side) if index >= local => Some((tiles::side(side) >> level).max(1)),
        Tiling::Whole | Tiling::Bands(_) | Tiling::Tiles(_) | Tiling::Blend { .. } => {
            tiling.band(on_device, level, width >> level, channels)
        }
    };
    let mut shapes = Vec::with_capacity(modules.len());
    for (index, module) in modules.iter().enumerate() {
        let level = module.input_level();
        if let Tiling::Tiles(side) = tiling
            && index == local
        {
            // Columns of squares put bands together.
            band = (tiles::side(side) >> level).max(1).min(height >> level);
        }
        let wanted = rows_of(index, module.level, module.channels().1).unwrap_or(height >> module.level);
        match module.kind {
            // Its second pass chooses its own bands.
            Kind::Attention { .. } => band = wanted.min(height >> level),
            // Bands are split before they grow.
            Kind::Upsample { .. } => band = band.min((wanted / 2).max(1)),
            Kind::Conv { .. }
            | Kind::Downsample { .. }
            | Kind::Residual { .. }
            | Kind::Gated { .. }
            | Kind::Norm { .. } => {}
        }
        let all = (width >> level) as u128;
        if index < local {
            let computed = (width >> module.level) as u128;
            shapes.push(Shape { computed, taken: all, widest: all, band: band as u128 });
        } else {
            shapes.push(Shape { computed: 0, taken: 0, widest: 0, band: band as u128 });
        }
        if module.level < level {
            band *= 2;
        }
    }
    if let Tiling::Tiles(side) = tiling {
        for out in tiles::columns(width, tiles::side(side)) {
            let windows: Vec<Range<usize>> = tiles::windows(&modules[local..], out, width);
            for ((module, window), shape) in modules[local..].iter().zip(&windows).zip(&mut shapes[local..]) {
                shape.computed += tiles::computed(module, window).len() as u128;
                shape.taken += window.len() as u128;
                shape.widest = shape.widest.max(window.len() as u128);
            }
        }
    }
    shapes
}

/// Values at the peak, as [`Plan::of`] says.
fn values(modules: &[Module], shapes: &[Shape], (width, height): (usize, usize)) -> u128 {
    let (mut working, mut kept, mut waiting) = (0, 0, 0);
    for (module, shape) in modules.iter().zip(shapes) {
        let (input, output) = module.channels();
        let (input, output) = (input as u128, output as u128);
        let level = module.input_level();
        let (taken, pixels) = (shape.taken, shape.band * shape.widest);
        let whole = shape.band >= (height >> level) as u128;
        // Of one pixel of the input: values at work; of one of its columns: values kept between bands. A convolution keeps
        // two rows, and views of a small band keep the band.
        let rows = shape.band.min(KEPT);
        let (at_work, held) = match module.kind {
            Kind::Conv { .. } => (2 * input + output, rows * input),
            // With a framed copy of the input, or with the result before its shuffle.
            Kind::Upsample { shuffle, .. } => {
                (if shuffle { input + 8 * output } else { 2 * input + 4 * output }, rows * input)
            }
            Kind::Downsample { .. } => (2 * input + output, rows * input),
            // Input, first result, second result, norm.
            Kind::Residual { .. } => (4 * input, 2 * rows * input),
            // Input, keys and values, the same filtered, both side by side; or input, queries, attended, projected, norm.
            Kind::Attention { scale, .. } => {
                (if scale.is_some() { 9 * input } else { 5 * input }, 2 * rows * input)
            }
            // Input, inverted, gated, projected, norm.
            Kind::Gated { .. } => (15 * input, 9 * rows * input),
            Kind::Norm { .. } => (2 * input, 0),
        };
        working = working.max(at_work * pixels);
        if !whole {
            kept += held * taken;
            if let Kind::Attention { .. } = module.kind {
                waiting = waiting.max(input * (width >> level) as u128 * (height >> level) as u128);
            }
        }
    }
    working + kept + waiting
}

/// Adds up the tiles of a blended decode and gives the values at its peak. Sides are in latent pixels.
fn blend(
    modules: &[Module],
    stages: &mut [StageWork],
    (width, height): (usize, usize),
    (side, step): (usize, usize),
) -> Result<u128, Error> {
    let deepest = modules[0].level;
    let (columns, rows) = (width >> deepest, height >> deepest);
    let whole = columns <= side && rows <= side;
    if !whole && (step == 0 || step > side) {
        return Err(Error::Setting(format!(
            "tiles of {side} latent pixels every {step}: the stride must be at least 1 and at most the tile"
        )));
    }
    let lengths = |length: usize| -> Vec<usize> {
        if whole {
            vec![length]
        } else {
            (0..length).step_by(step).map(|start| side.min(length - start)).collect()
        }
    };
    let sum = |lengths: &[usize]| lengths.iter().map(|&length| length as u128).sum::<u128>();
    let (across, down) = (lengths(columns), lengths(rows));
    let pixels = sum(&across) * sum(&down);
    for module in modules {
        let larger = 1 << (2 * (deepest - module.level));
        stages[deepest - module.level].multiply_adds += pixels * larger * each(module);
    }
    let tile = (columns.min(side) << deepest, rows.min(side) << deepest);
    let at_work = values(modules, &shapes(modules, tile, Tiling::Whole, false), tile);
    let row = (sum(&across) << deepest) * tile.1 as u128 * 3;
    Ok(at_work + if whole { 0 } else { 2 * row })
}

#[cfg(test)]
mod tests;
