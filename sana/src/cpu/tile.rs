//! The tile kernels: a few left rows times one panel, sums in registers.
//!
//! A lane's sum is one chain of fused multiply-adds whatever the shape of the tile, so all kernels give the
//! same bits.

use super::Isa;

/// Left rows: row `m` is `data[m * stride..][..depth]`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub count: usize,
    pub depth: usize,
}

/// `sums[m][0..width] += left[m] * panel`, with `panel` of `[depth][width]`; `width` is a whole number of
/// vectors and at most one panel.
pub fn accumulate(isa: Isa, left: Left<'_>, panel: &[f32], width: usize, sums: &mut [f32]) {
    assert!(left.count > 0 && (left.count - 1) * left.stride + left.depth <= left.data.len());
    assert_eq!(panel.len(), left.depth * width);
    assert_eq!(sums.len(), left.count * width);
    assert!(width.is_multiple_of(isa.lanes()) && width <= isa.panel());
    let call = Call {
        left: left.data.as_ptr(),
        stride: left.stride,
        depth: left.depth,
        panel: panel.as_ptr(),
        sums: sums.as_mut_ptr(),
    };
    // SAFETY: the assertions above bound every access, and `isa` is only ever one that this machine has.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => match width / 16 {
                4 => cut(call, left.count, width, [6, 4, 2, 1], avx512::TILES_4),
                3 => cut(call, left.count, width, [8, 4, 2, 1], avx512::TILES_3),
                2 => cut(call, left.count, width, [12, 4, 2, 1], avx512::TILES_2),
                _ => cut(call, left.count, width, [14, 4, 2, 1], avx512::TILES_1),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => match width / 8 {
                2 => cut(call, left.count, width, [6, 4, 2, 1], avx2::TILES_2),
                _ => cut(call, left.count, width, [8, 4, 2, 1], avx2::TILES_1),
            },
            Isa::Portable => match width / 8 {
                2 => cut(call, left.count, width, [4, 2, 1, 1], portable::TILES_2),
                _ => cut(call, left.count, width, [4, 2, 1, 1], portable::TILES_1),
            },
        }
    }
}

/// What a kernel works on.
#[derive(Clone, Copy)]
struct Call {
    left: *const f32,
    stride: usize,
    depth: usize,
    panel: *const f32,
    sums: *mut f32,
}

type Kernel = unsafe fn(Call);

/// Covers `count` rows with tiles of the given heights, the tallest first.
unsafe fn cut(mut call: Call, mut count: usize, width: usize, heights: [usize; 4], kernels: [Kernel; 4]) {
    for (height, kernel) in heights.into_iter().zip(kernels) {
        while count >= height {
            // SAFETY: `height` more rows are in bounds.
            unsafe {
                kernel(call);
                call.left = call.left.add(height * call.stride);
                call.sums = call.sums.add(height * width);
            }
            count -= height;
        }
    }
}

/// One kernel for `R` rows and `V` vectors, from the intrinsics of an instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($features:literal, $lanes:literal, $zero:ident, $load:ident, $store:ident, $set:ident, $fma:ident) => {
        #[target_feature(enable = $features)]
        unsafe fn tile<const R: usize, const V: usize>(call: Call) {
            // SAFETY: the caller has checked the bounds of all rows.
            unsafe {
                let mut sums = [[$zero(); V]; R];
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = $load(call.sums.add((r * V + v) * $lanes));
                    }
                }
                let mut panel = call.panel;
                for k in 0..call.depth {
                    let mut weights = [$zero(); V];
                    for v in 0..V {
                        weights[v] = $load(panel.add(v * $lanes));
                    }
                    panel = panel.add(V * $lanes);
                    for r in 0..R {
                        let x = $set(*call.left.add(r * call.stride + k));
                        for v in 0..V {
                            sums[r][v] = $fma(x, weights[v], sums[r][v]);
                        }
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        $store(call.sums.add((r * V + v) * $lanes), sums[r][v]);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Call, Kernel};

    kernel!(
        "avx512f",
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps
    );

    pub const TILES_4: [Kernel; 4] = [tile::<6, 4>, tile::<4, 4>, tile::<2, 4>, tile::<1, 4>];
    pub const TILES_3: [Kernel; 4] = [tile::<8, 3>, tile::<4, 3>, tile::<2, 3>, tile::<1, 3>];
    pub const TILES_2: [Kernel; 4] = [tile::<12, 2>, tile::<4, 2>, tile::<2, 2>, tile::<1, 2>];
    pub const TILES_1: [Kernel; 4] = [tile::<14, 1>, tile::<4, 1>, tile::<2, 1>, tile::<1, 1>];
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Call, Kernel};

    kernel!(
        "avx2,fma",
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );

    pub const TILES_2: [Kernel; 4] = [tile::<6, 2>, tile::<4, 2>, tile::<2, 2>, tile::<1, 2>];
    pub const TILES_1: [Kernel; 4] = [tile::<8, 1>, tile::<4, 1>, tile::<2, 1>, tile::<1, 1>];
}

/// For every other machine; fused multiply-add is an instruction on all 64-bit ARM, and a slow but exact
/// library call on an x86 that lacks it.
mod portable {
    use super::{Call, Kernel};

    unsafe fn tile<const R: usize, const V: usize>(call: Call) {
        for r in 0..R {
            for v in 0..V {
                // SAFETY: the caller has checked the bounds of all rows.
                unsafe {
                    let sums = &mut *call.sums.add((r * V + v) * 8).cast::<[f32; 8]>();
                    for k in 0..call.depth {
                        let x = *call.left.add(r * call.stride + k);
                        let weights = &*call.panel.add((k * V + v) * 8).cast::<[f32; 8]>();
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = x.mul_add(*weight, *sum);
                        }
                    }
                }
            }
        }
    }

    pub const TILES_2: [Kernel; 4] = [tile::<4, 2>, tile::<2, 2>, tile::<1, 2>, tile::<1, 2>];
    pub const TILES_1: [Kernel; 4] = [tile::<4, 1>, tile::<2, 1>, tile::<1, 1>, tile::<1, 1>];
}
