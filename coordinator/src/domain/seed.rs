//! The seed of every image, from its place in the job alone.

/// Seeds are stored as signed 64-bit integers: this is the highest.
pub const MAX_SEED: u64 = i64::MAX as u64;

/// Copy `copy` of a row that has a seed of its own continues from that; every other image continues from the
/// job's seed by its index. The sum wraps within [`MAX_SEED`].
pub fn image_seed(job_seed: u64, row_seed: Option<u64>, index: u64, copy: u64) -> u64 {
    let sum = match row_seed {
        Some(seed) => seed.wrapping_add(copy),
        None => job_seed.wrapping_add(index),
    };
    sum & MAX_SEED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_index_or_the_row() {
        assert_eq!(image_seed(42, None, 7, 1), 49);
        assert_eq!(image_seed(42, Some(1000), 7, 1), 1001);
        assert_eq!(image_seed(MAX_SEED, None, 1, 0), 0);
    }
}
