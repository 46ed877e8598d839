//! What an error or a loss costs an image.

use std::time::Duration;

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
        Numeric = "numeric",
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
            | Self::Numeric
            | Self::Encode
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

/// After its `errors`-th reported error, counted from 1.
pub fn after_error(class: ErrorClass, errors: u32, caps: Caps) -> Verdict {
    if class.is_permanent() || errors >= caps.errors { Verdict::Failed } else { Verdict::Again }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_image_is_given_up_in_the_end(errors in 1u32..50, losses in 1u32..50) {
            let caps = Caps { errors, losses };
            prop_assert_eq!(after_error(ErrorClass::Internal, errors, caps), Verdict::Failed);
            prop_assert_eq!(after_loss(losses, caps), Verdict::Failed);
            for n in 1..errors {
                prop_assert_eq!(after_error(ErrorClass::Internal, n, caps), Verdict::Again);
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
        let caps = Caps { errors: 3, losses: 5 };
        assert_eq!(after_error(ErrorClass::Conflict, 1, caps), Verdict::Failed);
        assert_eq!(after_error(ErrorClass::OutOfMemory, 1, caps), Verdict::Again);
    }
}
