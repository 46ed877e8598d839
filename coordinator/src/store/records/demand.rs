//! What workers could do.

use crate::domain::id::JobId;
use crate::domain::schedule::Needs;

/// What is left of a job for workers now.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// Which.
    pub job: JobId,
    /// What to render with.
    pub model: String,
    /// What a worker must have.
    pub needs: Needs,
    /// Images that may be leased now.
    pub ready_images: u64,
    /// Images of leases that are held, without those that have their result.
    pub held_images: u64,
    /// What one takes on the workers seen so far.
    pub seconds_per_image: f64,
}

impl Demand {
    /// What all of them take.
    pub fn device_seconds(&self) -> f64 {
        (self.ready_images + self.held_images) as f64 * self.seconds_per_image
    }
}
