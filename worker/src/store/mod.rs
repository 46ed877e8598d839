//! The store stage: what lies in the outbox goes to its output, several uploads at once.
//!
//! An output that is out of reach is tried again and again, one upload at a time, for as long as it takes; others go on
//! meanwhile. An output that refuses is tried again later and told, so that nothing more is rendered for it. In a worker for
//! one job it ends the stage, and with it the worker; what an earlier run left ends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use sanafarm_proto::v1::ErrorClass;
use sanafarm_telemetry::worker::{UPLOAD_BYTES, UPLOADS};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::Error;
use crate::outbox::folder::Aside;
use crate::outbox::record::Record;
use crate::outbox::{Entry, Outbox, Payload, Work};
use crate::recipe::Failure;
use crate::report::Acknowledged;
use crate::session::{CallError, Session};
use crate::stats::Stage;
use crate::told::Period;

mod archive;
mod lanes;
mod place;
mod publish;

use lanes::{LaneKey, Lanes, Next};
use place::{Place, Source};
pub(crate) use publish::open_output;
use publish::{Published, publish};

/// Why something was not stored.
#[derive(Debug)]
enum Problem {
    /// It may be stored later.
    Later(String),
    /// The output refuses.
    Refused(sanafarm_storage::Error),
    /// The coordinator refuses.
    Coordinator(CallError),
    /// What lies in the outbox is not what was written there: nobody else's fault, and of this picture alone.
    Local(String),
}

impl From<sanafarm_storage::Error> for Problem {
    fn from(error: sanafarm_storage::Error) -> Self {
        if error.is_transient() { Self::Later(error.to_string()) } else { Self::Refused(error) }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        if error.is_away() { Self::Later(error.to_string()) } else { Self::Coordinator(error) }
    }
}

impl Problem {
    fn into_error(self) -> Error {
        match self {
            Self::Later(text) => Error::Storage(sanafarm_storage::Error::Unavailable(text)),
            Self::Refused(error) => Error::Storage(error),
            Self::Coordinator(error) => error.into(),
            Self::Local(text) => Error::Outbox(text),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Later(text) | Self::Local(text) => f.write_str(text),
            Self::Refused(error) => error.fmt(f),
            Self::Coordinator(error) => error.fmt(f),
        }
    }
}

/// An upload that has ended.
struct Ended {
    lane: LaneKey,
    work: Work,
    /// With the output that was opened for it.
    outcome: Result<Place, Problem>,
}

/// What uploads share.
#[derive(Clone)]
struct Context {
    session: Session,
    outbox: Arc<Outbox>,
    acknowledged: mpsc::Sender<Acknowledged>,
    stage: Arc<Stage>,
    /// Uploads at once.
    width: usize,
}

/// The store stage.
pub(crate) struct Store {
    context: Context,
    lanes: Lanes,
    uploads: JoinSet<Ended>,
    /// Outputs that refuse, and why; none when one ends the stage.
    refusing: Option<watch::Sender<BTreeMap<String, String>>>,
    failure: Option<Error>,
}

impl Store {
    pub(crate) fn new(
        session: Session,
        outbox: Arc<Outbox>,
        acknowledged: mpsc::Sender<Acknowledged>,
        width: usize,
    ) -> Self {
        let stage = outbox.stats().stage("store");
        stage.set_width(width as u32);
        let context = Context { session, outbox, acknowledged, stage, width };
        Self { context, lanes: Lanes::new(width), uploads: JoinSet::new(), refusing: None, failure: None }
    }

    /// An output that refuses is told there, and ends nothing.
    pub(crate) fn tell_refusals(self, refusing: watch::Sender<BTreeMap<String, String>>) -> Self {
        Self { refusing: Some(refusing), ..self }
    }

