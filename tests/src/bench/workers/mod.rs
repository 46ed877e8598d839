//! Some hundred simulated workers in one process, each with a connection and a session of its own.

mod engine;
mod leases;
mod session;
mod shift;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::WorkersArgs;
use crate::child::{answer, told};
use crate::error::Error;

pub use engine::{ENGINE, Engine};
pub use session::Session;

/// What simulated workers did.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Tally {
    /// How long each call for a shard took that was answered with one that was ready, in microseconds, tries again
    /// included.
    pub claims: Vec<u64>,
    /// Calls for a shard that waited until they were answered with what another worker had, or that was lost.
    pub taken_over: u64,
    /// Calls that reported results.
    pub reports: u64,
    /// Results that were committed.
    pub accepted: u64,
    /// Results that were there already.
    pub known: u64,
    /// Calls that renewed leases.
    pub renewals: u64,
    /// Leases that a renewal found gone.
    pub gone: u64,
    /// Calls that were tried again.
    pub retries: u64,
    /// When the last result was committed, in microseconds since 1970.
    pub last_accepted: u64,
}

impl Tally {
    /// Adds what others did.
    pub fn add(&mut self, other: Self) {
        self.claims.extend(other.claims);
        self.taken_over += other.taken_over;
        self.reports += other.reports;
        self.accepted += other.accepted;
        self.known += other.known;
        self.renewals += other.renewals;
        self.gone += other.gone;
        self.retries += other.retries;
        self.last_accepted = self.last_accepted.max(other.last_accepted);
    }
}

/// The tally of one process.
#[derive(Clone, Debug, Default)]
pub struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    /// To be changed at once.
    pub fn lock(&self) -> MutexGuard<'_, Tally> {
        // Each change is whole in itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds since 1970.
pub fn now_micros() -> u64 {
    // A clock before 1970 measures nothing here.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Opens the sessions and tells so, works from the next line that it is told until it is told no more, and tells
/// its tally.
pub fn work(args: &WorkersArgs) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tally = runtime.map_err(Error::io("start the async runtime"))?.block_on(run(args))?;
    let tally = serde_json::to_string(&*tally.lock());
    answer(&tally.map_err(|error| Error::Child(format!("write the tally as JSON: {error}")))?)
}

async fn run(args: &WorkersArgs) -> Result<SharedTally, Error> {
    let tally = SharedTally::default();
    let mut sessions = Vec::new();
    for (number, address) in (args.first..).zip(args.coordinator.iter().cycle()).take(args.count as usize) {
        sessions.push(Session::open(address, number, tally.clone()).await?);
    }
    answer("ready")?;
    let mut told = told();
    if told.recv().await.is_none() {
        return Ok(tally);
    }
    let engine = Engine::new(args.image_seconds, args.told_seconds);
    let stop = CancellationToken::new();
    let mut shifts = JoinSet::new();
    for (number, session) in (args.first..).zip(sessions) {
        let wait = Duration::from_secs_f64(args.ramp_step_seconds * f64::from(number));
        shifts.spawn(shift::work(session, engine, wait, stop.clone()));
    }
    loop {
        tokio::select! {
            line = told.recv(), if !stop.is_cancelled() => if line.is_none() {
                stop.cancel();
            },
            ended = shifts.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(tally),
            },
        }
    }
}
