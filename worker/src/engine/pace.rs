//! How long pictures take on each device: by that it is known which of those in hand are finished before the machine is gone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sana::Recipe;

use super::fits::Kind;

/// What a picture of a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Its share of what is done for all of them together.
    pub(crate) together: Duration,
    /// What is done for it alone, when it is its turn.
    pub(crate) alone: Duration,
}

impl Pace {
    /// From the beginning of a batch of so many pictures until the one at this place is finished.
    pub(super) fn needed(&self, pictures: usize, place: usize) -> Duration {
        let times = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.together
            .saturating_mul(times(pictures))
            .saturating_add(self.alone.saturating_mul(times(place).saturating_add(1)))
    }
}

/// The last pace of each device for pictures that take the same time.
#[derive(Debug, Default)]
pub(crate) struct Paces(Mutex<HashMap<Alike, Pace>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Alike {
    device: String,
    kind: Kind,
    steps: u32,
}

impl Alike {
    fn new(device: &str, model: &str, recipe: &Recipe) -> Self {
        Self { device: device.to_owned(), kind: Kind::of(model, recipe), steps: recipe.steps }
    }
}

impl Paces {
    /// None of what this device has not rendered yet.
    pub(super) fn get(&self, device: &str, model: &str, recipe: &Recipe) -> Option<Pace> {
        self.lock().get(&Alike::new(device, model, recipe)).copied()
    }

    /// A picture like this one took so long.
    pub(crate) fn set(&self, device: &str, model: &str, recipe: &Recipe, pace: Pace) {
        self.lock().insert(Alike::new(device, model, recipe), pace);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Alike, Pace>> {
        // No critical section leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_a_batch_are_finished_one_after_the_other_when_all_are_denoised() {
        let seconds = Duration::from_secs;
        let pace = Pace { together: seconds(10), alone: seconds(3) };
        let needed: Vec<_> = (0..3).map(|place| pace.needed(3, place)).collect();
        assert_eq!(needed, [33, 36, 39].map(seconds));
        assert_eq!(pace.needed(1, 0), seconds(13));
    }
}
