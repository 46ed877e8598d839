//! The layers on a CUDA device: candle's matrix products (cuBLAS) and the kernels of `sana/kernels` around them.
//!
//! It was written and is tested without a GPU: the kernels' sources compile for the host behind a small header
//! (`sana/kernels/host`), where the tests run this whole module, launches included, and compare it with the CPU
//! layers and the fixtures of the reference. What a GPU has shown stands in docs/performance.md.
//!
//! A [`Launch`] is one kernel with its arguments. It is the only way from here to a device, and checks every argument
//! against the kernel's row in [`table`]. Tensors are contiguous, channels last, in f32, bf16 or f16; biases, norms,
//! modulation and depthwise weights are f32, and all arithmetic outside of matrix products is in f32.

mod attention;
mod conv;
mod depthwise;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(test)]
mod emulated;
#[cfg(test)]
mod golden;
mod linear;
mod norm;
mod picture;
#[cfg(any(feature = "cuda", test))]
mod program;
mod table;
#[cfg(test)]
mod tests;
mod text;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, InplaceOp1, Layout, Result, Shape, Tensor, bail,
};

pub(crate) use attention::{CrossText, Sums, token_attention};
pub(crate) use conv::{Conv, ConvShape, UpsampleConv, WINDOW_BYTES, shuffle};
pub(crate) use depthwise::{GatedDepthwise, MultiScale};
pub(crate) use linear::Linear;
pub(crate) use norm::{RmsNorm, add, add_gated, layer_norm_modulated};
pub(crate) use picture::{first_not_finite, to_rgb8};
pub(crate) use text::{CausalSoftmax, gelu_product, rope};

use crate::ops::Activation;
use table::Kernel;

/// Threads of a block of an elementwise kernel, and the values of each: `EACH` in `common.cuh`.
const THREADS: usize = 256;
const EACH: usize = 8;
/// Rows in a block of a kernel that gives each row a warp.
const ROWS: usize = 8;
/// Threads of a warp.
const WARP: usize = 32;
/// Largest grid: first and other dimensions.
const GRID: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "only a device reads its values"))]
enum Arg<'a> {
    /// Where the values of a tensor begin.
    Tensor(&'a Tensor),
    /// No tensor.
    Nothing,
    /// What the launch makes or changes.
    Target,
    Int(i64),
    Float(f32),
}

/// A kernel with its arguments, about to run.
#[derive(Debug)]
#[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "only a device reads its block"))]
struct Launch<'a> {
    kernel: &'static Kernel,
    /// How `s` values are stored.
    scalar: DType,
    grid: [usize; 3],
    block: [usize; 2],
    args: Vec<Arg<'a>>,
}

impl<'a> Launch<'a> {
    fn new(kernel: &'static Kernel, scalar: DType, grid: [usize; 3], block: [usize; 2]) -> Self {
        Self { kernel, scalar, grid, block, args: Vec::with_capacity(kernel.parameters.len()) }
    }

    /// A warp for each of `rows` rows.
    fn over_rows(kernel: &'static Kernel, scalar: DType, rows: usize) -> Self {
        Self::new(kernel, scalar, [rows.div_ceil(ROWS), 1, 1], [WARP, ROWS])
    }

    /// A thread for each few of `count` values.
    fn over_values(kernel: &'static Kernel, scalar: DType, count: usize) -> Self {
        Self::new(kernel, scalar, [count.div_ceil(THREADS * EACH), 1, 1], [THREADS, 1])
    }

    fn tensor(mut self, tensor: &'a Tensor) -> Self {
        self.args.push(Arg::Tensor(tensor));
        self
    }

    fn optional(mut self, tensor: Option<&'a Tensor>) -> Self {
        self.args.push(tensor.map_or(Arg::Nothing, Arg::Tensor));
        self
    }

    fn target(mut self) -> Self {
        self.args.push(Arg::Target);
        self
    }

