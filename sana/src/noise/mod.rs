//! Normal noise equal to torch's CPU generator, so that a seed gives the same picture here and there.

use std::f64::consts::TAU;

use normal::box_muller;

mod normal;

const N: usize = 624;
const M: usize = 397;

/// The Mersenne twister MT19937 with torch's way to draw normals from it.
#[derive(Clone, Debug)]
pub struct Generator {
    state: [u32; N],
    next: usize,
    /// Second half of a scalar pair; only the next scalar draw uses it.
    spare: Option<f64>,
}

impl Generator {
    /// Only the low 32 bits of the seed count, as in torch.
    pub fn new(seed: u64) -> Self {
        let mut state = [0; N];
        state[0] = seed as u32;
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N, spare: None }
    }

    /// The next `n` normals. They depend on how many are drawn at once: below 16 torch draws one by one.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < 16 {
            return (0..n).map(|_| self.scalar() as f32).collect();
        }
        let mut out = self.uniform(n);
        let (blocks, tail) = out.as_chunks_mut::<16>();
        blocks.iter_mut().for_each(box_muller);
        if !tail.is_empty()
            && let Some(last) = out.last_chunk_mut::<16>()
        {
            // Torch draws the last 16 anew and writes over part of the block before.
            for value in last.iter_mut() {
                *value = self.f24();
            }
            box_muller(last);
        }
        out
    }

    /// The next `n` values of [0, 1).
    pub(crate) fn uniform(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f24()).collect()
    }

    fn scalar(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (u1, u2) = (self.f53(), self.f53());
        let (sin, cos) = (TAU * u1).sin_cos();
        let r = (-2.0 * (-u2).ln_1p()).sqrt();
        self.spare = Some(r * sin);
        r * cos
    }

    fn f24(&mut self) -> f32 {
        (self.u32() & 0xff_ffff) as f32 / (1 << 24) as f32
    }

    fn f53(&mut self) -> f64 {
        let (high, low) = (u64::from(self.u32()), u64::from(self.u32()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    fn u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_gives_the_published_numbers() {
        // The first outputs of MT19937 for the seed 5489, and the 10000th as the C++ standard states it.
        let mut generator = Generator::new(5489);
        let first: Vec<u32> = (0..3).map(|_| generator.u32()).collect();
        assert_eq!(first, [3_499_211_612, 581_869_302, 3_890_346_734]);
        assert_eq!((3..10_000).map(|_| generator.u32()).last(), Some(4_123_659_995));
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        assert_eq!(Generator::new(42).randn(40), Generator::new(42 + (7 << 32)).randn(40));
        assert_ne!(Generator::new(42).randn(40), Generator::new(43).randn(40));
    }

    #[test]
    fn a_scalar_draw_uses_the_spare_across_a_vector_draw() {
        let mut whole = Generator::new(9);
        let pair = whole.randn(2);
        let mut split = Generator::new(9);
        assert_eq!(split.randn(1), pair[..1]);
        split.randn(16);
        assert_eq!(split.randn(1), pair[1..]);
    }

    #[test]
    fn a_ragged_end_overwrites_the_last_sixteen() {
        let (whole, ragged) = (Generator::new(3).randn(32), Generator::new(3).randn(33));
        assert_eq!(whole[..17], ragged[..17]);
        assert_ne!(whole[17..], ragged[17..32]);
    }

    #[test]
    fn nothing_is_drawn_for_nothing() {
        let mut generator = Generator::new(1);
        assert!(generator.randn(0).is_empty());
        assert_eq!(generator.randn(5), Generator::new(1).randn(5));
    }
}
