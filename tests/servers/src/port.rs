//! Ports that can be left and taken again.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use crate::folder::{lock, shared};

/// Below the ports that the system gives to whoever connects or asks for any (`ip_local_port_range`): of those, one that
/// a stopped server has left may be somebody else's in a moment.
const PORTS: std::ops::Range<u16> = 16_000..32_000;

/// A port of 127.0.0.1 that is its holder's alone among all tests of this machine.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// One that nobody holds or listens at.
    pub fn take() -> Self {
        let locks = shared().join("ports");
        std::fs::create_dir_all(&locks).unwrap_or_else(|error| panic!("make {}: {error}", locks.display()));
        // Not all from the first on: each look costs a file.
        let first = RandomState::new().hash_one(0_u8) % PORTS.len() as u64;
        let (before, after) =
            (PORTS.start..PORTS.start + first as u16, PORTS.start + first as u16..PORTS.end);
        let mut ports = after.chain(before).filter_map(|number| {
            let lock = lock(&locks.join(number.to_string()));
            lock.try_lock().ok()?;
            // Some other program's, perhaps.
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            Some(Self { number, _lock: lock })
        });
        ports.next().expect("this machine has ports to give")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_port_is_its_holders_alone() {
        let held: Vec<Port> = (0..64).map(|_| Port::take()).collect();
        let numbers: HashSet<u16> = held.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), held.len());
        let again = held
            .iter()
            .all(|port| lock(&shared().join("ports").join(port.number.to_string())).try_lock().is_err());
        assert!(again, "another process is told that they are taken");
    }
}
