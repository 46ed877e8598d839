//! Layers as candle custom operations, with CPU kernels of our own.
//!
//! Tensors are contiguous f32 with the channels last: `[tokens, channels]` or `[rows, width, channels]`.

mod attention;
pub(crate) mod count;
mod halo;
mod linear;
mod norm;
mod pixel_norm;
mod resample;

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

pub use attention::{CrossText, CrossTexts, ScaleSums, TokenAttention};
pub use halo::{Conv, GatedDepthwise, GatedPictures, MultiScale, RowOp, UpsampleConv};
pub(crate) use halo::{conv_values, upsample_values};
pub use linear::Linear;
pub use norm::{AddGated, LayerNormModulated, RmsNorm};
pub use pixel_norm::{ChannelScale, PixelNorm};
pub use resample::{NearestPixels, Shuffle, ShuffleAdd, StridedConv, Unshuffle, UnshuffleAdd};

pub use crate::cpu::math::Activation;

/// The values of a contiguous f32 tensor on the CPU.
fn values<'a>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{name}: the tensor is not contiguous")
    };
    match storage {
        CpuStorage::F32(values) => Ok(&values[start..end]),
        _ => bail!("{name}: the tensor is not f32"),
    }
}

/// The result of an operation.
fn made(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// Copies a tensor's values out, in f32.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Tensors of equal width one below the other.
///
/// candle's own does the same with a thread pool that spins, which costs more than such copies take.
pub fn join_rows(parts: &[Tensor]) -> Result<Tensor> {
    let [first, ..] = parts else { bail!("no rows to join") };
    if let [only] = parts {
        return Ok(only.clone());
    }
    let mut dims = first.dims().to_vec();
    dims[0] = parts.iter().map(|part| part.dim(0)).sum::<Result<_>>()?;
    let mut all = Vec::with_capacity(dims.iter().product());
    for part in parts {
        let (storage, layout) = part.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("rows to join are not on the CPU") };
        all.extend_from_slice(values("join-rows", storage, layout)?);
    }
    Tensor::from_vec(all, dims, first.device())
}
