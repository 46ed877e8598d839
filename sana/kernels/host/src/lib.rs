//! Sana's CUDA kernels compiled for the host, for tests where there is no GPU.
//!
//! The sources are those of the GPU, behind a small header (`shim.h`): blocks run one after the other, the threads of
//! a block as fibers that take turns at barriers and shuffles. What it cannot show is how a GPU orders memory accesses of
//! threads that do not wait for each other.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// How the values of tensors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of f32.
    Bf16,
    /// 16 bits, IEEE 754 half precision.
    F16,
}

#[repr(C)]
struct Entry {
    name: *const c_char,
    parameters: *const c_char,
    _call: extern "C" fn(*mut *mut c_void),
    _together: c_int,
}

unsafe extern "C" {
    fn sana_host_entries_f32(count: *mut usize) -> *const Entry;
    fn sana_host_entries_bf16(count: *mut usize) -> *const Entry;
    fn sana_host_entries_f16(count: *mut usize) -> *const Entry;
    fn sana_host_launch(
        entry: *const Entry,
        grid: *const c_uint,
        threads: *const c_uint,
        arguments: *mut *mut c_void,
    );
}

fn entries(scalar: Scalar) -> &'static [Entry] {
    let mut count = 0;
    // SAFETY: each gives a static array and its length.
    unsafe {
        let first = match scalar {
            Scalar::F32 => sana_host_entries_f32(&mut count),
            Scalar::Bf16 => sana_host_entries_bf16(&mut count),
            Scalar::F16 => sana_host_entries_f16(&mut count),
        };
        std::slice::from_raw_parts(first, count)
    }
}

fn text(of: *const c_char) -> &'static str {
    // SAFETY: the entries hold string literals.
    unsafe { CStr::from_ptr(of) }.to_str().expect("names and letters are ASCII")
}

/// All kernels with a letter for each parameter, as the compiler read them from the sources: `s` values of the
/// precision, `f`, `d` f32 and f64 values, `B` bytes, `U` 32-bit integers (capitals are written to), `i` an integer,
/// `r` a number. With f32 values `s` reads `f`.
pub fn kernels(scalar: Scalar) -> impl Iterator<Item = (&'static str, &'static str)> {
    entries(scalar).iter().map(|entry| (text(entry.name), text(entry.parameters)))
}

/// Runs a kernel on `grid` blocks of `threads` threads; the error names one that is not there.
///
/// # Safety
///
/// `arguments` must point to one value for each of the kernel's parameters, of its type, as `cuLaunchKernel` wants
/// them; what these point to must be as long as the kernel reads and writes.
pub unsafe fn launch(
    scalar: Scalar,
    kernel: &str,
    grid: [u32; 3],
    threads: [u32; 3],
    arguments: &mut [*mut c_void],
) -> Result<(), String> {
    let entry = entries(scalar).iter().find(|entry| text(entry.name) == kernel);
    let entry = entry.ok_or_else(|| format!("there is no kernel {kernel}"))?;
    let parameters = text(entry.parameters).len();
    if parameters != arguments.len() {
        return Err(format!("{kernel} takes {parameters} arguments, not {}", arguments.len()));
    }
    // SAFETY: the caller's promise.
    unsafe { sana_host_launch(entry, grid.as_ptr(), threads.as_ptr(), arguments.as_mut_ptr()) }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_precisions_have_the_same_kernels() {
        let of = |scalar| kernels(scalar).collect::<Vec<_>>();
        assert_eq!(of(Scalar::Bf16), of(Scalar::F16));
        let plain = |(name, letters): (&'static str, &'static str)| {
            (name, letters.replace('s', "f").replace('S', "F"))
        };
        let wide: Vec<_> = of(Scalar::F32).into_iter().map(plain).collect();
        assert_eq!(wide, of(Scalar::Bf16).into_iter().map(plain).collect::<Vec<_>>());
        assert!(wide.len() > 15);
    }

    #[test]
    fn an_unknown_kernel_and_a_wrong_number_of_arguments_are_refused() {
        // SAFETY: nothing is run.
        let run = |name| unsafe { launch(Scalar::F32, name, [1; 3], [1; 3], &mut []) };
        assert!(run("nothing").unwrap_err().contains("nothing"));
        assert!(run("softmax").unwrap_err().contains("takes 4 arguments"));
    }
}
