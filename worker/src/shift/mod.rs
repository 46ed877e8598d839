//! The shift: one loop that owns what is leased, keeps the engine fed and sees every image to its report.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sanafarm_proto::v1::{Device, LeasedImage, OpenSessionRequest, ReleaseReason, Settings};
use sanafarm_storage::Output;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::engine::{self, Claim, Context, Engine, Threads};
use crate::follow::follow;
use crate::leases::{LeaseKey, Leases};
use crate::report::{Acknowledged, Report, renew_leases, report_results};
use crate::session::{End, Session};
use crate::{Error, Options, Shutdown, Summary};

mod image;
mod lease;

use image::Image;
use lease::Leased;

/// Images in hand at most: waiting at the engine, being rendered, encoded, stored. Bounds the finished
/// pictures in memory when the output is slow.
const IN_HAND: usize = 6;
/// The next shard is leased when this many images are left to start, and none when a whole shard is: late
/// enough to leave work to others, early enough that the engine never waits.
const LOW_WATER: usize = 2;
/// Results and acknowledgements under way.
const NOTES: usize = 64;
/// How long the engine may take to stop at its next step.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A leased shard.
struct Shard {
    key: LeaseKey,
    job: String,
    model: String,
    settings: Settings,
    output: Output,
    /// Cancelled when images of it are not to be started any more.
    skip: CancellationToken,
    /// Cancelled when the image in hand is to be stopped too.
    halt: CancellationToken,
    waiting: VecDeque<LeasedImage>,
    /// Sent to the engine and not settled.
    sent: BTreeMap<u64, Claim>,
    /// Images beyond this index were cut off.
    last_index: u64,
    /// No image of it was sent to the engine yet.
    untouched: bool,
    /// Started, and neither acknowledged by the coordinator nor given up.
    in_hand: usize,
    /// What the coordinator said last: images are left to do.
    held: bool,
    /// Images were left undone because the worker leaves.
    cut_short: bool,
    /// Nobody will tell what became of the images in hand.
    abandoned: bool,
}

impl Shard {
    /// Leaves images beyond this index to others.
    fn end_at(&mut self, last_index: u64) {
        if last_index < self.last_index {
            self.last_index = last_index;
            self.waiting.retain(|image| image.index <= last_index);
            for (_, claim) in self.sent.range(last_index.saturating_add(1)..) {
                claim.cancel();
            }
        }
    }
}

/// What runs beside the images.
enum Aside {
    Renewed(Result<(), Error>),
    Reported(Result<(), Error>),
    Released(Result<(), Error>),
    Leased(Result<Option<Box<Leased>>, Error>),
}

struct Shift {
    session: Session,
    /// Of the device that images are rendered on.
    device_id: String,
    /// The only job to work for; any when empty.
    job: String,
    leases: Arc<Leases>,
    shards: Vec<Shard>,
    images: JoinSet<Image>,
    asides: JoinSet<Aside>,
    /// `None` when the worker leaves: what is in hand has its own.
    reports: Option<mpsc::Sender<Report>>,
    /// The reporter runs.
    reporting: bool,
    releasing: usize,
    leasing: Option<AbortHandle>,
    /// Output of the last lease.
    output: Option<(String, Output)>,
    leaving: bool,
    /// Parent of all `skip` tokens, and of the session's patience: cancelled when the worker leaves, by the soft
    /// shutdown itself so that not one image is started after it.
    skip: CancellationToken,
    /// Stops the engine at its next step.
    stop: CancellationToken,
    summary: Summary,
    failure: Option<Error>,
}

