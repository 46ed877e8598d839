//! The shift: one loop that owns what is leased, keeps the engine fed and sees every image into the outbox, from where
//! the store stage and the reporter take it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sanafarm_net::Channel;
use sanafarm_proto::v1::{Device, OpenSessionRequest, ReleaseReason};
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{self, Context, Engine, Paces, Threads};
use crate::follow::follow;
use crate::leases::Leases;
use crate::leave::Leave;
use crate::models::Models;
use crate::notice::listen;
use crate::outbox::{Outbox, Queues};
use crate::report::Acknowledged;
use crate::session::{End, Session};
use crate::{Error, Options, Shutdown, Summary};

mod beside;
mod image;
mod lease;
mod leaving;
mod limits;
mod refusal;
mod shard;

use beside::Aside;
use image::Image;
pub use limits::Limits;
use limits::Spent;
use shard::Shard;

/// Images being encoded and written to the outbox for each device, besides those that are rendered at once and as many that
/// wait at the engines. Bounds the finished pictures in memory.
const BEHIND: usize = 4;
/// The next shard is leased when this many images are left to start besides those that the engines take at once, and none
/// when a whole shard is: late enough to leave work to others, early enough that no engine waits.
const LOW_WATER: usize = 1;
/// How long the object stores may take to forget uploads that were given up, once everything is handed back.
const ABORTS: Duration = Duration::from_secs(2);

struct Shift {
    session: Session,
    /// The only job to work for; any when empty.
    job: String,
    leases: Arc<Leases>,
    outbox: Arc<Outbox>,
    leave: Arc<Leave>,
    limits: Spent,
    shards: Vec<Shard>,
    images: JoinSet<Image>,
    /// Bytes that the pictures of these may have.
    room_in_hand: u64,
    /// Bytes that a picture of the last lease may have.
    room_wanted: u64,
    /// No other picture can be kept, and nothing in hand is about to change that.
    full: bool,
    asides: JoinSet<Aside>,
    /// The store stage and the reporter run.
    storing: bool,
    reporting: bool,
    releasing: usize,
    leasing: Option<AbortHandle>,
    /// Output of the last lease.
    output: Option<String>,
    /// Outputs that refuse, and why.
    refusing: BTreeMap<String, String>,
    leaving: bool,
    /// How long what is in the outbox may take when the worker leaves.
    drain_timeout: Duration,
    /// How long the engine may take to stop at its next step, and the disk to take what is rendered.
    stop_limit: Duration,
    /// Nothing is in hand any more but what is in the outbox.
    flushing: bool,
    /// When the worker leaves: all that is not done then is left.
    end_by: Option<Instant>,
    /// When what is rendered and not kept is waited for no longer, and nor are the engines.
    stop_by: Option<Instant>,
    /// Stops the store stage.
    stop_storing: CancellationToken,
    /// Parent of all `skip` tokens, and of the session's patience: cancelled when the worker leaves, by the soft
    /// shutdown itself so that not one image is started after it.
    skip: CancellationToken,
    /// Stops the engine at its next step.
    stop: CancellationToken,
    summary: Summary,
    failure: Option<Error>,
}

