//! What an error or a loss costs an image, and what errors cost a worker.

use std::time::Duration;

use jiff::Timestamp;

use super::word::words;

words! {
    /// Why an image failed.
    ErrorClass, "error class" {
        /// The prompt cannot be rendered.
        Prompt = "prompt",
        /// The size cannot be rendered by this model.
        Size = "size",
        /// The model cannot be loaded.
        Model = "model",
        /// The device had too little memory.
        OutOfMemory = "out_of_memory",
        /// A non-finite latent or a picture of one colour.
        BadImage = "bad_image",
        /// The picture file could not be made.
        Encode = "encode",
        /// An object of somebody else stands where the picture belongs.
        Conflict = "conflict",
        /// Anything else.
        Internal = "internal",
        /// It was being rendered too often when its worker was lost.
        WorkerLost = "worker_lost",
    }
}

impl ErrorClass {
    /// Another attempt would end the same way.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::Prompt | Self::Size | Self::Conflict => true,
            Self::Model
            | Self::OutOfMemory
            | Self::BadImage
            | Self::Encode
            | Self::Internal
            | Self::WorkerLost => false,
        }
    }

    /// It says something about the worker and the job together: others may well render it, and it may render others.
    pub fn is_refusal(self) -> bool {
        match self {
            Self::Model => true,
            Self::Prompt
            | Self::Size
            | Self::OutOfMemory
            | Self::BadImage
            | Self::Encode
            | Self::Conflict
            | Self::Internal
            | Self::WorkerLost => false,
        }
    }
}

/// How often an image may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Errors that workers reported.
    pub errors: u32,
    /// Different workers that reported one.
    pub workers: u32,
    /// Times that its worker was lost while rendering it. Higher, as the image is rarely to blame.
    pub losses: u32,
}

/// What becomes of an image that went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again.
    Again,
    /// It has failed for good.
    Failed,
}

/// After its `errors`-th reported error, counted from 1, of which `workers` different workers reported one.
pub fn after_error(class: ErrorClass, errors: u32, workers: u32, caps: Caps) -> Verdict {
    if class.is_permanent() || errors >= caps.errors || workers >= caps.workers {
        Verdict::Failed
    } else {
        Verdict::Again
    }
}

/// After its `losses`-th loss, counted from 1.
pub fn after_loss(losses: u32, caps: Caps) -> Verdict {
    if losses >= caps.losses { Verdict::Failed } else { Verdict::Again }
}

/// How long a shard waits before it is tried again, by the most errors that one of its images has.
pub fn retry_delay(errors: u32) -> Duration {
    match errors {
        0 => Duration::ZERO,
        1 => Duration::from_secs(1),
        2 => Duration::from_secs(5),
        3 => Duration::from_secs(30),
        4.. => Duration::from_secs(120),
    }
}

/// Different images that a worker may fail in a row before it is taken out.
pub const FAILURES_IN_A_ROW: u32 = 3;

/// How a worker stands, over all its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Different images that it failed since it last rendered one.
    pub failures: u32,
    /// The newest of these.
    pub last_failed: Option<String>,
    /// Times that it was taken out since it last rendered an image.
    pub exclusions: u32,
    /// It gets nothing before.
    pub excluded_until: Option<Timestamp>,
}

/// What an outcome changes about a worker for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It is taken out, for so many times now.
    Excluded {
        /// It gets nothing before.
        until: Timestamp,
        /// Since it last rendered an image.
        times: u32,
    },
    /// It had been taken out so many times and is as good as any again.
    Forgiven {
        /// Since it last rendered an image.
        times: u32,
    },
}

impl Standing {
    /// What is to be told about it when `next` follows.
    pub fn turned(&self, next: &Self) -> Option<Turned> {
        match next.excluded_until {
            Some(until) if next.exclusions > self.exclusions => {
                Some(Turned::Excluded { until, times: next.exclusions })
            }
            Some(_) | None if next.exclusions < self.exclusions => {
                Some(Turned::Forgiven { times: self.exclusions })
            }
            Some(_) | None => None,
        }
    }

    /// It rendered an image: all is forgiven.
    pub fn after_done() -> Self {
        Self::default()
    }

    /// It could not render `image`. What is the fault of the image or of its job does not count, nor does what it had in
    /// hand when it was taken out.
    pub fn after_error(self, class: ErrorClass, image: &str, now: Timestamp) -> Self {
        let is_its_own = !class.is_permanent() && !class.is_refusal();
        if !is_its_own || self.is_excluded(now) || self.last_failed.as_deref() == Some(image) {
            return self;
        }
        let failures = self.failures + 1;
        if failures < FAILURES_IN_A_ROW {
            return Self { failures, last_failed: Some(image.to_owned()), ..self };
        }
        let until = now.saturating_add(exclusion(self.exclusions)).unwrap_or(Timestamp::MAX);
        Self {
            failures: 0,
            last_failed: Some(image.to_owned()),
            exclusions: self.exclusions + 1,
            excluded_until: Some(until),
        }
    }

