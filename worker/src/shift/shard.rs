//! A leased shard on its way through this worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sanafarm_proto::v1::{LeasedImage, Settings};
use tokio_util::sync::CancellationToken;

use crate::engine::Claim;
use crate::leases::LeaseKey;
use crate::picture::Encoding;
use crate::recipe::Failure;

/// A leased shard.
pub(super) struct Shard {
    pub(super) key: LeaseKey,
    pub(super) job: String,
    pub(super) model: String,
    pub(super) settings: Settings,
    /// What is written for its images; the failure of all of them when this worker cannot.
    pub(super) encoding: Result<Encoding, Failure>,
    /// As the lease names it.
    pub(super) output: String,
    pub(super) presigned: bool,
    /// The tar that its pictures belong in.
    pub(super) archive: Option<String>,
    /// No more pictures of it collect for a tar.
    pub(super) packed: bool,
    /// Cancelled when images of it are not to be started any more.
    pub(super) skip: CancellationToken,
    /// Cancelled when the image in hand is to be stopped too.
    pub(super) halt: CancellationToken,
    pub(super) waiting: VecDeque<LeasedImage>,
    /// Sent to the engine and not settled.
    pub(super) sent: BTreeMap<u64, Claim>,
    /// Images beyond this index were cut off.
    pub(super) last_index: u64,
    /// No image of it was sent to the engine yet.
    pub(super) untouched: bool,
    /// Started or finished, under whatever lease, and neither acknowledged by the coordinator nor given up.
    pub(super) in_hand: BTreeSet<u64>,
    /// The coordinator has not said yet that nothing of it is left to do.
    pub(super) held: bool,
    /// Images were left undone because the worker leaves, or the output refuses.
    pub(super) cut_short: bool,
    /// Why its output refuses.
    pub(super) refused: Option<String>,
}

impl Shard {
    /// Leaves images beyond this index to others.
    pub(super) fn end_at(&mut self, last_index: u64) {
        if last_index < self.last_index {
            self.last_index = last_index;
            self.waiting.retain(|image| image.index <= last_index);
            for (_, claim) in self.sent.range(last_index.saturating_add(1)..) {
                claim.cancel();
            }
        }
    }
}