/// Registers, works with `engine` until told to leave, and hands back what is left.
pub(crate) async fn run(
    channel: Channel,
    options: Options,
    shutdown: Shutdown,
    engine: Box<dyn Engine>,
    device: Device,
) -> Result<Summary, Error> {
    let device_id = device.id.clone();
    let registration = OpenSessionRequest {
        worker: options.name,
        version: env!("CARGO_PKG_VERSION").into(),
        devices: vec![device],
        labels: options.labels.into_iter().collect(),
    };
    // Cancelled by the soft shutdown, and by whatever else makes the worker leave.
    let leaving = shutdown.soft.child_token();
    let end = End { leaving: leaving.clone(), now: shutdown.hard.clone() };
    let Some(session) = Session::open(channel, registration, end).await? else {
        return Ok(Summary::default());
    };
    let leases = Arc::new(Leases::default());
    let activity = options.activity.unwrap_or_default();
    let stop = shutdown.hard.child_token();
    // Whoever drops this future stops the engine too.
    let _stop_when_dropped = stop.clone().drop_guard();
    let context = Context {
        cache: options.cache,
        activity: activity.clone(),
        leases: leases.clone(),
        stop: stop.clone(),
    };
    let threads = engine::start(engine, context)
        .map_err(|error| Error::Engine(format!("start the engine thread: {error}")))?;
    let job = options.job.unwrap_or_default();
    // It ends when this future does.
    let _following =
        AbortOnDropHandle::new(tokio::spawn(follow(session.clone(), activity.subscribe(), leases.clone())));
    Shift::new(session, device_id, job, leases, leaving, stop).work(threads, shutdown).await
}

impl Shift {
    fn new(
        session: Session,
        device_id: String,
        job: String,
        leases: Arc<Leases>,
        skip: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        Self {
            session,
            device_id,
            job,
            leases,
            shards: Vec::new(),
            images: JoinSet::new(),
            asides: JoinSet::new(),
            reports: None,
            reporting: false,
            releasing: 0,
            leasing: None,
            output: None,
            leaving: false,
            skip,
            stop,
            summary: Summary::default(),
            failure: None,
        }
    }

