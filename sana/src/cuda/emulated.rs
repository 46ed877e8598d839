//! Launches on the host, for tests: tensors are on candle's CPU device.
//!
//! Every tensor is copied between two margins of NaN first. A kernel that reads outside of its tensors spoils its result,
//! one that writes outside of its target is caught, and so is a value of a new target that was never written.

use std::ffi::c_void;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use sana_kernels_host::Scalar;

use super::{Arg, Launch};

/// Bytes before and behind a tensor.
const MARGIN: usize = 1 << 10;
/// What margins and new targets are filled with: a NaN in every type of floats.
const FILL: u8 = 0xff;

/// Bytes between margins, aligned as device memory is.
struct Guarded {
    words: Vec<u128>,
    length: usize,
}

impl Guarded {
    fn new(bytes: &[u8]) -> Self {
        let words = vec![u128::MAX; (2 * MARGIN + bytes.len()).div_ceil(16)];
        let mut guarded = Self { words, length: bytes.len() };
        guarded.all()[MARGIN..][..bytes.len()].copy_from_slice(bytes);
        guarded
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: any bytes are bytes; the length is that of the words.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.words.len() * 16) }
    }

    fn pointer(&mut self) -> *mut c_void {
        self.all()[MARGIN..].as_mut_ptr().cast()
    }

    fn into_bytes(mut self, kernel: &str) -> Result<Vec<u8>> {
        let length = self.length;
        let all = self.all();
        let (before, rest) = all.split_at(MARGIN);
        let (bytes, behind) = rest.split_at(length);
        if before.iter().chain(behind).any(|&byte| byte != FILL) {
            bail!("{kernel} wrote outside of its target");
        }
        Ok(bytes.to_vec())
    }
}

/// Runs a launch whose target is new.
pub(super) fn make(launch: &Launch<'_>, count: usize, dtype: DType) -> Result<CpuStorage> {
    let target = run(launch, Guarded::new(&vec![FILL; count * dtype.size_in_bytes()]))?;
    let values = storage(&target, dtype)?;
    let unwritten = match &values {
        CpuStorage::F32(values) => values.iter().any(|value| value.to_bits() == u32::MAX),
        CpuStorage::BF16(values) => values.iter().any(|value| value.to_bits() == u16::MAX),
        CpuStorage::F16(values) => values.iter().any(|value| value.to_bits() == u16::MAX),
        _ => false,
    };
    if unwritten {
        bail!("{} left values of its target as they were", launch.kernel.name);
    }
    Ok(values)
}

/// Runs a launch that changes `count` values from `start` on.
pub(super) fn change(launch: &Launch<'_>, target: &mut CpuStorage, start: usize, count: usize) -> Result<()> {
    macro_rules! on {
        ($($variant:ident),*) => {
            match target {
                $(CpuStorage::$variant(values) => {
                    let part = &mut values[start..start + count];
                    let done = run(launch, Guarded::new(raw(part)))?;
                    // SAFETY: as many bytes as the part has, and any bits are a value of these types.
                    unsafe { std::ptr::copy_nonoverlapping(done.as_ptr(), part.as_mut_ptr().cast(), done.len()) }
                })*
                _ => bail!("{}: the target is of an unknown type", launch.kernel.name),
            }
        };
    }
    on!(F32, BF16, F16, F64, U32);
    Ok(())
}

fn run(launch: &Launch<'_>, mut target: Guarded) -> Result<Vec<u8>> {
    enum Value {
        Pointer(*mut c_void),
        Int(i32),
        Float(f32),
    }
    let mut copies = Vec::new();
    let mut values = Vec::new();
    for arg in &launch.args {
        values.push(match arg {
            Arg::Tensor(tensor) => {
                copies.push(Guarded::new(&bytes_of(tensor)?));
                // The vector may move its elements, not what they point to.
                Value::Pointer(copies.last_mut().map_or(std::ptr::null_mut(), Guarded::pointer))
            }
            Arg::Nothing => Value::Pointer(std::ptr::null_mut()),
            Arg::Target => Value::Pointer(target.pointer()),
            // Fits: checked before every run.
            Arg::Int(value) => Value::Int(*value as i32),
            Arg::Float(value) => Value::Float(*value),
        });
    }
    let mut arguments: Vec<*mut c_void> = values
        .iter_mut()
        .map(|value| match value {
            Value::Pointer(pointer) => std::ptr::from_mut(pointer).cast(),
            Value::Int(value) => std::ptr::from_mut(value).cast(),
            Value::Float(value) => std::ptr::from_mut(value).cast(),
        })
        .collect();
    let scalar = match launch.scalar {
        DType::F32 => Scalar::F32,
        DType::BF16 => Scalar::Bf16,
        DType::F16 => Scalar::F16,
        other => bail!("there are no kernels for {other:?}"),
    };
    let (name, grid, block) = (launch.kernel.name, launch.grid(), launch.block());
    // SAFETY: the arguments were compared with the kernel's row of the table, and a test compares that with the source.
    unsafe { sana_kernels_host::launch(scalar, name, grid, block, &mut arguments) }
        .map_err(candle_core::Error::Msg)?;
    target.into_bytes(name)
}

/// The values of a contiguous tensor as bytes.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the tensor is not on the CPU") };
    let (start, count) = (layout.start_offset(), layout.shape().elem_count());
    macro_rules! on {
        ($($variant:ident),*) => {
            match storage {
                $(CpuStorage::$variant(values) => raw(&values[start..start + count]).to_vec(),)*
                other => bail!("no kernel reads {:?}", other),
            }
        };
    }
    Ok(on!(F32, BF16, F16, F64, U32, U8))
}

fn raw<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and any bytes are bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn storage(bytes: &[u8], dtype: DType) -> Result<CpuStorage> {
    Ok(match dtype {
        DType::F32 => CpuStorage::F32(words(bytes, f32::from_ne_bytes)),
        DType::F64 => CpuStorage::F64(words(bytes, f64::from_ne_bytes)),
        DType::BF16 => CpuStorage::BF16(words(bytes, bf16::from_ne_bytes)),
        DType::F16 => CpuStorage::F16(words(bytes, f16::from_ne_bytes)),
        DType::U8 => CpuStorage::U8(bytes.to_vec()),
        other => bail!("no kernel makes {other:?}"),
    })
}

fn words<const N: usize, T>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|word| of(*word)).collect()
}
