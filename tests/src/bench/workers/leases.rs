//! The leases that one simulated worker holds, as its renewals tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sanafarm_proto::v1::{HeldLease, LeaseRef, RenewLeasesResponse};
use tokio::sync::Notify;

/// Names one lease: a shard and its attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    shard: String,
    attempt: u32,
}

impl From<LeaseRef> for LeaseKey {
    fn from(lease: LeaseRef) -> Self {
        Self { shard: lease.shard_id, attempt: lease.attempt }
    }
}

impl From<LeaseKey> for LeaseRef {
    fn from(lease: LeaseKey) -> Self {
        Self { shard_id: lease.shard, attempt: lease.attempt }
    }
}

#[derive(Debug)]
struct Held {
    /// Indices of the images that are being rendered.
    rendering: BTreeSet<u64>,
    /// Images beyond this index are others' to render.
    last_index: u64,
}

/// What is held.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<BTreeMap<LeaseKey, Held>>,
    started: Notify,
}

impl Leases {
    pub fn add(&self, lease: LeaseKey) {
        self.lock().insert(lease, Held { rendering: BTreeSet::new(), last_index: u64::MAX });
    }

    pub fn remove(&self, lease: &LeaseKey) {
        self.lock().remove(lease);
    }

    /// Whether this image is to be rendered under the lease.
    pub fn covers(&self, lease: &LeaseKey, index: u64) -> bool {
        self.lock().get(lease).is_some_and(|held| index <= held.last_index)
    }

    /// The coordinator is to know at once.
    pub fn started(&self, lease: &LeaseKey, index: u64) {
        if let Some(held) = self.lock().get_mut(lease) {
            held.rendering.insert(index);
            self.started.notify_one();
        }
    }

    pub fn ended(&self, lease: &LeaseKey, index: u64) {
        if let Some(held) = self.lock().get_mut(lease) {
            held.rendering.remove(&index);
        }
    }

    /// Waits for the next start of an image; one that nobody has waited for counts.
    pub async fn until_started(&self) {
        self.started.notified().await;
    }

    /// All of them, as the coordinator is told.
    pub fn held(&self) -> Vec<HeldLease> {
        let held = self.lock();
        let told = held.iter().map(|(lease, held)| HeldLease {
            r#ref: Some(lease.clone().into()),
            rendering: held.rendering.iter().copied().collect(),
        });
        told.collect()
    }

    /// Drops those of the leases `asked` about that the answer lacks; how many there were. The others go on as far as
    /// it says.
    pub fn keep_only(&self, asked: Vec<HeldLease>, answer: RenewLeasesResponse) -> u64 {
        let held = answer.held.into_iter().map(LeaseKey::from);
        let answered: BTreeMap<LeaseKey, u64> = held.zip(answer.last_indices).collect();
        let mut held = self.lock();
        let mut gone = 0;
        for lease in asked.into_iter().filter_map(|asked| asked.r#ref).map(LeaseKey::from) {
            if let Some(last_index) = answered.get(&lease) {
                if let Some(held) = held.get_mut(&lease) {
                    held.last_index = *last_index;
                }
            } else if held.remove(&lease).is_some() {
                gone += 1;
            }
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, Held>> {
        // No critical section above leaves the map half-changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
