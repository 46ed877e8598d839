//! When a worker leaves by itself: idle for so long, after so many jobs, after such a time. For batch schedulers.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// After what a worker leaves by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Without work for that long.
    pub max_idle: Option<Duration>,
    /// With no more work of so many jobs, when it has taken on these.
    pub max_jobs: Option<usize>,
    /// Old as that.
    pub max_lifetime: Option<Duration>,
}

/// How near the limits are.
#[derive(Debug)]
pub(super) struct Spent {
    limits: Limits,
    started: Instant,
    idle_since: Option<Instant>,
    jobs: BTreeSet<String>,
    /// No shard is taken any more.
    closed: bool,
}

impl Spent {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, started: Instant::now(), idle_since: None, jobs: BTreeSet::new(), closed: false }
    }

    /// Whether it may work for this job; if so, it counts from now on.
    pub(super) fn takes(&mut self, job: &str) -> bool {
        let may = self.jobs.contains(job) || self.limits.max_jobs.is_none_or(|most| self.jobs.len() < most);
        if may {
            self.jobs.insert(job.to_owned());
        } else {
            self.closed = true;
        }
        may
    }

    /// The jobs to ask for, in turn: `wanted` until so many are known that no other one is taken, then those.
    pub(super) fn jobs_to_ask(&self, wanted: &str) -> Vec<String> {
        if self.limits.max_jobs.is_some_and(|most| self.jobs.len() >= most) {
            self.jobs.iter().cloned().collect()
        } else {
            vec![wanted.to_owned()]
        }
    }

    /// Nothing was to be done of the jobs to ask for; when those are all that it takes, it takes no more shards.
    pub(super) fn found_nothing(&mut self) {
        self.closed |= self.limits.max_jobs.is_some_and(|most| self.jobs.len() >= most);
    }

    /// Whether it takes no more shards: what it holds is finished.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn set_idle(&mut self, idle: bool) {
        match (idle, self.idle_since) {
            (true, None) => self.idle_since = Some(Instant::now()),
            (true, Some(_)) => {}
            (false, _) => self.idle_since = None,
        }
    }

    /// When it is to leave as things are, and why.
    pub(super) fn end(&self) -> Option<(Instant, &'static str)> {
        let idle = self
            .idle_since
            .zip(self.limits.max_idle)
            .map(|(since, most)| (since + most, "idle for long enough"));
        let old = self.limits.max_lifetime.map(|most| (self.started + most, "its time is over"));
        idle.into_iter().chain(old).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_idle_from_its_last_work_on_and_not_while_it_has_some() {
        let most = Duration::from_secs(1);
        let mut spent = Spent::new(Limits { max_idle: Some(most), ..Limits::default() });
        assert_eq!(spent.end(), None);
        let before = Instant::now();
        spent.set_idle(true);
        let first = spent.end();
        let (end, why) = first.unwrap();
        assert!(end >= before + most && end <= Instant::now() + most, "{end:?}");
        assert_eq!(why, "idle for long enough");
        // As long as it is said again and again, it counts from the first time.
        spent.set_idle(true);
        assert_eq!(spent.end(), first);
        spent.set_idle(false);
        assert_eq!(spent.end(), None);
        let again = Instant::now();
        spent.set_idle(true);
        assert!(spent.end().is_some_and(|(end, _)| end >= again + most));
    }

    #[test]
    fn the_first_limit_that_is_reached_is_the_one_that_counts() {
        let seconds = |count| Some(Duration::from_secs(count));
        for (max_idle, max_lifetime, why) in [
            (seconds(9), seconds(5), "its time is over"),
            (seconds(0), seconds(5000), "idle for long enough"),
        ] {
            let mut spent = Spent::new(Limits { max_idle, max_lifetime, ..Limits::default() });
            spent.set_idle(true);
            assert_eq!(spent.end().unwrap().1, why);
        }
    }
}
