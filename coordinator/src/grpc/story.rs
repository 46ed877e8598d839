//! The story of a job, an image or a worker, some events at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::Stream;
use futures::stream::try_unfold;
use sanafarm_proto::v1;
use v1::story_begin::Subject as Begun;
use v1::story_response::Part;

use super::{convert, own};
use crate::auth::Principal;
use crate::farm::Farm;
use crate::store::records::{EventRecord, ImageStory, Job, Newest, OfWorker, Subject};
use crate::store::{Error, Result};

/// Events read from the store at a time.
const PAGE: u32 = 500;

/// Whose story a text asks for.
enum Found {
    Job(Box<Job>),
    Worker(OfWorker),
    Image(Box<Job>, Box<ImageStory>),
}

/// Finds what is named and tells of it. It ends where the history ends when it gets there.
pub(super) async fn tell(
    farm: &Arc<Farm>,
    who: &Principal,
    name: &str,
    limit: u64,
) -> Result<impl Stream<Item = Result<v1::StoryResponse>> + Send + use<>> {
    let (begun, rest) = match find(farm, who, name).await? {
        Found::Job(job) => {
            let of = Subject::Job(job.id.clone());
            let newest = newest(farm, &of, limit).await?;
            let begun = Begun::Job(convert::job_message(*job));
            (begin(begun, newest.older), Rest::Events { of, after: newest.from.saturating_sub(1) })
        }
        Found::Worker(worker) => {
            let begun = Begun::Worker(convert::story_worker(&worker));
            let of = Subject::Worker(worker);
            let newest = newest(farm, &of, limit).await?;
            (begin(begun, newest.older), Rest::Events { of, after: newest.from.saturating_sub(1) })
        }
        Found::Image(job, story) => {
            let older = if limit == 0 { 0 } else { (story.events.len() as u64).saturating_sub(limit) };
            let mut kinds = BTreeMap::new();
            for event in &story.events {
                *kinds.entry(event.kind.clone()).or_default() += 1;
            }
            let job = convert::job_message(*job);
            let end = v1::StoryEnd {
                job: Some(job.clone()),
                kinds: kinds.into_iter().collect(),
                losses: story.losses,
                held_by: story.held_by.clone().unwrap_or_default(),
                ..v1::StoryEnd::default()
            };
            let image = v1::StoryImage { job: Some(job), image: Some(convert::image_message(story.image)) };
            let skipped = usize::try_from(older).unwrap_or(usize::MAX);
            let left: Vec<_> = story.events.into_iter().skip(skipped).collect();
            let last = VecDeque::from([events(left), Part::End(end)]);
            (begin(Begun::Image(image), older), Rest::Parts(last))
        }
    };
    let farm = Arc::clone(farm);
    let parts = try_unfold((Some(begun), rest), move |(begun, rest)| {
        let farm = Arc::clone(&farm);
        async move {
            match begun {
                Some(begun) => Ok(Some((message(begun), (None, rest)))),
                None => Ok(rest.step(&farm).await?.map(|(part, rest)| (message(part), (None, rest)))),
            }
        }
    });
    Ok(parts)
}

/// A name to the letter goes before the beginning of a job id: more of the id can be given.
async fn find(farm: &Farm, who: &Principal, name: &str) -> Result<Found> {
    let store = &farm.store;
    let job = match own::seen(farm, who, name).await {
        Ok(job) if job.id.as_str() == name => return Ok(Found::Job(Box::new(job))),
        Ok(job) => Ok(job),
        Err(error @ (Error::NotFound { .. } | Error::Ambiguous(_))) => Err(error),
        Err(error) => return Err(error),
    };
    // What a worker did tells of the jobs of all owners.
    if who.only_owner().is_none()
        && let Some(worker) = store.worker(name).await?
    {
        return Ok(Found::Worker(worker));
    }
    let unknown = || Error::NotFound { what: "job, image, worker or session", id: name.to_owned() };
    match job {
        Ok(job) => return Ok(Found::Job(Box::new(job))),
        Err(error @ Error::Ambiguous(_)) => return Err(error),
        Err(_) => {}
    }
    let Some((job, index)) = name.rsplit_once('/') else { return Err(unknown()) };
    let Ok(index) = index.parse::<u64>() else { return Err(unknown()) };
    let job = own::seen(farm, who, job).await?;
    match store.image_story(&job.id, index).await? {
        Some(story) => Ok(Found::Image(Box::new(job), Box::new(story))),
        None => Err(no_image(&job, index)),
    }
}

/// The job has no such image.
pub(super) fn no_image(job: &Job, index: u64) -> Error {
    let last = job.images.saturating_sub(1);
    Error::NotFound { what: "image", id: format!("{index} of job {}: its last is {last}", job.id) }
}

/// All that there are when `limit` is 0.
async fn newest(farm: &Farm, of: &Subject, limit: u64) -> Result<Newest> {
    match limit {
        0 => Ok(Newest::default()),
        limit => farm.store.newest(of, limit).await,
    }
}

/// What is left to tell.
enum Rest {
    Events { of: Subject, after: u64 },
    End(Subject),
    Parts(VecDeque<Part>),
}

impl Rest {
    async fn step(self, farm: &Farm) -> Result<Option<(Part, Self)>> {
        match self {
            Self::Events { of, after } => {
                let page = farm.store.events(&of, after, PAGE).await?;
                let rest = match page.last() {
                    Some(last) if page.len() == PAGE as usize => Self::Events { of, after: last.seq },
                    Some(_) | None => Self::End(of),
                };
                Ok(Some((events(page), rest)))
            }
            Self::End(of) => Ok(Some((Part::End(end(farm, &of).await?), Self::Parts(VecDeque::new())))),
            Self::Parts(mut parts) => Ok(parts.pop_front().map(|part| (part, Self::Parts(parts)))),
        }
    }
}

/// How a job or a worker stands.
async fn end(farm: &Farm, of: &Subject) -> Result<v1::StoryEnd> {
    let job = match of {
        Subject::Job(job) => Some(convert::job_message(farm.store.job(job.as_str()).await?)),
        Subject::Worker(_) => None,
    };
    let (counts, made) = (farm.store.counts(of).await?, farm.store.yielded(of).await?);
    Ok(v1::StoryEnd {
        job,
        kinds: counts.into_iter().collect(),
        done: made.done,
        failed: made.failed,
        device_seconds: made.device_seconds,
        workers: made.workers,
        ..v1::StoryEnd::default()
    })
}

fn message(part: Part) -> v1::StoryResponse {
    v1::StoryResponse { part: Some(part) }
}

fn begin(subject: Begun, older: u64) -> Part {
    Part::Begin(v1::StoryBegin { subject: Some(subject), older })
}

fn events(records: Vec<EventRecord>) -> Part {
    Part::Events(v1::StoryEvents { events: records.into_iter().map(convert::event_message).collect() })
}