/// Registers, works with the engine of each device until told to leave, and hands back what is left.
pub(crate) async fn run(
    channel: Channel,
    options: Options,
    shutdown: Shutdown,
    engines: Vec<(Device, Box<dyn Engine>)>,
) -> Result<Summary, Error> {
    let stats = options.monitor.stats();
    let leases = Arc::new(Leases::default());
    let opened = Outbox::open(&options.outbox, &options.name, stats.clone()).await;
    let (outbox, queues) = opened?;
    let (devices, engines): (Vec<Device>, Vec<_>) =
        engines.into_iter().map(|(device, engine)| (device.clone(), (device.id, engine))).unzip();
    let registration = OpenSessionRequest {
        worker: options.name,
        version: env!("CARGO_PKG_VERSION").into(),
        devices,
        labels: options.labels.into_iter().collect(),
    };
    let leave = Arc::new(Leave::new(&shutdown));
    // Cancelled by the soft shutdown, and by whatever else makes the worker leave.
    let leaving = leave.soft().child_token();
    let end = End { leaving: leaving.clone(), now: leave.hard().clone(), patience: options.patience.answer };
    let Some(session) = Session::open(channel, registration, end).await? else {
        return Ok(Summary::default());
    };
    stats.opened(engines.iter().map(|(id, _)| id.as_str()));
    let activity = options.activity.unwrap_or_default();
    let stop = leave.hard().child_token();
    // Whoever drops this future stops the engine too.
    let _stop_when_dropped = stop.clone().drop_guard();
    let context = Context {
        models: Models::new(options.models),
        activity: activity.clone(),
        leases: leases.clone(),
        ends: leave.ends(),
        paces: Arc::new(Paces::default()),
        stop: stop.clone(),
        stats,
    };
    let threads = engine::start(engines, &context)
        .map_err(|error| Error::Engine(format!("start the engine threads: {error}")))?;
    // It ends when this future does.
    let following = follow(session.clone(), activity.subscribe(), leases.clone(), leave.clone());
    let _following = AbortOnDropHandle::new(tokio::spawn(following));
    let _listening = AbortOnDropHandle::new(tokio::spawn(listen(options.notices, leave.clone())));
    let shift = Shift {
        session,
        job: options.job.unwrap_or_default(),
        leases,
        outbox,
        leave,
        limits: Spent::new(options.limits),
        shards: Vec::new(),
        images: JoinSet::new(),
        room_in_hand: 0,
        room_wanted: 0,
        full: false,
        asides: JoinSet::new(),
        storing: true,
        reporting: true,
        releasing: 0,
        leasing: None,
        output: None,
        refusing: BTreeMap::new(),
        leaving: false,
        drain_timeout: options.drain_timeout,
        stop_limit: options.patience.stop,
        flushing: false,
        end_by: None,
        stop_by: None,
        stop_storing: CancellationToken::new(),
        skip: leaving,
        stop,
        summary: Summary::default(),
        failure: None,
    };
    shift.work(threads, queues, options.uploads).await
}

