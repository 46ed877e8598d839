//! What would become of a submission: counts by the coordinator's own rules, time and bytes from its history.

use std::path::PathBuf;
use std::time::Duration;

use sanafarm_coordinator::domain::form::ImageFormat;
use sanafarm_coordinator::domain::speed::Speed;
use sanafarm_coordinator::{Options, Rehearsal, RehearsedGroup};
use sanafarm_net::Channel;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use sanafarm_proto::v1::{self, EstimateRequest, EstimateResponse, Form, JobSpec, Measured, Settings};
use tonic::Code;

use super::duplicates::Duplicates;
use super::spool::Spool;
use super::{Skipped, Submission, blocking};
use crate::error::Error;
use crate::prompts::Numbering;

/// What would become of a list.
#[derive(Debug)]
pub struct Estimate {
    /// The list as the user named it.
    pub list: String,
    /// What the job renders with.
    pub spec: JobSpec,
    /// Good rows.
    pub rows: u64,
    /// Images that are the same as one before them.
    pub duplicates: u64,
    /// Images by size and settings.
    pub groups: Vec<GroupEstimate>,
    /// Lines that were left out.
    pub skipped: Skipped,
    /// Workers that are connected to the coordinator; `None` without one.
    pub workers: Option<u64>,
}

/// Images of one size and one set of settings.
#[derive(Debug)]
pub struct GroupEstimate {
    /// What they have in common.
    pub settings: Settings,
    /// How many they are.
    pub images: u64,
    /// Shards that they are cut into.
    pub shards: u64,
    /// What such images took so far, or would take by others.
    pub measured: Measured,
}

impl GroupEstimate {
    /// None like them was rendered: what is told follows from others of the model.
    pub fn is_scaled(&self) -> bool {
        self.measured.scaled_from_pixels > 0
    }
}

impl Estimate {
    /// All images.
    pub fn images(&self) -> u64 {
        self.groups.iter().map(|group| group.images).sum()
    }

    /// All shards.
    pub fn shards(&self) -> u64 {
        self.groups.iter().map(|group| group.shards).sum()
    }

    /// Images of groups whose time nobody knows: they are not in the sum of it.
    pub fn unmeasured(&self) -> u64 {
        self.count(|group| group.measured.seconds_per_image.is_none())
    }

    /// Images of groups whose bytes nobody knows: they are not in the sum of them.
    pub fn unweighed(&self) -> u64 {
        self.count(|group| group.measured.bytes_per_image.is_none())
    }

    /// Images of groups whose time follows from other sizes or steps.
    pub fn scaled(&self) -> u64 {
        self.count(GroupEstimate::is_scaled)
    }

    fn count(&self, which: impl Fn(&GroupEstimate) -> bool) -> u64 {
        self.groups.iter().filter(|group| which(group)).map(|group| group.images).sum()
    }

    /// Seconds on the devices for the groups of which they are known; `None` when there is none.
    pub fn seconds(&self) -> Option<f64> {
        self.sum(|measured| measured.seconds_per_image)
    }

    /// Bytes of the pictures of the groups of which they are known; `None` when there is none.
    pub fn bytes(&self) -> Option<f64> {
        self.sum(|measured| measured.bytes_per_image)
    }

    fn sum(&self, mean: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        let of_group = |group: &GroupEstimate| Some(mean(&group.measured)? * group.images as f64);
        self.groups.iter().filter_map(of_group).reduce(|sum, more| sum + more)
    }
}

