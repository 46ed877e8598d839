//! All devices of this worker: a thread for each engine and each encoder, and what is left when one breaks.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::encoder::Encoder;
use super::pace::Paces;
use super::queue::{Commands, Queue};
use super::thread::{EngineThread, text};
use crate::leases::Leases;
use crate::models::Models;
use crate::stats::Stats;
use crate::{Activity, Error};

/// What the engine threads share with the async side.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) models: Models,
    /// Of each device.
    pub(crate) activity: watch::Sender<Vec<Activity>>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) stats: Arc<Stats>,
    /// When all work must be done: a picture that will not be finished by then is stopped at its next step.
    pub(crate) ends: watch::Receiver<Option<Instant>>,
    pub(crate) paces: Arc<Paces>,
    /// Stops the pictures in hand at their next step.
    pub(crate) stop: CancellationToken,
}

/// The async side's handle on the engine and encoder threads.
pub(crate) struct Threads {
    /// The threads end when this is dropped.
    pub(crate) commands: Commands,
    /// Why the last of them ended, when all have.
    pub(crate) ended: oneshot::Receiver<Result<(), Error>>,
}

/// Starts the threads of all devices, each of which is named.
pub(crate) fn start(engines: Vec<(String, Box<dyn Engine>)>, context: &Context) -> io::Result<Threads> {
    let (commands, queue) = Queue::new(engines.len());
    let (end, ended) = oneshot::channel();
    let ends = Arc::new(Mutex::new(Ends {
        at_work: engines.len(),
        broken: Vec::new(),
        well: false,
        end: Some(end),
    }));
    let activities = engines.iter().map(|(id, _)| Activity { device: id.clone(), ..Activity::default() });
    context.activity.send_replace(activities.collect());
    let stage = context.stats.stage("encode");
    stage.set_width(u32::try_from(engines.len()).unwrap_or(u32::MAX));
    for (place, (id, engine)) in engines.into_iter().enumerate() {
        let encoder = Encoder::start(stage.clone())?;
        let (context, queue, ends) = (context.clone(), queue.clone(), ends.clone());
        std::thread::Builder::new().name(format!("engine {id}")).spawn(move || {
            let meter = context.stats.device(&id);
            let thread =
                EngineThread::new(engine, place, id.clone(), context, queue.clone(), encoder, meter.clone());
            let worked = catch_unwind(AssertUnwindSafe(|| thread.work()));
            let worked =
                worked.unwrap_or_else(|panic| Err(format!("its thread broke down: {}", text(&*panic))));
            if let Err(reason) = &worked {
                tracing::error!(device = %id, reason, "device is given up");
                meter.broke(reason);
            }
            // Whoever waits for the end hears of it before the images that nobody will render.
            ends.lock().unwrap_or_else(PoisonError::into_inner).tell(&id, worked);
            queue.leave(place);
        })?;
    }
    Ok(Threads { commands, ended })
}

/// How the devices ended so far.
struct Ends {
    at_work: usize,
    broken: Vec<String>,
    /// One of them ended because there was nothing more to do.
    well: bool,
    end: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Ends {
    fn tell(&mut self, id: &str, worked: Result<(), String>) {
        self.at_work -= 1;
        match worked {
            Ok(()) => self.well = true,
            Err(reason) => self.broken.push(format!("{id}: {reason}")),
        }
        if self.at_work == 0
            && let Some(end) = self.end.take()
        {
            let all = if self.well { Ok(()) } else { Err(Error::NoDevice(self.broken.join("; "))) };
            // Nobody listens when the worker was dropped.
            let _ = end.send(all);
        }
    }
}