    fn int(self, value: usize) -> Self {
        // Beyond i64 it is beyond i32 too, which the check tells.
        self.signed(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn ints<const N: usize>(self, values: [usize; N]) -> Self {
        values.into_iter().fold(self, Self::int)
    }

    fn signed(mut self, value: i64) -> Self {
        self.args.push(Arg::Int(value));
        self
    }

    fn float(mut self, value: f32) -> Self {
        self.args.push(Arg::Float(value));
        self
    }

    /// Runs it on the device of its first tensor; the target is a new tensor.
    fn make(self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        self.check(dtype)?;
        let first = self.args.iter().find_map(|arg| match arg {
            Arg::Tensor(tensor) => Some(*tensor),
            Arg::Nothing | Arg::Target | Arg::Int(_) | Arg::Float(_) => None,
        });
        let Some(first) = first else { bail!("{} reads no tensor", self.kernel.name) };
        first.apply_op1_no_bwd(&Make { launch: self, shape, dtype })
    }

    /// Runs it on the device of `target`, which it changes.
    fn change(self, target: &Tensor) -> Result<()> {
        self.check(target.dtype())?;
        if !target.is_contiguous() {
            bail!("{}: the target is not contiguous", self.kernel.name);
        }
        target.inplace_op1(&Change(self))
    }

    /// Compares the arguments with the kernel's parameters, and the grid with what a device allows.
    fn check(&self, target: DType) -> Result<()> {
        let Kernel { name, parameters } = self.kernel;
        if self.args.len() != parameters.len() {
            bail!("{name} takes {} arguments, not {}", parameters.len(), self.args.len());
        }
        for (place, (letter, arg)) in parameters.chars().zip(&self.args).enumerate() {
            let wanted = match letter.to_ascii_lowercase() {
                's' => Some(self.scalar),
                'f' => Some(DType::F32),
                'd' => Some(DType::F64),
                'b' => Some(DType::U8),
                'u' => Some(DType::U32),
                _ => None,
            };
            let fits = match arg {
                Arg::Tensor(tensor) => letter.is_lowercase() && wanted == Some(tensor.dtype()),
                Arg::Nothing => letter.is_lowercase() && wanted.is_some(),
                Arg::Target => letter.is_uppercase() && wanted == Some(target),
                Arg::Int(value) => letter == 'i' && i32::try_from(*value).is_ok(),
                Arg::Float(_) => letter == 'r',
            };
            if !fits {
                bail!("{name}: argument {place} ({letter}) cannot be {arg:?}, the target is {target:?}");
            }
            if let Arg::Tensor(tensor) = arg
                && !tensor.is_contiguous()
            {
                bail!("{name}: argument {place}, {:?}, is not contiguous", tensor.dims());
            }
        }
        if self.grid.iter().zip(GRID).any(|(&size, most)| size == 0 || size > most) {
            bail!("{name}: a grid of {:?} blocks is empty or beyond a device", self.grid);
        }
        Ok(())
    }

    #[cfg(any(feature = "cuda", test))]
    fn grid(&self) -> [u32; 3] {
        // In bounds: checked before every run.
        self.grid.map(|size| size as u32)
    }

    #[cfg(any(feature = "cuda", test))]
    fn block(&self) -> [u32; 3] {
        [self.block[0] as u32, self.block[1] as u32, 1]
    }
}

/// A launch whose target is new.
struct Make<'a> {
    launch: Launch<'a>,
    shape: Shape,
    dtype: DType,
}

impl CustomOp1 for Make<'_> {
    fn name(&self) -> &'static str {
        self.launch.kernel.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        #[cfg(test)]
        return Ok((emulated::make(&self.launch, self.shape.elem_count(), self.dtype)?, self.shape.clone()));
        #[cfg(not(test))]
        bail!("{} of {:?} {:?} needs a CUDA device", self.name(), self.shape, self.dtype)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((driver::make(&self.launch, &storage.device, &self.shape, self.dtype)?, self.shape.clone()))
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Err(candle_core::Error::NotCompiledWithCudaSupport)
    }
}

/// A launch that changes its target.
struct Change<'a>(Launch<'a>);

impl InplaceOp1 for Change<'_> {
    fn name(&self) -> &'static str {
        self.0.kernel.name
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        #[cfg(test)]
        return emulated::change(&self.0, storage, layout.start_offset(), layout.shape().elem_count());
        #[cfg(not(test))]
        bail!("{} of {storage:?} {layout:?} needs a CUDA device", self.0.kernel.name)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        driver::change(&self.0, storage, layout.start_offset())
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, _: &mut CudaStorage, _: &Layout) -> Result<()> {
        Err(candle_core::Error::NotCompiledWithCudaSupport)
    }
}

/// The number by which kernels know an activation: `activate` in `common.cuh`.
fn code(activation: Activation) -> usize {
    match activation {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::Silu => 2,
        Activation::GeluTanh => 3,
    }
}

/// A parameter as kernels read it.
fn f32_of(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)?.contiguous()
}