    /// Whether it gets nothing now.
    pub fn is_excluded(&self, now: Timestamp) -> bool {
        self.excluded_until.is_some_and(|until| now < until)
    }
}

/// After so long without a refusal the next one counts as the first.
const REFUSAL_FORGOTTEN: Duration = Duration::from_secs(2 * 3600);

/// A refusal that ended before this moment counts no more.
pub fn forgotten(now: Timestamp) -> Timestamp {
    now.saturating_sub(REFUSAL_FORGOTTEN).unwrap_or(Timestamp::MIN)
}

/// How a worker refuses a job: it cannot write to its output, or not load its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Times that it did, lately.
    pub times: u32,
    /// It gets nothing of the job before.
    pub until: Timestamp,
}

impl Refused {
    /// It refuses the job once more. What it had in hand of it is refused with it.
    pub fn again(before: Option<Self>, now: Timestamp) -> Self {
        let times = match before {
            Some(before) if now < before.until => return before,
            Some(before) if forgotten(now) < before.until => before.times,
            Some(_) | None => 0,
        };
        // Whoever mends the output or the model does not wait for long; to ask again costs little.
        let pause = Duration::from_secs(if times == 0 { 60 } else { 300 });
        let until = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        Self { times: times + 1, until }
    }
}

/// How long a worker is taken out that was taken out `before` times.
fn exclusion(before: u32) -> Duration {
    let minutes = match before {
        0 => 1,
        1 => 5,
        2 => 15,
        3.. => 60,
    };
    Duration::from_secs(minutes * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_image_is_given_up_in_the_end(errors in 1u32..50, losses in 1u32..50) {
            let caps = Caps { errors, workers: 3, losses };
            prop_assert_eq!(after_error(ErrorClass::Internal, errors, 1, caps), Verdict::Failed);
            prop_assert_eq!(after_error(ErrorClass::Internal, 1, 3, caps), Verdict::Failed);
            prop_assert_eq!(after_loss(losses, caps), Verdict::Failed);
            for n in 1..errors {
                prop_assert_eq!(after_error(ErrorClass::Internal, n, 2, caps), Verdict::Again);
            }
            for n in 1..losses {
                prop_assert_eq!(after_loss(n, caps), Verdict::Again);
            }
        }

        #[test]
        fn delays_never_shrink(errors in 0u32..100) {
            prop_assert!(retry_delay(errors) <= retry_delay(errors + 1));
        }
    }

    #[test]
    fn a_permanent_class_fails_at_once() {
        let caps = Caps { errors: 3, workers: 3, losses: 5 };
        assert_eq!(after_error(ErrorClass::Conflict, 1, 1, caps), Verdict::Failed);
        assert_eq!(after_error(ErrorClass::OutOfMemory, 1, 1, caps), Verdict::Again);
    }

    #[test]
    fn a_worker_is_taken_out_longer_each_time_and_forgiven_by_a_picture() {
        let mut now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let fail = |standing: Standing, image, now| standing.after_error(ErrorClass::Internal, image, now);
        let mut standing = Standing::default();
        // One image again and again is the image's fault.
        for _ in 0..5 {
            standing = fail(standing, "a", now);
        }
        standing = fail(standing, "b", now);
        standing = standing.after_error(ErrorClass::Prompt, "c", now);
        standing = standing.after_error(ErrorClass::Model, "d", now);
        assert!(!standing.is_excluded(now));
        for minutes in [1, 5, 15, 60, 60] {
            for image in ["c", "d", "e", "f", "g", "h", "i", "j"] {
                // Those after the third were in hand when it was taken out.
                standing = fail(standing, image, now);
            }
            let until = now + Duration::from_secs(minutes * 60);
            assert_eq!(standing.excluded_until, Some(until));
            assert!(standing.is_excluded(now) && !standing.is_excluded(until));
            now = until;
        }
        assert!(!Standing::after_done().is_excluded(now));
    }

    #[test]
    fn a_job_is_refused_longer_the_second_time_and_afresh_after_a_while() {
        let mut now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let mut refused = None;
        for (times, minutes) in [(1, 1), (2, 5), (3, 5), (4, 5)] {
            let again = Refused::again(refused, now);
            assert_eq!(again, Refused { times, until: now + Duration::from_secs(minutes * 60) });
            assert_eq!(Refused::again(Some(again), now), again);
            (now, refused) = (again.until, Some(again));
        }
        assert_eq!(Refused::again(refused, now + REFUSAL_FORGOTTEN).times, 1);
    }
}
