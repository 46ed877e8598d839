//! Layers, with CPU kernels of our own or the kernels of a CUDA device (`cuda`).
//!
//! Tensors are contiguous with the channels last: `[tokens, channels]` or `[rows, width, channels]`. On the CPU they are f32,
//! and layers are candle's custom operations. A layer computes where its weights are, and moves what comes from the CPU there;
//! one without weights computes where its input is. This module is the only place that chooses.

mod attention;
pub(crate) mod count;
mod halo;
mod linear;
mod norm;
mod pixel_norm;
mod resample;
mod text;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};

pub use attention::{CrossText, ScaleSums, TokenAttention, cross_attention};
pub use halo::{Conv, GatedDepthwise, MultiScale, RowOp, UpsampleConv};
pub(crate) use halo::{conv_values, upsample_values};
pub use linear::Linear;
pub use norm::{Modulation, RmsNorm, add, add_gated, layer_norm_modulated};
pub use pixel_norm::{ChannelScale, PixelNorm};
pub use resample::{StridedConv, nearest_pixels, shuffle, unshuffle};

pub use text::{CausalSoftmax, Rotation, gelu_product};

pub use crate::cpu::math::Activation;
use crate::{cuda, placement};

/// Whether a tensor is one for the kernels of a device.
fn by_kernels(tensor: &Tensor) -> bool {
    placement::by_kernels(tensor.device(), tensor.dtype())
}

/// Whether a tensor is on a device.
pub fn on_device(tensor: &Tensor) -> bool {
    by_kernels(tensor)
}

/// Decoded rows `[rows, width, 3]` on a device as bytes of interleaved RGB.
pub fn to_rgb8(rows: &Tensor) -> Result<Vec<u8>> {
    cuda::to_rgb8(rows, 0..rows.dim(1)?)?.flatten_all()?.to_vec1()
}

/// The place of the first value on a device that is not finite, if there is one.
pub fn first_not_finite(x: &Tensor) -> Result<Option<usize>> {
    cuda::first_not_finite(x)
}

/// A tensor where `weight` is, in its type.
fn put_beside(weight: &Tensor, tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(weight.dtype())?.to_device(weight.device())
}

/// A tensor on the CPU in f32: itself, or a copy. Waits for a device.
pub fn to_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)
}

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

/// Copies a tensor's values out, in f32, from any device.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()
}

/// Tensors of equal width one below the other.
///
/// candle's own does the same with a thread pool that spins, which costs more than such copies take.
pub fn join_rows(parts: &[Tensor]) -> Result<Tensor> {
    let [first, ..] = parts else { bail!("no rows to join") };
    if let [only] = parts {
        return Ok(only.clone());
    }
    if by_kernels(first) {
        return Tensor::cat(parts, 0);
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
