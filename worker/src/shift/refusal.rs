//! Outputs that refuse: their jobs are left to others, and the worker goes on with what it can store.

use std::collections::BTreeMap;

use sanafarm_proto::v1::ReleaseReason;

use super::Shift;
use crate::Error;
use crate::leases::LeaseKey;

/// What is told as trouble of a lease that was handed back.
const REFUSED: &str = "output";

impl Shift {
    /// The output of a lease cannot be written. A worker for one job has nothing else to do.
    pub(super) fn refuse(&mut self, key: LeaseKey, job: &str, error: sanafarm_storage::Error) {
        if !self.job.is_empty() {
            self.fail(Error::Storage(error));
            return self.release(key, true);
        }
        let why = Error::Storage(error).to_string();
        tracing::error!(job, why, "a job is left to others: its output cannot be written");
        self.outbox.stats().set_trouble(REFUSED, Some(format!("job {job} is left to others: {why}")));
        self.hand_back(key, ReleaseReason::Storage, why);
    }

    /// The output of a lease can be written.
    pub(super) fn accept(&self) {
        self.outbox.stats().set_trouble(REFUSED, None);
    }

    /// These outputs refuse now. What is rendered for them is kept, and the rest of their shards handed back.
    pub(super) fn heed(&mut self, refusing: BTreeMap<String, String>) {
        self.refusing = refusing;
        for shard in self.shards.iter_mut().filter(|shard| shard.refused.is_none()) {
            let Some(why) = self.refusing.get(&shard.output) else { continue };
            tracing::error!(job = shard.job, shard = shard.key.shard_id, why, "a shard is left to others");
            shard.refused = Some(why.clone());
            shard.cut_short |= !shard.waiting.is_empty() || !shard.in_hand.is_empty();
            shard.waiting.clear();
            shard.skip.cancel();
            shard.halt.cancel();
        }
    }
}