    /// Stores until the outbox is closed and all is stored, or until `stop`: the rest stays in the outbox.
    pub(crate) async fn run(
        mut self,
        mut work: mpsc::UnboundedReceiver<Work>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let mut open = true;
        loop {
            let now = Instant::now();
            self.start(!open, now);
            if self.uploads.is_empty() && (self.failure.is_some() || (!open && !self.lanes.wait())) {
                break;
            }
            let next_try = self.lanes.next_try(now);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.uploads.join_next() => self.settle(ended),
                () = sleep_until(next_try.unwrap_or(now)), if next_try.is_some() => {}
                next = work.recv(), if open => match next {
                    Some(next) => {
                        self.take(next);
                        // All that an earlier run left is known before the first of it is asked for.
                        while let Ok(next) = work.try_recv() {
                            self.take(next);
                        }
                    }
                    None => open = false,
                },
            }
        }
        self.uploads.shutdown().await;
        self.failure.map_or(Ok(()), Err)
    }

    fn take(&mut self, work: Work) {
        let entry = match &work {
            Work::Picture(entry) => Some(entry.clone()),
            Work::Archive(lease) => self.context.outbox.of_lease(lease).first().cloned(),
        };
        // Without one, all of the tar was set aside.
        let Some(entry) = entry else { return };
        let record = &entry.record;
        let (output, presigned) = (record.output.clone(), record.presigned);
        let key = LaneKey { output, presigned, recovered: entry.recovered };
        if presigned && entry.recovered {
            self.expect(&work);
        }
        self.lanes.add(key, work);
    }

    /// Tells what will have to be signed: of leases of this run it is known.
    fn expect(&self, work: &Work) {
        let entries = match work {
            Work::Picture(entry) => vec![entry.clone()],
            Work::Archive(lease) => self.context.outbox.of_lease(lease),
        };
        for Record { lease, object, sample, thumbnail, .. } in entries.iter().map(|entry| &entry.record) {
            let object = sample.as_ref().map_or(object, |sample| &sample.archive);
            let names = thumbnail.iter().map(|thumbnail| &thumbnail.object).chain([object]);
            self.context.session.urls().expect(lease, names.cloned());
        }
    }

    /// Starts as many uploads as may be; what an earlier run left for an output that is out of reach is waited for no longer
    /// when the worker leaves.
    fn start(&mut self, leaving: bool, now: Instant) {
        if self.failure.is_some() {
            return;
        }
        if leaving {
            self.lanes.leave();
        }
        while let Some(Next { lane, place, work }) = self.lanes.next(now) {
            let about = self.context.outbox.about(&work);
            self.uploads.spawn(upload(self.context.clone(), lane, place, work).instrument(about));
        }
    }

    fn settle(&mut self, ended: Result<Ended, JoinError>) {
        let Ended { lane: key, work, outcome } = match ended {
            Ok(ended) => ended,
            Err(error) => {
                self.failure.get_or_insert(Error::Engine(format!("store a picture: {error}")));
                return;
            }
        };
        let problem = match outcome {
            Ok(place) => {
                if self.lanes.stored(&key, place) {
                    tracing::info!(output = key.output, "output is in reach again");
                    self.tell_refusal(&key.output, None);
                }
                return self.tell_trouble(None);
            }
            Err(problem) => problem,
        };
        let is_transient = matches!(problem, Problem::Later(_));
        let is_borne = match problem {
            Problem::Later(_) => true,
            Problem::Refused(_) => key.recovered || self.refusing.is_some(),
            Problem::Coordinator(_) | Problem::Local(_) => key.recovered,
        };
        if !is_borne {
            self.failure.get_or_insert(problem.into_error());
            return;
        }
        if let Problem::Refused(error) = &problem {
            self.tell_refusal(&key.output, Some(format!("{error}; {}", error.hint())));
        }
        let about = self.context.outbox.about(&work).entered();
        let wait = self.lanes.failed(&key, work, is_transient, Instant::now());
        tracing::warn!(error = %problem, retry_in = ?wait, "not stored, tried again later");
        drop(about);
        self.tell_trouble(Some(&problem));
    }

    /// Says that an output refuses, or does no more.
    fn tell_refusal(&self, output: &str, why: Option<String>) {
        let Some(refusing) = &self.refusing else { return };
        refusing.send_if_modified(|refusing| match why {
            Some(why) => refusing.insert(output.to_owned(), why).is_none(),
            None => refusing.remove(output).is_some(),
        });
    }

    /// Says what is wrong while any output is out of reach.
    fn tell_trouble(&self, problem: Option<&Problem>) {
        let stats = self.context.outbox.stats();
        match problem {
            Some(problem) => {
                stats.set_trouble("store", Some(format!("finished images wait for their upload: {problem}")));
            }
            None if self.lanes.are_up() => stats.set_trouble("store", None),
            None => {}
        }
    }
}

