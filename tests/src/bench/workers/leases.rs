//! The leases that one simulated worker holds, as its renewals tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sanafarm_proto::v1::{HeldLease, LeaseRef};
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

/// What is held, with the indices of the images that are being rendered.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<BTreeMap<LeaseKey, BTreeSet<u64>>>,
    started: Notify,
}

impl Leases {
    pub fn add(&self, lease: LeaseKey) {
        self.lock().insert(lease, BTreeSet::new());
    }

    pub fn remove(&self, lease: &LeaseKey) {
        self.lock().remove(lease);
    }

    pub fn holds(&self, lease: &LeaseKey) -> bool {
        self.lock().contains_key(lease)
    }

    /// The coordinator is to know at once.
    pub fn started(&self, lease: &LeaseKey, index: u64) {
        if let Some(rendering) = self.lock().get_mut(lease) {
            rendering.insert(index);
            self.started.notify_one();
        }
    }

    pub fn ended(&self, lease: &LeaseKey, index: u64) {
        if let Some(rendering) = self.lock().get_mut(lease) {
            rendering.remove(&index);
        }
    }

    /// Waits for the next start of an image; one that nobody has waited for counts.
    pub async fn until_started(&self) {
        self.started.notified().await;
    }

    /// All of them, as the coordinator is told.
    pub fn held(&self) -> Vec<HeldLease> {
        let held = self.lock();
        let told = held.iter().map(|(lease, rendering)| HeldLease {
            r#ref: Some(lease.clone().into()),
            rendering: rendering.iter().copied().collect(),
        });
        told.collect()
    }

    /// Drops those of the leases `asked` about that the answer lacks; how many there were.
    pub fn keep_only(&self, asked: Vec<HeldLease>, answered: Vec<LeaseRef>) -> u64 {
        let answered: BTreeSet<LeaseKey> = answered.into_iter().map(LeaseKey::from).collect();
        let mut held = self.lock();
        let mut gone = 0;
        for lease in asked.into_iter().filter_map(|asked| asked.r#ref).map(LeaseKey::from) {
            if !answered.contains(&lease) && held.remove(&lease).is_some() {
                gone += 1;
            }
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, BTreeSet<u64>>> {
        // No critical section above leaves the map half-changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
