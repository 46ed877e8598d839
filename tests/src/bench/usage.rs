//! What processes cost, as the system counts it; none where it does not tell.

use std::time::Instant;

use sanafarm_test_servers::Postgres;

use crate::farm::{Coordinators, Workers};

/// CPU seconds of these processes together, all threads.
pub fn cpu_seconds(processes: &[u32]) -> Option<f64> {
    processes.iter().map(|process| system::cpu_seconds(*process)).sum()
}

/// CPU seconds of a process and all that it started, whether they still run or not.
pub fn tree_cpu_seconds(root: u32) -> Option<f64> {
    let parents = system::parents()?;
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    let below = tree.iter().skip(1);
    // One that has just ended is counted in its parent.
    let below: f64 = below.map(|process| system::cpu_seconds(*process).unwrap_or(0.0)).sum();
    Some(system::cpu_seconds(root)? + below)
}

/// Most memory that a process ever had in use, in bytes.
pub fn peak_memory(process: u32) -> Option<u64> {
    system::peak_memory(process)
}

/// CPU seconds so far.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// When they were counted.
    pub at: Instant,
    coordinators: Option<f64>,
    workers: Option<f64>,
    server: Option<f64>,
}

/// CPU seconds a second: 1 is a whole core.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Of all coordinators.
    pub coordinators: Option<f64>,
    /// Of all simulated workers.
    pub workers: Option<f64>,
    /// Of the benchmark's own database server.
    pub server: Option<f64>,
}

impl Cost {
    /// What all of them have used up to now.
    pub fn now(coordinators: &Coordinators, workers: Option<&Workers>, server: Option<&Postgres>) -> Self {
        Self {
            at: Instant::now(),
            coordinators: coordinators.processes.cpu_seconds(),
            workers: workers.and_then(|workers| workers.processes.cpu_seconds()),
            server: server.and_then(|server| tree_cpu_seconds(server.id())),
        }
    }

    /// What they used from now until `later`, a second.
    pub fn shares_until(&self, later: &Self) -> Shares {
        let seconds = (later.at - self.at).as_secs_f64();
        let share = |now: Option<f64>, later: Option<f64>| Some((later? - now?) / seconds);
        Shares {
            coordinators: share(self.coordinators, later.coordinators),
            workers: share(self.workers, later.workers),
            server: share(self.server, later.server),
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use procfs::process::{Process, all_processes};

    fn find(process: u32) -> Option<Process> {
        Process::new(i32::try_from(process).ok()?).ok()
    }

    /// Of the process, and of its children that have ended.
    pub fn cpu_seconds(process: u32) -> Option<f64> {
        let stat = find(process)?.stat().ok()?;
        let ended = u64::try_from(stat.cutime + stat.cstime).ok()?;
        Some((stat.utime + stat.stime + ended) as f64 / procfs::ticks_per_second() as f64)
    }

    pub fn peak_memory(process: u32) -> Option<u64> {
        let kibibytes = find(process)?.status().ok()?.vmhwm?;
        Some(kibibytes * 1024)
    }

    /// All processes with their parents.
    pub fn parents() -> Option<Vec<(u32, u32)>> {
        let stats = all_processes().ok()?.filter_map(|process| process.ok()?.stat().ok());
        Some(stats.filter_map(|stat| Some((stat.pid.try_into().ok()?, stat.ppid.try_into().ok()?))).collect())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub fn cpu_seconds(_: u32) -> Option<f64> {
        None
    }

    pub fn peak_memory(_: u32) -> Option<u64> {
        None
    }

    pub fn parents() -> Option<Vec<(u32, u32)>> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_a_child_is_counted_in_the_tree_while_it_runs_and_after() {
        let me = std::process::id();
        assert!(peak_memory(me).unwrap() > 1 << 20);
        let before = tree_cpu_seconds(me).unwrap();
        let busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read line";
        let stdin = std::process::Stdio::piped();
        let mut child = std::process::Command::new("sh").args(["-c", busy]).stdin(stdin).spawn().unwrap();
        while cpu_seconds(&[child.id()]).unwrap() < 0.05 {
            std::thread::yield_now();
        }
        let running = tree_cpu_seconds(me).unwrap();
        assert!(running >= before + 0.05, "{before} {running}");
        drop(child.stdin.take());
        child.wait().unwrap();
        let after = tree_cpu_seconds(me).unwrap();
        assert!(after >= running, "{running} {after}");
    }
}
