//! CPU kernels of the parts that decide the speed of a picture, on plain slices.
//!
//! Pictures lie row by row, pixel by pixel, channels last. Every kernel computes a value in an order that
//! depends on the value's own inputs alone, never on bands, batches or threads.

pub mod attention;
pub mod conv;
pub mod depthwise;
pub mod gemm;
pub mod math;
pub mod norm;
mod tile;
pub mod winograd;

/// The vector instructions that a kernel may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 lanes, 16 registers, fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of plain loops.
    Portable,
}

impl Isa {
    /// The best that this machine has.
    pub fn detect() -> Self {
        #[cfg(test)]
        if let Some(isa) = testing::forced() {
            return isa;
        }
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Values in one vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 8,
            Self::Portable => 8,
        }
    }

    /// Columns in one panel of packed weights.
    pub fn panel(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 64,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            Self::Portable => 16,
        }
    }
}

/// Compiles the body three times, for each instruction set, and calls the best that the machine has.
///
/// The body must be written so that the compiler can make vectors of it; it multiplies and adds in two steps
/// (no contraction), so all three give the same bits.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
                fn avx512($($arg: $type),*) {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: just detected.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: just detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use vectorized;

#[cfg(test)]
mod testing {
    use std::cell::Cell;

    use super::Isa;

    thread_local!(static FORCED: Cell<Option<Isa>> = const { Cell::new(None) });

    pub(super) fn forced() -> Option<Isa> {
        FORCED.get()
    }

    impl Isa {
        /// All that this machine has.
        pub fn available() -> Vec<Self> {
            let mut all = vec![Self::Portable];
            #[cfg(target_arch = "x86_64")]
            {
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    all.push(Self::Avx2);
                }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    all.push(Self::Avx512);
                }
            }
            all
        }

        /// Runs `work` on this thread as if this were the best.
        pub fn scoped<T>(self, work: impl FnOnce() -> T) -> T {
            FORCED.set(Some(self));
            let result = work();
            FORCED.set(None);
            result
        }
    }
}
