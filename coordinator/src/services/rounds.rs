//! Several things are worked on at once, each by one task; what fails is tried again, with growing waits.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

/// Things that are worked on at once: one that is slow or stuck holds nobody else back.
pub(super) const AT_ONCE: usize = 4;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// When another coordinator is at a thing, it is looked at again after this.
const OTHERS_TURN: Duration = Duration::from_secs(1);

/// What tells one thing from the others.
pub(super) trait Named {
    /// Its name.
    fn name(&self) -> &str;

    /// Where it is worked on: no two tasks are at one place.
    fn place(&self) -> &str {
        self.name()
    }
}

impl Named for String {
    fn name(&self) -> &str {
        self
    }
}

/// A thing that is not taken up now.
struct Pause {
    wait: Duration,
    again_at: Instant,
}

/// The things `I` under way, whose tasks give a `T`. Dropped, the tasks stop where they are.
pub(super) struct Rounds<I, T> {
    tasks: JoinSet<T>,
    /// Which task is at which thing.
    taken: HashMap<Id, I>,
    pauses: HashMap<String, Pause>,
}

impl<I: Named + Clone, T: Send + 'static> Rounds<I, T> {
    pub fn new() -> Self {
        Self { tasks: JoinSet::new(), taken: HashMap::new(), pauses: HashMap::new() }
    }

    /// Takes up those of all things to do that do not pause and whose place is free, as many as there is room for.
    pub fn start<F: Future<Output = T> + Send + 'static>(&mut self, found: Vec<I>, work: impl Fn(I) -> F) {
        self.start_at(Instant::now(), found, work);
    }

    fn start_at<F: Future<Output = T> + Send + 'static>(
        &mut self,
        now: Instant,
        found: Vec<I>,
        work: impl Fn(I) -> F,
    ) {
        self.pauses.retain(|name, _| found.iter().any(|thing| thing.name() == name));
        for thing in found {
            if self.tasks.len() >= AT_ONCE {
                break;
            }
            let waits = self.pauses.get(thing.name()).is_some_and(|pause| now < pause.again_at);
            if waits || self.taken.values().any(|taken| taken.place() == thing.place()) {
                continue;
            }
            let task = self.tasks.spawn(work(thing.clone()));
            self.taken.insert(task.id(), thing);
        }
    }

    /// The next thing whose task has ended, and how; none while no task runs.
    pub async fn next(&mut self) -> Option<(I, Result<T, JoinError>)> {
        let (id, ended) = match self.tasks.join_next_with_id().await? {
            Ok((id, done)) => (id, Ok(done)),
            Err(error) => (error.id(), Err(error)),
        };
        Some((self.taken.remove(&id)?, ended))
    }

    /// It is well again.
    pub fn done(&mut self, thing: &I) {
        self.pauses.remove(thing.name());
    }

    /// Another coordinator is at it.
    pub fn leave_to_others(&mut self, thing: &I) {
        self.pause(thing, OTHERS_TURN);
    }

    /// It is tried again after the time that is given back.
    pub fn failed(&mut self, thing: &I) -> Duration {
        let last = self.pauses.get(thing.name());
        let wait = last.map_or(FIRST_WAIT, |pause| (pause.wait * 2).min(LONGEST_WAIT));
        self.pause(thing, wait);
        wait
    }

    fn pause(&mut self, thing: &I, wait: Duration) {
        self.pauses.insert(thing.name().to_owned(), Pause { wait, again_at: Instant::now() + wait });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_stuck_thing_holds_no_other_back_and_a_failed_one_waits_longer_each_time() {
        let mut rounds = Rounds::new();
        let work = |name: String| async move {
            if name == "stuck" {
                std::future::pending::<()>().await;
            }
            name
        };
        rounds.start(things(&["stuck", "a"]), work);
        let (thing, ended) = rounds.next().await.unwrap();
        assert_eq!((thing.as_str(), ended.unwrap().as_str()), ("a", "a"));
        let failed_at = Instant::now();
        assert_eq!([rounds.failed(&thing), rounds.failed(&thing)].map(|wait| wait.as_secs()), [1, 2]);
        // Neither what is taken nor what waits is taken up.
        rounds.start_at(failed_at, things(&["stuck", "a"]), work);
        assert_eq!(rounds.tasks.len(), 1);
        rounds.start_at(Instant::now() + Duration::from_secs(3), things(&["stuck", "a"]), work);
        assert_eq!(rounds.tasks.len(), 2);
        for _ in 0..9 {
            rounds.failed(&thing);
        }
        assert_eq!(rounds.failed(&thing), LONGEST_WAIT);
        rounds.done(&thing);
        assert_eq!(rounds.failed(&thing), FIRST_WAIT);
    }

    #[tokio::test]
    async fn no_more_are_worked_on_than_there_is_room_for() {
        let mut rounds = Rounds::new();
        rounds.start(things(&["a", "b", "c", "d", "e", "f"]), |_| std::future::pending::<()>());
        assert_eq!(rounds.tasks.len(), AT_ONCE);
    }
}