    async fn work(mut self, threads: Threads, shutdown: Shutdown) -> Result<Summary, Error> {
        let Threads { commands, mut ended } = threads;
        let stop_renewing = CancellationToken::new();
        let mut acknowledgements = self.start_conversations(&stop_renewing);
        let leases = self.leases.clone();
        let mut cut = false;
        loop {
            self.settle_shards();
            if self.has_left() {
                break;
            }
            self.lease_ahead();
            let can_start = self.images.len() < IN_HAND && self.shards.iter().any(|s| !s.waiting.is_empty());
            tokio::select! {
                // Acknowledgements before the end of the reporter that sent them.
                biased;
                () = shutdown.hard.cancelled(), if !cut => {
                    cut = true;
                    self.leave("stopping at the next step");
                    self.images.abort_all();
                    self.abandon_shards();
                }
                () = shutdown.soft.cancelled(), if !self.leaving => {
                    self.leave("finishing the image in hand");
                }
                end = &mut ended, if !self.leaving => self.engine_ended(end),
                Some(image) = self.images.join_next() => self.settle_image(image),
                Some(note) = acknowledgements.recv() => self.acknowledge(&note),
                Some(aside) = self.asides.join_next() => self.settle_aside(aside),
                // Their images make room for another shard.
                () = leases.lost() => {}
                permit = commands.reserve(), if can_start => match permit {
                    Ok(permit) => self.start_image(permit),
                    Err(_) => self.leave("the engine has ended"),
                },
            }
        }
        stop_renewing.cancel();
        drop(commands);
        if !ended.is_terminated() {
            self.wait_for_engine(ended).await;
        }
        let reason = self.failure.as_ref().map_or_else(|| "drain".to_owned(), ToString::to_string);
        self.session.close(&reason).await;
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.summary),
        }
    }

    /// Starts the reporter and the renewal, and gives the reporter's acknowledgements.
    fn start_conversations(&mut self, stop_renewing: &CancellationToken) -> mpsc::Receiver<Acknowledged> {
        let (reports, to_report) = mpsc::channel(NOTES);
        let (acknowledge, acknowledgements) = mpsc::channel(NOTES);
        let reporter = report_results(self.session.clone(), to_report, acknowledge);
        let renewal = renew_leases(self.session.clone(), self.leases.clone(), stop_renewing.clone());
        self.asides.spawn(async { Aside::Reported(reporter.await) });
        self.asides.spawn(async { Aside::Renewed(renewal.await) });
        self.reports = Some(reports);
        self.reporting = true;
        acknowledgements
    }

    /// Whether nothing is left to finish, report or hand back.
    fn has_left(&self) -> bool {
        let at_work =
            self.reporting || self.releasing > 0 || !self.images.is_empty() || !self.shards.is_empty();
        self.leaving && !at_work
    }

    /// Starts no more images and leases no more shards; what is in hand goes on.
    fn leave(&mut self, why: &str) {
        if self.leaving {
            return;
        }
        tracing::info!(why, "leaving");
        self.leaving = true;
        self.skip.cancel();
        self.reports = None;
        if let Some(leasing) = self.leasing.take() {
            // A lease granted in this moment is released when the session closes.
            leasing.abort();
        }
        for shard in &mut self.shards {
            shard.cut_short |= !shard.waiting.is_empty();
            shard.waiting.clear();
        }
    }

    /// Waits for no image in hand any more.
    fn abandon_shards(&mut self) {
        for shard in &mut self.shards {
            shard.abandoned = true;
            shard.cut_short = true;
        }
    }

    /// Leaves with an error; the first one is told.
    fn fail(&mut self, failure: Error) {
        tracing::error!(error = %failure, "worker ends");
        self.failure.get_or_insert(failure);
        self.leave("an error");
    }

    fn engine_ended(&mut self, end: Result<Result<(), String>, oneshot::error::RecvError>) {
        match end {
            // It ends so only when nobody can send commands any more.
            Ok(Ok(())) => self.leave("the engine has ended"),
            Ok(Err(broken)) => self.fail(Error::Engine(broken)),
            Err(_) => self.fail(Error::Engine("the engine thread broke down".into())),
        }
    }

    async fn wait_for_engine(&mut self, ended: oneshot::Receiver<Result<(), String>>) {
        let stop = self.stop.clone();
        let too_long = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_LIMIT).await;
        };
        tokio::select! {
            end = ended => self.engine_ended(end),
            () = too_long => tracing::warn!("engine does not stop: leaving it to the end of the process"),
        }
    }

    fn acknowledge(&mut self, note: &Acknowledged) {
        if let Some(shard) = self.shards.iter_mut().find(|shard| shard.key == note.lease) {
            shard.in_hand = shard.in_hand.saturating_sub(note.results);
            shard.held = note.held;
        }
    }

    fn settle_aside(&mut self, aside: Result<Aside, JoinError>) {
        let ended = match aside {
            Ok(Aside::Leased(leased)) => {
                self.leasing = None;
                leased.map(|leased| leased.map_or((), |leased| self.take(*leased)))
            }
            Ok(Aside::Reported(ended)) => {
                self.reporting = false;
                if ended.is_err() {
                    self.abandon_shards();
                }
                ended
            }
            Ok(Aside::Released(ended)) => {
                self.releasing -= 1;
                ended
            }
            Ok(Aside::Renewed(ended)) => ended,
            // The lease that was being asked for when the worker left.
            Err(error) if error.is_cancelled() => Ok(()),
            Err(error) => Err(Error::Engine(format!("talk to the coordinator: {error}"))),
        };
        if let Err(error) = ended {
            self.fail(error);
        }
    }

    /// Ends the leases that have nothing left in hand.
    fn settle_shards(&mut self) {
        for shard in &mut self.shards {
            match self.leases.last_index(&shard.key) {
                Some(last_index) => shard.end_at(last_index),
                None => shard.waiting.clear(),
            }
        }
        let reporting = self.reporting;
        let ended = |shard: &mut Shard| {
            let told = shard.in_hand == 0 || (shard.abandoned && !reporting);
            shard.waiting.is_empty() && told
        };
        let ended: Vec<Shard> = self.shards.extract_if(.., ended).collect();
        for shard in ended {
            if self.leases.holds(&shard.key) && (shard.held || shard.cut_short) {
                self.release(shard.key.clone(), shard.cut_short);
            }
            self.leases.remove(&shard.key);
        }
    }

    /// Hands a lease back beside the work.
    fn release(&mut self, key: LeaseKey, cut_short: bool) {
        let (reason, message) = match (&self.failure, cut_short) {
            (Some(error @ Error::Storage(_)), _) => (ReleaseReason::Storage, error.to_string()),
            (Some(error), _) => (ReleaseReason::Drain, error.to_string()),
            (None, true) => (ReleaseReason::Drain, "the worker leaves".into()),
            (None, false) => (ReleaseReason::Finished, "some images are to be tried again".into()),
        };
        let session = self.session.clone();
        self.releasing += 1;
        self.asides.spawn(async move { Aside::Released(session.release(&key, reason, message).await) });
    }
}
