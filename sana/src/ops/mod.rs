//! Layers as candle custom operations, with CPU kernels of our own.
//!
//! Tensors are contiguous f32 with the channels last: `[tokens, channels]` or `[rows, width, channels]`.

mod attention;
mod halo;
mod linear;
mod norm;

use candle_core::{CpuStorage, Layout, Result, Shape, Tensor, bail};

pub use attention::{CrossText, ScaleSums, TokenAttention};
pub use halo::{Conv, GatedDepthwise, MultiScale, UpsampleConv};
pub use linear::Linear;
pub use norm::{AddGated, LayerNormModulated, RmsNorm};

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
