//! The leases that this worker holds and the images that it renders now.
//!
//! Shared by the shift, which adds and removes leases, the engine thread, which says what it starts, and the
//! renewal, which tells the coordinator and learns which leases are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sanafarm_proto::v1::{HeldLease, LeaseRef, RenewLeasesResponse};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Names one lease: a shard and its attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LeaseKey {
    pub(crate) shard_id: String,
    pub(crate) attempt: u32,
}

impl From<LeaseRef> for LeaseKey {
    fn from(lease: LeaseRef) -> Self {
        Self { shard_id: lease.shard_id, attempt: lease.attempt }
    }
}

impl From<LeaseKey> for LeaseRef {
    fn from(lease: LeaseKey) -> Self {
        Self { shard_id: lease.shard_id, attempt: lease.attempt }
    }
}

#[derive(Debug)]
struct Held {
    job: String,
    rendering: BTreeSet<u64>,
    gone: CancellationToken,
    /// Stops the image in hand at its next step.
    halt: CancellationToken,
    /// Images beyond this index are others' to render.
    last_index: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<BTreeMap<LeaseKey, Held>>,
    changed: Notify,
    lost: Notify,
}

impl Leases {
    /// Adds a lease of a job; `gone` is cancelled when the coordinator says that it is held no more, `halt` when its job
    /// has ended.
    pub(crate) fn add(&self, lease: LeaseKey, job: String, gone: CancellationToken, halt: CancellationToken) {
        self.lock().insert(lease, Held { job, rendering: BTreeSet::new(), gone, halt, last_index: u64::MAX });
    }

    /// A job has ended: its leases are gone, and nobody wants what is in hand of it.
    pub(crate) fn job_ended(&self, job: &str) {
        let mut ended = false;
        self.lock().retain(|lease, held| {
            if held.job != job {
                return true;
            }
            tracing::info!(shard = %lease.shard_id, attempt = lease.attempt, job, "the job has ended");
            held.gone.cancel();
            held.halt.cancel();
            ended = true;
            false
        });
        if ended {
            self.lost.notify_one();
        }
    }

    /// Forgets a lease that is done with or handed back.
    pub(crate) fn remove(&self, lease: &LeaseKey) {
        self.lock().remove(lease);
    }

    /// The last image of a lease that is held; none when it is gone.
    pub(crate) fn last_index(&self, lease: &LeaseKey) -> Option<u64> {
        self.lock().get(lease).map(|held| held.last_index)
    }

    pub(crate) fn holds(&self, lease: &LeaseKey) -> bool {
        self.lock().contains_key(lease)
    }

    /// The engine starts an image: the coordinator should know at once, for if this image kills the worker,
    /// it is the one to blame.
    pub(crate) fn started(&self, lease: &LeaseKey, index: u64) {
        if let Some(held) = self.lock().get_mut(lease) {
            held.rendering.insert(index);
            self.changed.notify_one();
        }
    }

    /// An image is no longer in hand.
    pub(crate) fn ended(&self, lease: &LeaseKey, index: u64) {
        if let Some(held) = self.lock().get_mut(lease) {
            held.rendering.remove(&index);
        }
    }

    /// Waits for the next start of an image; one that nobody has waited for counts.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits for the next loss of leases or parts of them; one that nobody has waited for counts.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }

    /// All leases, as the coordinator is told.
    pub(crate) fn held(&self) -> Vec<HeldLease> {
        let held = self.lock();
        held.iter()
            .map(|(key, held)| HeldLease {
                r#ref: Some(key.clone().into()),
                rendering: held.rendering.iter().copied().collect(),
            })
            .collect()
    }

    /// Drops those of the leases `asked` about that the coordinator did not answer with, and names them. A
    /// lease that was granted after the question is no part of it. The others go on as far as they were answered.
    pub(crate) fn keep_only(&self, asked: &[HeldLease], answer: RenewLeasesResponse) -> Vec<LeaseKey> {
        // A coordinator that cuts nothing names no last indices.
        let last_indices = answer.last_indices.into_iter().chain(std::iter::repeat(u64::MAX));
        let answered: BTreeMap<LeaseKey, u64> =
            answer.held.into_iter().map(LeaseKey::from).zip(last_indices).collect();
        let mut held = self.lock();
        let (mut gone, mut shortened) = (Vec::new(), false);
        for lease in asked.iter().filter_map(|asked| asked.r#ref.clone()).map(LeaseKey::from) {
            if let Some(last_index) = answered.get(&lease) {
                if let Some(held) = held.get_mut(&lease).filter(|held| *last_index < held.last_index) {
                    held.last_index = *last_index;
                    shortened = true;
                }
            } else if let Some(lost) = held.remove(&lease) {
                lost.gone.cancel();
                gone.push(lease);
            }
        }
        if shortened || !gone.is_empty() {
            self.lost.notify_one();
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, Held>> {
        // No critical section above leaves the map half-changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
