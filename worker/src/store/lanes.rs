//! Lanes: what goes to one output waits together, and an output that fails holds up its own lane alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::place::Place;
use crate::outbox::Work;
use crate::retry::Backoff;

/// Waits between two tries of an output that is out of reach.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Wait between two tries of an output that refuses.
const REFUSED_PAUSE: Duration = Duration::from_secs(300);
/// Lanes that are kept, with what was opened for them, while nothing waits in them.
const MOST_IDLE: usize = 16;

/// What is stored together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    pub(super) output: String,
    pub(super) presigned: bool,
    pub(super) recovered: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// Open since the first upload.
    place: Option<Place>,
    waiting: VecDeque<Work>,
    at_work: usize,
    down: Option<Down>,
}

/// An output is out of reach, or refuses.
#[derive(Debug)]
struct Down {
    until: Instant,
    pauses: Backoff,
    refuses: bool,
}

impl Lane {
    fn may_start(&self, now: Instant) -> bool {
        let is_up = self.down.as_ref().is_none_or(|down| down.until <= now && self.at_work == 0);
        is_up && !self.waiting.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.at_work == 0 && self.down.is_none()
    }
}

/// What is to be stored next.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) lane: LaneKey,
    pub(super) place: Option<Place>,
    pub(super) work: Work,
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Uploads at once.
    width: usize,
    lanes: BTreeMap<LaneKey, Lane>,
}

impl Lanes {
    pub(super) fn new(width: usize) -> Self {
        Self { width, lanes: BTreeMap::new() }
    }

    /// Puts work to the back of its lane.
    pub(super) fn add(&mut self, key: LaneKey, work: Work) {
        if !self.lanes.contains_key(&key) && self.lanes.len() >= MOST_IDLE {
            self.lanes.retain(|_, lane| !lane.is_idle());
        }
        self.lanes.entry(key).or_default().waiting.push_back(work);
    }

    /// Takes what is to be started now: of the lane that has the fewest uploads. One that has none gets one although others
    /// have taken all: they may hang for long.
    pub(super) fn next(&mut self, now: Instant) -> Option<Next> {
        let at_work: usize = self.lanes.values().map(|lane| lane.at_work).sum();
        let able = self.lanes.iter_mut().filter(|(_, lane)| lane.may_start(now));
        let (key, lane) = able.min_by_key(|(_, lane)| lane.at_work)?;
        if at_work >= self.width && lane.at_work > 0 {
            return None;
        }
        let work = lane.waiting.pop_front()?;
        lane.at_work += 1;
        Some(Next { lane: key.clone(), place: lane.place.clone(), work })
    }

    /// Something was stored. Whether the output is in reach again.
    pub(super) fn stored(&mut self, key: &LaneKey, place: Place) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        lane.at_work -= 1;
        lane.place = Some(place);
        lane.down.take().is_some()
    }

    /// Something was not stored and will be tried again, after all else in its lane: the fault may be its own. How long the
    /// lane waits.
    pub(super) fn failed(&mut self, key: &LaneKey, work: Work, is_transient: bool, now: Instant) -> Duration {
        let Some(lane) = self.lanes.get_mut(key) else { return Duration::ZERO };
        lane.at_work -= 1;
        lane.waiting.push_back(work);
        let mut pauses = match lane.down.take() {
            Some(down) => down.pauses,
            None => Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        };
        let wait = if is_transient { pauses.wait() } else { REFUSED_PAUSE };
        lane.down = Some(Down { until: now + wait, pauses, refuses: !is_transient });
        wait
    }

    /// The worker leaves: an output that refuses is waited for no longer, nor one that is out of reach for what an earlier run
    /// left for it.
    pub(super) fn leave(&mut self) {
        for (key, lane) in &mut self.lanes {
            let is_in_vain = lane.down.as_ref().is_some_and(|down| key.recovered || down.refuses);
            if is_in_vain && lane.at_work == 0 {
                lane.waiting.clear();
            }
        }
    }

    /// Whether anything waits.
    pub(super) fn wait(&self) -> bool {
        self.lanes.values().any(|lane| !lane.waiting.is_empty())
    }

    /// Whether no output is out of reach.
    pub(super) fn are_up(&self) -> bool {
        self.lanes.values().all(|lane| lane.down.is_none())
    }

    /// When the next lane may be tried again.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        let tries = self.lanes.values().filter_map(|lane| lane.down.as_ref()).map(|down| down.until);
        tries.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leases::LeaseKey;

    fn lane(output: &str) -> LaneKey {
        LaneKey { output: output.into(), presigned: false, recovered: false }
    }

    fn work(shard: &str) -> Work {
        Work::Archive(LeaseKey { shard_id: shard.into(), attempt: 1 })
    }

    /// What is started now, by shard.
    fn started(lanes: &mut Lanes, now: Instant) -> Vec<String> {
        let next = std::iter::from_fn(|| lanes.next(now));
        next.map(|next| match next.work {
            Work::Archive(lease) => lease.shard_id,
            Work::Picture(_) => unreachable!("there are none"),
        })
        .collect()
    }

    #[test]
    fn a_lane_gets_no_more_than_its_share_while_others_wait() {
        let now = Instant::now();
        let mut lanes = Lanes::new(4);
        for shard in ["a1", "a2", "a3", "a4", "a5"] {
            lanes.add(lane("a"), work(shard));
        }
        for shard in ["b1", "b2", "b3"] {
            lanes.add(lane("b"), work(shard));
        }
        assert_eq!(started(&mut lanes, now), ["a1", "b1", "a2", "b2"]);
        lanes.add(lane("c"), work("c1"));
        lanes.add(lane("c"), work("c2"));
        assert_eq!(started(&mut lanes, now), ["c1"], "all are taken by others, and may hang");
    }

    #[test]
    fn what_failed_is_tried_again_after_all_else_in_its_lane() {
        let now = Instant::now();
        let mut lanes = Lanes::new(4);
        lanes.add(lane("a"), work("bad"));
        assert_eq!(started(&mut lanes, now), ["bad"]);
        lanes.add(lane("a"), work("good"));
        let wait = lanes.failed(&lane("a"), work("bad"), true, now);
        assert_eq!((lanes.are_up(), lanes.next_try(now)), (false, Some(now + wait)));
        assert!(started(&mut lanes, now).is_empty(), "it waits");
        assert_eq!(started(&mut lanes, now + wait), ["good"], "one at a time");
    }

    #[test]
    fn lanes_in_which_nothing_waits_are_not_kept_for_ever() {
        let now = Instant::now();
        let mut lanes = Lanes::new(1);
        for number in 0..10 * MOST_IDLE {
            let key = lane(&number.to_string());
            lanes.add(key.clone(), work("one"));
            assert_eq!(started(&mut lanes, now), ["one"]);
            lanes.lanes.get_mut(&key).unwrap().at_work = 0;
            assert!(lanes.lanes.len() <= MOST_IDLE, "{}", lanes.lanes.len());
        }
    }
}
