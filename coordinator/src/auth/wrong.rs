//! Tokens that were wrong a moment ago.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::secret::{Hash, read};

/// A wrong token stays wrong for this long without a look: whoever repeats one costs the database nothing.
const KEEP: Duration = Duration::from_secs(30);
/// Tokens that are remembered.
const MOST: usize = 10_000;

/// Tokens that were wrong a moment ago: their ids, and the hashes of their secrets.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    seen: Mutex<HashMap<(String, Hash), Instant>>,
}

impl Wrong {
    /// Whether this text is no token, or was a wrong one.
    pub fn knows(&self, text: &str, now: Instant) -> bool {
        let Some((id, hash)) = read(text) else { return true };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(id.to_owned(), hash)).is_some_and(|at| now.saturating_duration_since(*at) < KEEP)
    }

    /// It was wrong.
    pub fn add(&self, text: &str, now: Instant) {
        let Some((id, hash)) = read(text) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST {
            seen.retain(|_, at| now.saturating_duration_since(*at) < KEEP);
        }
        if seen.len() >= MOST {
            seen.clear();
        }
        seen.insert((id.to_owned(), hash), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize) -> String {
        format!("sf_{}_{number:064x}", "0".repeat(12))
    }

    #[test]
    fn a_wrong_token_is_wrong_for_a_while_and_no_other_is() {
        let (wrong, now) = (Wrong::default(), Instant::now());
        assert!(!wrong.knows(&token(1), now));
        wrong.add(&token(1), now);
        assert!(wrong.knows(&token(1), now));
        assert!(!wrong.knows(&token(2), now));
        assert!(!wrong.knows(&token(1).replace("sf_0", "sf_1"), now));
        assert!(!wrong.knows(&token(1), now + KEEP));
        assert!(wrong.knows("no token", now));
    }

    #[test]
    fn no_more_are_kept_than_are_allowed() {
        let (wrong, now) = (Wrong::default(), Instant::now());
        for number in 0..=MOST {
            wrong.add(&token(number), now);
        }
        assert!(wrong.seen.lock().unwrap().len() <= MOST);
        assert!(wrong.knows(&token(MOST), now));
    }
}