async fn upload(context: Context, lane: LaneKey, place: Option<Place>, work: Work) -> Ended {
    let outcome = async {
        let place = match place {
            Some(place) => place,
            None => Place::open(&lane.output, lane.presigned, &context.session, context.width).await?,
        };
        let stored = match &work {
            Work::Picture(entry) => store_picture(&context, &place, entry).await,
            Work::Archive(lease) => archive::commit(&context, &place, lease, lane.recovered).await,
        };
        let (why, text) = match stored {
            Ok(()) => return Ok(place),
            Err(Problem::Local(text)) => (Aside::Corrupt, text),
            // Of a database that was replaced, or was put back to a time before this lease.
            Err(Problem::Coordinator(error)) if lane.recovered && error.is_of_no_lease() => {
                (Aside::Refused, error.to_string())
            }
            Err(problem) => return Err(problem),
        };
        match &work {
            Work::Picture(entry) => set_aside(&context, entry, why, &text).await,
            Work::Archive(lease) => {
                for entry in context.outbox.of_lease(lease) {
                    set_aside(&context, &entry, why, &text).await;
                }
                context.outbox.discard_tar(lease).await;
            }
        }
        Ok(place)
    };
    let outcome = outcome.await;
    let told = match &outcome {
        Ok(_) => "stored",
        Err(Problem::Later(_)) => "late",
        Err(Problem::Refused(_) | Problem::Coordinator(_) | Problem::Local(_)) => "refused",
    };
    metrics::counter!(UPLOADS, "outcome" => told).increment(1);
    Ended { lane, work, outcome }
}

/// Gives up a picture that cannot be stored, by no fault of its output: its image is to be rendered again.
async fn set_aside(context: &Context, entry: &Entry, why: Aside, text: &str) {
    context.outbox.set_aside(entry.id, why, text).await;
    if !entry.recovered {
        // It costs the image and this worker: a disk that loses pictures would have it rendered for ever.
        return context.outbox.failed(entry, Failure::new(ErrorClass::Internal, text));
    }
    // A shard that was leased since may wait for it.
    let record = &entry.record;
    let note = Acknowledged::given_up(record.lease.clone(), record.job.clone(), record.index);
    if context.acknowledged.send(note).await.is_err() {
        tracing::debug!("nobody waits for acknowledgements");
    }
}

/// Looks whose fault it was that a picture was not stored: what lies in the outbox may have become unreadable.
async fn blame(context: &Context, entry: &Entry, problem: Problem) -> Problem {
    match context.outbox.check(entry).await {
        Ok(()) => problem,
        Err(why) => Problem::Local(why),
    }
}

async fn store_picture(context: &Context, place: &Place, entry: &Entry) -> Result<(), Problem> {
    let _busy = context.stage.busy();
    let start = SystemTime::now();
    let published = async {
        store_thumbnail(context, place, entry).await?;
        context.outbox.check_sizes(entry).await.map_err(Problem::Local)?;
        let picture = match &entry.payload {
            Payload::Memory { picture, .. } => Source::Memory(picture.clone()),
            Payload::Disk | Payload::Gone => Source::File(context.outbox.folder().picture(entry.id)),
        };
        publish(place, &entry.record, picture).await
    };
    match published.await {
        Ok(Published::Done(stored)) => {
            entry.which().was_in("upload", Period::since(start));
            metrics::counter!(UPLOAD_BYTES).increment(stored.file.bytes);
            context.outbox.stored(entry, stored).await;
        }
        Ok(Published::Failed(failure)) => context.outbox.failed(entry, failure),
        Err(problem) => match blame(context, entry, problem).await {
            Problem::Refused(error) if is_about_name(place, &error).await => {
                let why = format!("{error}; other names in {} can be written", place.name());
                context.outbox.failed(entry, Failure::new(ErrorClass::Conflict, why));
            }
            problem => return Err(problem),
        },
    }
    Ok(())
}

/// Whether an output takes others, such as when a file stands in the place of one of its folders. A full one may take
/// what is small.
async fn is_about_name(place: &Place, error: &sanafarm_storage::Error) -> bool {
    !matches!(error, sanafarm_storage::Error::Full(_)) && place.is_writable().await
}

/// A thumbnail follows from its picture: one that is there already is the same. One that this run has put is not put again.
async fn store_thumbnail(context: &Context, place: &Place, entry: &Entry) -> Result<(), Problem> {
    let Some(thumbnail) = &entry.record.thumbnail else { return Ok(()) };
    if entry.thumbnail_is_stored.load(Ordering::Relaxed) {
        return Ok(());
    }
    context.outbox.check_sizes(entry).await.map_err(Problem::Local)?;
    let source = match &entry.payload {
        Payload::Memory { thumbnail, .. } => Source::Memory(thumbnail.clone().unwrap_or_default()),
        Payload::Disk | Payload::Gone => Source::File(context.outbox.folder().thumbnail(entry.id)),
    };
    place.put_new(&entry.record.lease, &thumbnail.object, &source).await?;
    entry.thumbnail_is_stored.store(true, Ordering::Relaxed);
    Ok(())
}
