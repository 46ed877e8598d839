//! The coordinators and the simulated workers as processes.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::child::Child;
use crate::error::Error;
use crate::usage;
use crate::workers::Tally;

/// Processes of one kind.
#[derive(Debug)]
pub struct Processes {
    children: Vec<Child>,
}

impl Processes {
    /// CPU seconds of all of them.
    pub fn cpu_seconds(&self) -> Option<f64> {
        usage::cpu_seconds(&self.ids())
    }

    /// Most memory that one of them ever had in use.
    pub fn peak_memory(&self) -> Option<u64> {
        self.ids().into_iter().map(usage::peak_memory).max().flatten()
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.children.len()
    }

    /// Insists that all of them run.
    pub fn check(&mut self) -> Result<(), Error> {
        self.children.iter_mut().try_for_each(Child::check)
    }

    /// Tells them no more and waits for their good end.
    pub fn end(self) -> Result<(), Error> {
        self.children.into_iter().try_for_each(Child::end)
    }

    fn ids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

/// What coordinators are like.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorsPlan<'a> {
    /// How many.
    pub count: u32,
    /// URL or path.
    pub database: &'a str,
    /// URL.
    pub redis: Option<&'a str>,
    /// For what they write beside the database.
    pub folder: &'a Path,
    /// What a shard should take.
    pub shard_seconds: f64,
}

/// The coordinators.
#[derive(Debug)]
pub struct Coordinators {
    /// What runs.
    pub processes: Processes,
    /// Where they listen.
    pub addresses: Vec<String>,
}

impl Coordinators {
    /// Starts them one after the other on one database.
    pub fn start(plan: &CoordinatorsPlan<'_>) -> Result<Self, Error> {
        let mut coordinators = Self { processes: Processes { children: Vec::new() }, addresses: Vec::new() };
        for number in 1..=plan.count {
            let scratch = plan.folder.join(format!("scratch-{number}"));
            let mut args: Vec<OsString> = vec![
                "coordinator".into(),
                "--database".into(),
                plan.database.into(),
                "--scratch".into(),
                scratch.into(),
                "--shard-seconds".into(),
                plan.shard_seconds.to_string().into(),
            ];
            if let Some(redis) = plan.redis {
                args.extend(["--redis".into(), redis.into()]);
            }
            let mut child = Child::start(format!("coordinator {number}"), args)?;
            coordinators.addresses.push(child.line()?);
            coordinators.processes.children.push(child);
        }
        Ok(coordinators)
    }

    /// The address of the first one.
    pub fn first(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }
}

/// What simulated workers are like.
#[derive(Clone, Copy, Debug)]
pub struct WorkersPlan {
    /// How many.
    pub count: u32,
    /// In one process at most.
    pub of_process: u32,
    /// Time that an image takes.
    pub image_seconds: f64,
    /// Time that the engine says it took.
    pub told_seconds: f64,
    /// Time from the first shard of the first one to that of the last one.
    pub ramp_seconds: f64,
}

/// The simulated workers.
#[derive(Debug)]
pub struct Workers {
    /// What runs.
    pub processes: Processes,
}

impl Workers {
    /// Starts them, spread over the coordinators, and waits until all sessions are open.
    pub fn start(plan: WorkersPlan, coordinators: &Coordinators) -> Result<Self, Error> {
        let mut children = Vec::new();
        let step = plan.ramp_seconds / f64::from(plan.count);
        // Processes of equal size.
        let processes = plan.count.div_ceil(plan.of_process);
        for number in 0..processes {
            let (first, next) =
                (share(plan.count, number, processes), share(plan.count, number + 1, processes));
            let mut args: Vec<OsString> = vec!["workers".into()];
            for address in &coordinators.addresses {
                args.extend(["--coordinator".into(), address.into()]);
            }
            let numbers = [
                ("--first", first.to_string()),
                ("--count", (next - first).to_string()),
                ("--image-seconds", plan.image_seconds.to_string()),
                ("--told-seconds", plan.told_seconds.to_string()),
                ("--ramp-step-seconds", step.to_string()),
            ];
            args.extend(numbers.into_iter().flat_map(|(name, number)| [name.into(), number.into()]));
            children.push(Child::start(format!("workers {first} to {}", next - 1), args)?);
        }
        for child in &mut children {
            child.line()?;
        }
        Ok(Self { processes: Processes { children } })
    }

    /// Lets them begin.
    pub fn go(&mut self) -> Result<(), Error> {
        self.processes.children.iter_mut().try_for_each(|child| child.tell("go"))
    }

    /// Lets them leave; what they did together.
    pub fn end(self) -> Result<Tally, Error> {
        let mut tally = Tally::default();
        for child in self.processes.children {
            tally.add(child.end_with()?);
        }
        Ok(tally)
    }
}

/// The first of `count` that belongs to this one of `shares` equal shares.
fn share(count: u32, number: u32, shares: u32) -> u32 {
    // Both are far below the square root of what u64 holds.
    (u64::from(count) * u64::from(number) / u64::from(shares)) as u32
}

/// A connection of its own, as the command line and the worker make it (cli/src/connect.rs).
pub async fn connect(address: &str) -> Result<Channel, Error> {
    let failed = |source| Error::Connect { address: address.to_owned(), source };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn every_worker_belongs_to_one_process() {
        for (count, shares) in [(1, 1), (250, 1), (1000, 4), (1001, 5)] {
            let cuts: Vec<u32> = (0..=shares).map(|number| share(count, number, shares)).collect();
            assert_eq!((cuts[0], cuts[shares as usize]), (0, count));
            assert!(cuts.windows(2).all(|pair| (1..=250).contains(&(pair[1] - pair[0]))), "{cuts:?}");
        }
    }
}