impl Shift {
    async fn work(mut self, threads: Threads, queues: Queues, uploads: usize) -> Result<Summary, Error> {
        let Threads { commands, mut ended } = threads;
        let stop_renewing = CancellationToken::new();
        let (refuse, mut refusing) = watch::channel(BTreeMap::new());
        let mut acknowledgements = self.start_conversations(queues, uploads, refuse, &stop_renewing);
        let (leases, outbox, leave) = (self.leases.clone(), self.outbox.clone(), self.leave.clone());
        let mut ends = leave.ends();
        // It may have been told already.
        ends.mark_changed();
        let (mut cut, mut abandoned) = (false, false);
        loop {
            self.settle_shards();
            if self.limits.is_closed() && self.shards.is_empty() {
                self.leave("it has worked for as many jobs as it was to");
            }
            self.wind_down();
            if self.has_left() {
                break;
            }
            self.look_for_room();
            self.lease_ahead(&commands);
            self.limits.set_idle(self.shards.is_empty());
            let in_hand = 2 * commands.at_once() + BEHIND * commands.devices();
            let room = self.next_room().filter(|_| self.images.len() < in_hand);
            let can_start = room.is_some_and(|room| outbox.has_room(self.room_in_hand, room));
            let limit = self.limits.end().filter(|_| !self.leaving);
            let (end_by, stop_by) = (self.end_by, self.stop_by.filter(|_| !self.images.is_empty()));
            tokio::select! {
                // Acknowledgements before the end of the stages that sent them.
                biased;
                () = leave.hard().cancelled(), if !cut => {
                    cut = true;
                    self.leave("stopping at the next step");
                    self.end();
                }
                () = leave.soft().cancelled(), if !self.leaving => self.leave("finishing the image in hand"),
                // Also when it leaves already: the sender lives in `leave`.
                Ok(()) = ends.changed() => {
                    let end = *ends.borrow_and_update();
                    self.end_at(end);
                }
                // The store stage sends no more when it has ended.
                Ok(()) = refusing.changed() => {
                    let now = refusing.borrow_and_update().clone();
                    self.heed(now);
                }
                end = &mut ended, if !self.leaving => self.engine_ended(end),
                Some(image) = self.images.join_next() => self.settle_image(image),
                Some(note) = acknowledgements.recv() => self.acknowledge(&note),
                Some(aside) = self.asides.join_next() => self.settle_aside(aside),
                // Their images make room for another shard.
                () = leases.lost() => {}
                () = commands.room(), if can_start => self.start_image(&commands),
                () = outbox.changed(), if self.full || (room.is_some() && !can_start) => {}
                () = until(limit.map(|(end, _)| end)), if limit.is_some() => {
                    self.leave(limit.map_or("", |(_, why)| why));
                }
                () = until(end_by), if end_by.is_some() => self.end(),
                () = until(stop_by), if stop_by.is_some() && !abandoned => {
                    abandoned = true;
                    self.abandon();
                }
            }
        }
        stop_renewing.cancel();
        drop(commands);
        if !ended.is_terminated() {
            self.wait_for_engine(ended).await;
        }
        self.summary.kept = self.outbox.images();
        if self.summary.kept > 0 {
            tracing::warn!(
                images = self.summary.kept, outbox = %self.outbox.path().display(),
                "finished images wait in the outbox: a worker of this name reports them when it is started again"
            );
        }
        let said = || self.leave.reasons().borrow().clone();
        let reason = self.failure.as_ref().map_or_else(said, ToString::to_string);
        self.session.close(&reason).await;
        sanafarm_storage::aborted(ABORTS).await;
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.summary),
        }
    }

    fn engine_ended(&mut self, end: Result<Result<(), Error>, oneshot::error::RecvError>) {
        match end {
            // It ends so only when nobody can send commands any more.
            Ok(Ok(())) => self.leave("the engine has ended"),
            Ok(Err(broken)) => self.fail(broken),
            Err(_) => self.fail(Error::Engine("the engine threads broke down".into())),
        }
    }

    fn acknowledge(&mut self, note: &Acknowledged) {
        self.summary.done += note.done;
        self.summary.failed += note.failed;
        for shard in self.shards.iter_mut().filter(|shard| shard.job == note.job) {
            for index in &note.indices {
                shard.in_hand.remove(index);
            }
            if shard.key == note.lease {
                // The store stage and the reporter may be heard in another order than they were answered.
                shard.held &= note.held;
            }
        }
    }

    /// Ends the leases that have nothing left in hand.
    fn settle_shards(&mut self) {
        for shard in &mut self.shards {
            match self.leases.last_index(&shard.key) {
                Some(last_index) => shard.end_at(last_index),
                None => shard.waiting.clear(),
            }
            if shard.archive.is_some() && !shard.packed && shard.waiting.is_empty() && shard.sent.is_empty() {
                shard.packed = true;
                self.outbox.pack(&shard.key);
            }
        }
        // Nobody will tell what became of what is in hand.
        let abandoned = !self.storing && !self.reporting;
        let ended = |shard: &mut Shard| {
            shard.cut_short |= abandoned && !shard.in_hand.is_empty();
            // What is kept for an output that refuses is told when it is stored, under whatever lease.
            let is_refused = shard.refused.is_some() && shard.sent.is_empty();
            shard.waiting.is_empty() && (shard.in_hand.is_empty() || abandoned || is_refused)
        };
        let ended: Vec<Shard> = self.shards.extract_if(.., ended).collect();
        for shard in ended {
            let is_held = self.leases.holds(&shard.key) && (shard.held || shard.cut_short);
            self.leases.remove(&shard.key);
            match shard.refused {
                _ if !is_held => {}
                Some(why) => self.hand_back(shard.key, ReleaseReason::Storage, why),
                None => self.release(shard.key, shard.cut_short),
            }
        }
    }
}

/// Waits until a time that is there.
async fn until(time: Option<Instant>) {
    if let Some(time) = time {
        sleep_until(time).await;
    }
}
