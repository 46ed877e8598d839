//! Multiply-adds that the layers really compute, counted in tests to compare with what is planned.

#[cfg(test)]
thread_local!(static DONE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });

/// Counts `pixels` results of `each` multiply-adds.
#[cfg(test)]
pub fn add(pixels: usize, each: usize) {
    DONE.set(DONE.get() + (pixels * each) as u64);
}

/// Counts nothing outside of tests.
#[cfg(not(test))]
#[inline(always)]
pub fn add(_pixels: usize, _each: usize) {}

/// Multiply-adds of the layers that `work` runs on this thread.
#[cfg(test)]
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = DONE.get();
    let result = work();
    (result, DONE.get() - before)
}
