//! Cutting a stream of images into shards.

use std::collections::BTreeMap;
use std::time::Duration;

/// Images of a shard when nothing was measured yet.
pub const DEFAULT_SHARD_IMAGES: u32 = 32;
/// Most images of a shard: what one lease message holds and one lost worker can cost.
pub const MAX_SHARD_IMAGES: u32 = 256;

/// Most bytes of text in a shard, so that a lease fits into one message of gRPC's usual 4 MiB.
pub const MAX_SHARD_BYTES: usize = 2 << 20;

/// How many images take about `target`, at `seconds_per_image`.
pub fn shard_images(target: Duration, seconds_per_image: Option<f64>) -> u32 {
    match seconds_per_image {
        Some(seconds) if seconds.is_finite() && seconds > 0.0 => {
            // A float cast saturates, so the clamp holds for any measure.
            ((target.as_secs_f64() / seconds) as u32).clamp(1, MAX_SHARD_IMAGES)
        }
        Some(_) | None => DEFAULT_SHARD_IMAGES,
    }
}

/// All images of one settings group with an index in `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRange {
    /// Settings group.
    pub group: u32,
    /// Lowest index.
    pub first: u64,
    /// Highest index.
    pub last: u64,
    /// How many images of the group lie in it.
    pub images: u32,
}

/// Takes images in index order and hands out shards as they fill up. Its memory follows the number of
/// settings groups, not of images.
#[derive(Debug, Default)]
pub struct Sharder {
    open: BTreeMap<u32, (ShardRange, usize)>,
}

impl Sharder {
    /// Adds the next image, whose prompt, negative prompt and name have `bytes` together; the shard that it
    /// completes, if any. `size` is the wanted number of images.
    pub fn push(&mut self, group: u32, index: u64, size: u32, bytes: usize) -> Option<ShardRange> {
        let fresh = ShardRange { group, first: index, last: index, images: 0 };
        let (shard, held) = self.open.entry(group).or_insert((fresh, 0));
        shard.last = index;
        shard.images += 1;
        *held += bytes;
        let full = shard.images >= size || *held >= MAX_SHARD_BYTES;
        if full { self.open.remove(&group).map(|(shard, _)| shard) } else { None }
    }

    /// The shards that are not full.
    pub fn finish(self) -> impl Iterator<Item = ShardRange> {
        self.open.into_values().map(|(shard, _)| shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_image_lies_in_exactly_one_shard(groups in prop::collection::vec(0u32..4, 1..300), size in 1u32..20) {
            let mut sharder = Sharder::default();
            let mut shards = Vec::new();
            for (index, group) in groups.iter().enumerate() {
                shards.extend(sharder.push(*group, index as u64, size, 100));
            }
            shards.extend(sharder.finish());
            for (index, group) in groups.iter().enumerate() {
                let index = index as u64;
                let holders = shards
                    .iter()
                    .filter(|shard| shard.group == *group && (shard.first..=shard.last).contains(&index))
                    .count();
                prop_assert_eq!(holders, 1);
            }
            for shard in &shards {
                let inside = groups
                    .iter()
                    .enumerate()
                    .filter(|(index, group)| **group == shard.group && (shard.first..=shard.last).contains(&(*index as u64)))
                    .count();
                prop_assert_eq!(inside, shard.images as usize);
                prop_assert!((1..=size).contains(&shard.images));
            }
        }

        #[test]
        fn sizes_stay_in_their_bounds(seconds in prop::num::f64::ANY) {
            let images = shard_images(Duration::from_secs(120), Some(seconds));
            prop_assert!((1..=MAX_SHARD_IMAGES).contains(&images));
        }
    }

    #[test]
    fn long_prompts_make_short_shards() {
        let mut sharder = Sharder::default();
        let shards: Vec<_> = (0..256).filter_map(|index| sharder.push(0, index, 256, 32 << 10)).collect();
        assert_eq!(shards.iter().map(|shard| shard.images).collect::<Vec<_>>(), [64; 4]);
    }

    #[test]
    fn size_follows_the_measure() {
        let target = Duration::from_secs(120);
        assert_eq!(shard_images(target, None), DEFAULT_SHARD_IMAGES);
        assert_eq!(shard_images(target, Some(10.0)), 12);
        assert_eq!(shard_images(target, Some(1000.0)), 1);
        assert_eq!(shard_images(target, Some(0.001)), MAX_SHARD_IMAGES);
    }
}
