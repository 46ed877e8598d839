//! The end of a job: what a worker with nothing to do takes over from those that still have much to do.
//!
//! Guided self-scheduling: when no shard is left, an idle worker gets its even part of what is held and not started, cut
//! off the shard whose rest would take longest. When only images in hand are left and one takes far longer than the
//! others of the job took, a second worker renders it too: the first result counts, the other is known already.

use std::time::Duration;

use super::id::ShardId;

/// A rest that takes less than this is left to who has it: its images would cost as much to move.
const WORTH: f64 = 5.0;
/// Why a lease is taken away then, for the history.
pub const TAKEN_OVER: &str = "another worker takes over what is left";
/// An image in hand is late when it takes this many times as long as the others of its job.
const LATE: f64 = 3.0;
/// A lease may have been granted so many images before its worker came to it: these are no delay.
const AHEAD: f64 = 2.0;
/// .. and late is this long at least.
const PATIENCE: f64 = 10.0;

/// A lease that is held on a shard of a job that has none to give.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Which shard.
    pub shard: ShardId,
    /// Which attempt.
    pub attempt: u32,
    /// Since it was granted.
    pub held_for: Duration,
    /// Images of it that came from this lease.
    pub done: u64,
    /// Images of it without a result.
    pub remaining: u64,
    /// How many of these were being rendered at the last renewal.
    pub rendering: u64,
    /// It was given to this worker although another one may still be rendering what is left of it.
    pub is_second: bool,
}

/// What is taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// From which shard.
    pub shard: ShardId,
    /// It is still held under this attempt, or nothing is taken.
    pub attempt: u32,
    /// How much.
    pub part: Part,
}

/// How much of a shard is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The last so many images without a result: a shard of their own.
    Last(u64),
    /// All that is left.
    Whole,
}

impl Held {
    /// Images that nobody has started.
    fn open(&self) -> u64 {
        self.remaining.saturating_sub(self.rendering)
    }

    /// Seconds for an image: by what this lease has done, else by what the job's others took, else as long as
    /// nothing has come of it at least.
    fn pace(&self, of_job: Option<f64>) -> f64 {
        match (self.done, of_job) {
            (0, Some(pace)) => pace,
            (done, _) => self.held_for.as_secs_f64() / done.max(1) as f64,
        }
    }

    /// Seconds until all of it is done if nobody helps.
    fn rest(&self, of_job: Option<f64>) -> f64 {
        self.open() as f64 * self.pace(of_job)
    }

    /// Its image in hand takes far longer than the job's others.
    fn is_late(&self, of_job: Option<f64>) -> bool {
        let Some(pace) = of_job else { return false };
        let late = self.held_for.as_secs_f64() - (self.done as f64 + AHEAD) * pace;
        self.rendering > 0 && late >= (LATE * pace * self.rendering as f64).max(PATIENCE)
    }
}

/// What one of `idle` workers takes over, if that helps. `pace` are the seconds that an image of the job takes, if one
/// was rendered yet.
pub fn share(held: &[Held], pace: Option<f64>, idle: usize) -> Option<Share> {
    let longest = held.iter().max_by(|a, b| a.rest(pace).total_cmp(&b.rest(pace)))?;
    if longest.rest(pace) >= WORTH {
        return Some(part_of(longest, held, idle));
    }
    let late = held.iter().find(|held| held.open() == 0 && !held.is_second && held.is_late(pace))?;
    Some(Share { shard: late.shard.clone(), attempt: late.attempt, part: Part::Whole })
}

/// An even part of what nobody has started. Who has the shard keeps an image at least; of a last image that it has
/// not started it keeps nothing.
fn part_of(longest: &Held, held: &[Held], idle: usize) -> Share {
    let open: u64 = held.iter().map(Held::open).sum();
    let hands = held.iter().filter(|held| held.open() > 0).count() + idle;
    let even = open / hands as u64;
    let images = even.clamp(1, longest.open().div_ceil(2));
    let part = if images == longest.remaining { Part::Whole } else { Part::Last(images) };
    Share { shard: longest.shard.clone(), attempt: longest.attempt, part }
}

