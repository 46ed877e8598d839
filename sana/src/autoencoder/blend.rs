//! diffusers' tiled decode: overlapping tiles, each decoded alone, blended where they overlap.
//!
//! An approximation, because each tile's attention sees that tile only; kept to compare with (reference
//! section 10).

use candle_core::{Result, Tensor};

use super::Decoder;

/// A decoded tile, `[rows, width, 3]`.
struct Tile {
    values: Vec<f32>,
    rows: usize,
    width: usize,
}

/// Decodes in tiles and hands out one row of tiles at a time.
pub fn decode<E: From<candle_core::Error>>(
    decoder: &Decoder,
    latent: &Tensor,
    tile: usize,
    stride: usize,
    rows: &mut dyn FnMut(&Tensor) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let scale = decoder.scale();
    let (height, width, _) = latent.dims3().map_err(E::from)?;
    let (side, step) = (tile / scale, stride / scale);
    if height <= side && width <= side {
        return rows(&decoder.decode_whole(latent, None)?);
    }
    if step == 0 || step > side {
        return Err(E::from(candle_core::Error::Msg(format!(
            "tiles of {tile} pixels every {stride}: the stride must be at least {scale} and at most the tile"
        ))));
    }
    let overlap = tile - stride;
    let mut above: Vec<Tile> = Vec::new();
    for top in (0..height).step_by(step) {
        let mut tiles: Vec<Tile> = Vec::new();
        for (column, left) in (0..width).step_by(step).enumerate() {
            let mut tile = decode_tile(decoder, latent, (top, left), side)?;
            // The neighbours are blended already: the order matters in the corners.
            if let Some(above) = above.get(column) {
                blend_rows(above, &mut tile, overlap);
            }
            if let Some(left) = tiles.last() {
                blend_columns(left, &mut tile, overlap);
            }
            tiles.push(tile);
        }
        let parts = tiles.iter().map(|tile| crop(tile, stride)).collect::<Result<Vec<_>>>()?;
        rows(&Tensor::cat(&parts, 1)?)?;
        above = tiles;
    }
    Ok(())
}

fn decode_tile(decoder: &Decoder, latent: &Tensor, (top, left): (usize, usize), side: usize) -> Result<Tile> {
    let (height, width, _) = latent.dims3()?;
    let part = latent.narrow(0, top, side.min(height - top))?.narrow(1, left, side.min(width - left))?;
    let picture = decoder.decode_whole(&part, None)?;
    let (rows, width, _) = picture.dims3()?;
    Ok(Tile { values: crate::ops::to_vec(&picture)?, rows, width })
}

fn crop(tile: &Tile, stride: usize) -> Result<Tensor> {
    let whole = Tensor::from_slice(&tile.values, (tile.rows, tile.width, 3), &candle_core::Device::Cpu)?;
    whole.narrow(0, 0, stride.min(tile.rows))?.narrow(1, 0, stride.min(tile.width))
}

/// Over the first rows, from the tile above to this one.
fn blend_rows(above: &Tile, tile: &mut Tile, overlap: usize) {
    let count = above.rows.min(tile.rows).min(overlap);
    let row = tile.width * 3;
    let first = (above.rows - count) * row;
    for y in 0..count {
        let share = y as f32 / count as f32;
        for i in 0..row {
            let value = &mut tile.values[y * row + i];
            *value = above.values[first + y * row + i] * (1.0 - share) + *value * share;
        }
    }
}

/// Over the first columns, from the tile on the left to this one.
fn blend_columns(left: &Tile, tile: &mut Tile, overlap: usize) {
    let count = left.width.min(tile.width).min(overlap);
    for y in 0..tile.rows.min(left.rows) {
        for x in 0..count {
            let share = x as f32 / count as f32;
            for c in 0..3 {
                let other = left.values[(y * left.width + left.width - count + x) * 3 + c];
                let value = &mut tile.values[(y * tile.width + x) * 3 + c];
                *value = other * (1.0 - share) + *value * share;
            }
        }
    }
}
