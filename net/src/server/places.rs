//! Who may have a connection at this moment.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::peer::network;

/// Places for connections, of which one address has a part only.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    taken: Arc<Taken>,
    most: usize,
}

/// Connections by address.
type Taken = Mutex<HashMap<IpAddr, usize>>;

impl Places {
    /// So many, and so many of one address.
    pub fn new(all: usize, most: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), taken: Arc::default(), most }
    }

    /// A place for whoever comes next, when there is one.
    pub async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives it to this address; none if it has its part.
    pub fn give(&self, free: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut taken = lock(&self.taken);
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { address, taken: Arc::clone(&self.taken), _free: free })
    }
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    taken: Arc<Taken>,
    _free: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

fn lock(taken: &Taken) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_its_part_only() {
        let places = Places::new(8, 2);
        let take = async |address: &str| {
            let free = places.free().await.unwrap();
            places.give(free, address.parse().unwrap())
        };
        let (one, two) = (take("2001:db8::1").await, take("2001:db8::2").await);
        assert!(one.is_some() && two.is_some());
        assert!(take("2001:db8::3").await.is_none());
        let other = take("192.0.2.1").await;
        assert!(other.is_some());
        assert_eq!(places.all.available_permits(), 5);
        drop(two);
        assert!(take("2001:db8::3").await.is_some());
        drop((one, other));
        assert!(lock(&places.taken).is_empty());
        assert_eq!(places.all.available_permits(), 8);
    }
}