/// Rehearses the submission, asks the history, and rehearses it again where that changes the shards.
pub async fn estimate(
    submission: Submission,
    history: Option<JobServiceClient<Channel>>,
) -> Result<Estimate, Error> {
    let Submission { numbering, mut spool, spec, skipped } = submission;
    let target = Options::file(PathBuf::new()).target_shard_duration;
    let (job, names) = (spec.clone(), numbering.clone());
    let (mut spool, duplicates, mut groups) = blocking(move || {
        let duplicates = duplicates(&mut spool, &job)?;
        let groups = rehearse(&mut spool, &job, &names, target, Vec::new())?;
        Ok::<_, Error>((spool, duplicates, groups))
    })
    .await??;
    let rows = spool.rows;
    let answer = match history {
        Some(client) => ask(client, &spec, &groups).await?,
        None => None,
    };
    if let Some(answer) = &answer {
        let format = format(&spec);
        let speeds: Vec<Speed> = groups
            .iter()
            .zip(&answer.measured)
            .filter_map(|(group, known)| speed(group, known, format))
            .collect();
        let told = Duration::try_from_secs_f64(answer.target_shard_seconds).unwrap_or(target);
        if !speeds.is_empty() || told != target {
            let (job, names) = (spec.clone(), numbering.clone());
            groups = blocking(move || rehearse(&mut spool, &job, &names, told, speeds)).await??;
        }
    }
    let workers = answer.as_ref().map(|answer| answer.workers);
    let mut measured = answer.map(|answer| answer.measured).unwrap_or_default().into_iter();
    let group = |RehearsedGroup { settings, images, shards }| GroupEstimate {
        settings,
        images,
        shards,
        measured: measured.next().unwrap_or_default(),
    };
    let groups = groups.into_iter().map(group).collect();
    Ok(Estimate { list: numbering.list().to_owned(), spec, rows, duplicates, groups, skipped, workers })
}

fn duplicates(spool: &mut Spool, spec: &JobSpec) -> Result<u64, Error> {
    let mut duplicates = Duplicates::new(spec);
    let mut count = 0;
    for batch in spool.batches()? {
        count += batch?.rows.iter().map(|row| duplicates.add(row)).sum::<u64>();
    }
    Ok(count)
}

fn rehearse(
    spool: &mut Spool,
    spec: &JobSpec,
    numbering: &Numbering,
    target: Duration,
    speeds: Vec<Speed>,
) -> Result<Vec<RehearsedGroup>, Error> {
    let refused = |invalid| Error::mistake(format!("{}: {invalid}", numbering.list()));
    let mut rehearsal = Rehearsal::new(spec.clone(), target, speeds).map_err(refused)?;
    for batch in spool.batches()? {
        rehearsal.add(batch?).map_err(refused)?;
    }
    rehearsal.seal(spool.rows).map_err(refused)
}

/// `None` from a coordinator that is too old to know.
async fn ask(
    mut client: JobServiceClient<Channel>,
    spec: &JobSpec,
    groups: &[RehearsedGroup],
) -> Result<Option<EstimateResponse>, Error> {
    let settings = groups.iter().map(|group| group.settings).collect();
    match client.estimate(EstimateRequest { model: spec.model.clone(), settings, form: spec.form }).await {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(Error::call("ask what images took so far", &status)),
    }
}

/// The file of a picture.
fn format(spec: &JobSpec) -> ImageFormat {
    match spec.form.as_ref().map(Form::format) {
        Some(v1::ImageFormat::Jpeg) => ImageFormat::Jpeg,
        Some(v1::ImageFormat::Webp) => ImageFormat::Webp,
        Some(v1::ImageFormat::WebpLossless) => ImageFormat::WebpLossless,
        Some(v1::ImageFormat::Png | v1::ImageFormat::Unspecified) | None => ImageFormat::Png,
    }
}

/// What a coordinator would cut such images into shards by. What was measured on others does not count.
fn speed(group: &RehearsedGroup, known: &Measured, format: ImageFormat) -> Option<Speed> {
    if known.scaled_from_pixels > 0 {
        return None;
    }
    let Settings { width, height, steps, .. } = group.settings;
    let pixels = u64::from(width) * u64::from(height);
    let bytes = known.bytes_per_image.unwrap_or_default();
    Some(Speed { pixels, steps, format, seconds: known.seconds_per_image?, bytes, images: known.images })
}
