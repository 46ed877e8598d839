//! How often somebody was turned away.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::word::words;

words! {
    /// Why somebody was turned away.
    AuthFailure, "reason" {
        /// There was neither a token nor a certificate.
        Missing = "missing",
        /// The token is none, is not known, was revoked or has expired.
        Invalid = "invalid",
        /// The role does not allow it.
        Role = "role",
        /// Too much at once, or too much in a second.
        Limit = "limit",
        /// Too many wrong tokens from one address.
        Address = "address",
    }
}

/// Counts by reason, since the coordinator was started.
#[derive(Debug, Default)]
pub struct AuthFailures {
    counts: [AtomicU64; AuthFailure::ALL.len()],
}

impl AuthFailures {
    /// How often that was.
    pub fn count(&self, reason: AuthFailure) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, reason: AuthFailure) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}
