//! Cutting a stream of images into shards.

use std::collections::BTreeMap;
use std::time::Duration;

/// Images of a shard when nothing was measured yet.
pub const DEFAULT_SHARD_IMAGES: u32 = 32;
/// Most images of a shard: what one lease message holds and one lost worker can cost.
pub const MAX_SHARD_IMAGES: u32 = 256;

/// Bytes that a tar should have in the layout webdataset.
pub const ARCHIVE_BYTES: f64 = 1e9;
/// A shard that becomes a tar may take as many times as long as others.
const ARCHIVE_FACTOR: u32 = 10;
/// What a tar has for each sample besides its picture, roughly: three headers, their padding, the recipe and the prompt.
const SAMPLE_BYTES: f64 = 5000.0;

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

/// How many images become a tar of about [`ARCHIVE_BYTES`], of pictures with so many bytes each; at most ten times as
/// many as a shard has otherwise, so that it is rendered in ten times the target, when that was measured.
pub fn archive_images(target: Duration, seconds_per_image: Option<f64>, bytes_per_image: f64) -> u32 {
    let longest = ARCHIVE_FACTOR * shard_images(target, seconds_per_image);
    // A float cast saturates, so the clamp holds for any measure.
    ((ARCHIVE_BYTES / (bytes_per_image + SAMPLE_BYTES)) as u32).clamp(1, longest)
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
    /// Adds the next image, whose texts have `bytes` together in a lease; the shard that it
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

        #[test]
        fn tars_stay_in_their_bounds(seconds in prop::num::f64::ANY, bytes in prop::num::f64::ANY) {
            let images = archive_images(Duration::from_secs(120), Some(seconds), bytes);
            prop_assert!((1..=10 * MAX_SHARD_IMAGES).contains(&images));
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

    #[test]
    fn a_tar_has_about_a_gigabyte_unless_that_takes_too_long() {
        let target = Duration::from_secs(120);
        // Pictures of 4096x4096 as PNG, of 1024x1024 as JPEG; and nothing measured.
        assert_eq!(archive_images(target, Some(10.0), 28e6), 35);
        assert_eq!(archive_images(target, Some(0.5), 350e3), 2400);
        assert_eq!(archive_images(target, None, 350e3), 10 * DEFAULT_SHARD_IMAGES);
        assert_eq!(archive_images(target, Some(1000.0), 1e3), 10);
        assert_eq!(archive_images(target, None, 1e12), 1);
    }
}
