//! Picking some of many at random, in one pass.

use std::hash::{BuildHasher, RandomState};

/// Takes so many of so many, each with the same chance.
#[derive(Debug)]
pub struct Sample {
    wanted: u64,
    left: u64,
    state: u64,
}

impl Sample {
    /// Takes all when no number is given.
    pub fn new(wanted: Option<u64>, of: u64) -> Self {
        let state = RandomState::new().hash_one(of);
        Self { wanted: wanted.unwrap_or(u64::MAX), left: of, state }
    }

    /// Whether the next one is taken (Knuth, The Art of Computer Programming, volume 2, algorithm S).
    pub fn takes(&mut self) -> bool {
        let left = self.left.max(1);
        self.left = self.left.saturating_sub(1);
        let takes = self.wanted >= left || self.random() % left < self.wanted;
        self.wanted -= u64::from(takes && self.wanted != u64::MAX);
        takes
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_taken_as_were_asked_for() {
        for (wanted, of, taken) in [(Some(10), 1000, 10), (Some(10), 3, 3), (None, 50, 50), (Some(1), 1, 1)] {
            let mut sample = Sample::new(wanted, of);
            assert_eq!((0..of).filter(|_| sample.takes()).count(), taken);
        }
    }

    #[test]
    fn each_is_taken_as_often_as_another() {
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            let mut sample = Sample::new(Some(3), 10);
            for count in &mut counts {
                *count += u32::from(sample.takes());
            }
        }
        // Six standard deviations of a binomial distribution.
        assert!(counts.iter().all(|count| (2700..3300).contains(count)), "{counts:?}");
    }
}