/// What is held after a share was taken over.
pub fn take(held: &mut Vec<Held>, share: &Share) {
    match share.part {
        Part::Whole => held.retain(|held| held.shard != share.shard),
        Part::Last(images) => {
            for held in held.iter_mut().filter(|held| held.shard == share.shard) {
                held.remaining = held.remaining.saturating_sub(images);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(name: &str, seconds: u64, done: u64, remaining: u64, rendering: u64) -> Held {
        Held {
            shard: ShardId::from(name.to_owned()),
            attempt: 1,
            held_for: Duration::from_secs(seconds),
            done,
            remaining,
            rendering,
            is_second: false,
        }
    }

    fn take(name: &str, part: Part) -> Option<Share> {
        Some(Share { shard: ShardId::from(name.to_owned()), attempt: 1, part })
    }

    #[test]
    fn an_idle_worker_takes_half_of_what_one_has_not_started() {
        let one = [held("a", 20, 10, 21, 1)];
        assert_eq!(share(&one, Some(2.0), 1), take("a", Part::Last(10)));
        assert_eq!(share(&one, Some(2.0), 4), take("a", Part::Last(4)), "four more come for the same");
    }

    #[test]
    fn the_rest_that_takes_longest_is_cut() {
        let slow = held("slow", 100, 2, 9, 1);
        let quick = held("quick", 100, 50, 21, 1);
        assert_eq!(
            share(&[quick, slow], Some(2.0), 1),
            take("slow", Part::Last(4)),
            "the even part would be 9"
        );
    }

    #[test]
    fn a_short_rest_is_left_where_it_is() {
        assert_eq!(share(&[held("a", 20, 200, 30, 1)], Some(0.1), 3), None);
        assert_eq!(share(&[], None, 3), None);
    }

    #[test]
    fn before_the_first_image_of_a_job_waiting_tells_its_pace() {
        let young = held("a", 0, 0, 20, 1);
        assert_eq!(share(&[young], None, 1), None);
        assert_eq!(share(&[held("a", 1, 0, 20, 1)], None, 1), take("a", Part::Last(9)));
    }

    #[test]
    fn a_last_image_that_was_leased_ahead_changes_hands() {
        assert_eq!(share(&[held("a", 10, 0, 1, 0)], Some(60.0), 1), take("a", Part::Whole));
        assert_eq!(share(&[held("a", 10, 0, 2, 0)], Some(60.0), 1), take("a", Part::Last(1)));
        assert_eq!(share(&[held("a", 10, 0, 2, 1)], Some(60.0), 1), take("a", Part::Last(1)));
    }

    #[test]
    fn an_image_that_takes_far_too_long_is_rendered_by_a_second_worker() {
        let late = held("a", 160, 10, 1, 1);
        assert_eq!(share(std::slice::from_ref(&late), Some(10.0), 1), take("a", Part::Whole));
        assert_eq!(share(&[held("a", 125, 10, 1, 1)], Some(10.0), 1), None, "not yet");
        assert_eq!(
            share(&[held("a", 145, 10, 1, 1)], Some(10.0), 1),
            None,
            "it may have waited for two others"
        );
        assert_eq!(share(&[held("a", 15, 10, 1, 1)], Some(1.0), 1), None, "not long enough to matter");
        assert_eq!(share(&[held("a", 1000, 0, 1, 1)], None, 1), None, "nobody knows how long they take");
        assert_eq!(share(&[Held { is_second: true, ..late }], Some(10.0), 1), None, "two are enough");
    }

    proptest! {
        #[test]
        fn what_is_taken_is_there_and_was_not_started(
            shards in prop::collection::vec((0u64..1000, 0u64..50, 1u64..50, 0u64..3), 0..6),
            pace in prop::option::of(0.01f64..100.0),
            idle in 1usize..20,
        ) {
            let all: Vec<Held> = shards
                .into_iter()
                .enumerate()
                .map(|(no, (seconds, done, remaining, rendering))| {
                    held(&no.to_string(), seconds, done, remaining, rendering.min(remaining))
                })
                .collect();
            if let Some(share) = share(&all, pace, idle) {
                let from = all.iter().find(|held| held.shard == share.shard).unwrap();
                match share.part {
                    Part::Last(images) => {
                        prop_assert!(images >= 1 && images <= from.open() && images < from.remaining);
                    }
                    Part::Whole => prop_assert!(from.open() == 0 || (from.rendering == 0 && from.remaining == 1)),
                }
            }
        }
    }
}
