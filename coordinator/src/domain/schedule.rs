//! Who gets which shard: the order in which a worker's claim looks through the open jobs.
//!
//! Priority first, raised by one for every [`AGEING`] that a job has gone without a lease, so that nothing waits for
//! ever. Among equals a job in the second half of the time from its submission to its deadline, the earliest deadline
//! before others. Then the owner whose leased work, divided by its weight, is smallest; a job whose model the worker
//! has loaded is favoured by what a change of models would cost. Then the older job. Only jobs whose needs the
//! worker meets are looked at, and none that it refuses now.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::JobId;
use super::settings::Settings;
use super::word::words;

/// A job without a lease for this long counts as one priority higher.
pub const AGEING: Duration = Duration::from_secs(600);
/// Images of a shard as the scheduler reckons before it knows one.
const SHARD_IMAGES: f64 = 32.0;
/// What a change of models costs, in shards of the job.
const CHANGE_SHARDS: f64 = 0.5;
/// Most jobs that one claim looks at.
const MOST_JOBS: usize = 32;

words! {
    /// What a device is.
    DeviceKind, "device kind" {
        /// The processor.
        Cpu = "cpu",
        /// An NVIDIA GPU.
        Cuda = "cuda",
        /// An Apple GPU.
        Metal = "metal",
    }
}

/// What a worker computes on, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `cpu` or `cuda:0`.
    pub id: String,
    /// As the maker calls it.
    pub name: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// What of it was free when the session was opened.
    pub memory_free_bytes: u64,
    /// Such as `9.0`; empty on CPU.
    pub compute_capability: String,
    /// Such as `12.4`; empty on CPU.
    #[serde(default)]
    pub driver: String,
}

impl Device {
    /// What it is, by its id; none for a kind that this program does not know.
    pub fn kind(&self) -> Option<DeviceKind> {
        self.id.split(':').next()?.parse().ok()
    }
}

/// What a job asks of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Each of these labels, with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A device of this kind; any when none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "kind_word")]
    pub device_kind: Option<DeviceKind>,
    /// That much free memory on a device of that kind; 0 for any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

mod kind_word {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::DeviceKind;

    pub fn serialize<S: Serializer>(kind: &Option<DeviceKind>, serializer: S) -> Result<S::Ok, S::Error> {
        match kind {
            Some(kind) => serializer.serialize_some(kind.word()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DeviceKind>, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        word.map(|word| word.parse().map_err(D::Error::custom)).transpose()
    }
}

/// What a worker lacks for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// This label has another value, or none.
    Label {
        /// Its name.
        name: String,
        /// What the job asks for.
        wanted: String,
        /// What the worker says.
        found: Option<String>,
    },
    /// It has no device of this kind.
    Kind(DeviceKind),
    /// No device of the right kind has so much free memory.
    Memory {
        /// What the job asks for.
        wanted: u64,
        /// The most that one has.
        found: u64,
    },
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label { name, wanted, found: Some(found) } => {
                write!(f, "label {name} is {found}, not {wanted}")
            }
            Self::Label { name, wanted, found: None } => write!(f, "no label {name}={wanted}"),
            Self::Kind(kind) => write!(f, "no {kind} device"),
            Self::Memory { wanted, found } => {
                let giga = |bytes: u64| bytes as f64 / 1e9;
                write!(f, "{:.1} GB of free device memory, not {:.1} GB", giga(*found), giga(*wanted))
            }
        }
    }
}

/// A worker that wants a shard.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// Its lasting name.
    pub name: &'a str,
    /// What it computes on.
    pub devices: &'a [Device],
    /// What its operator says about it.
    pub labels: &'a BTreeMap<String, String>,
    /// What it rendered last, if anything is known: a model and a size in pixels.
    pub last: Option<(&'a str, (u32, u32))>,
}

impl Needs {
    /// What the worker lacks; empty when it meets them.
    pub fn lacks(&self, worker: &Worker<'_>) -> Vec<Lack> {
        let mut lacks = Vec::new();
        for (name, wanted) in &self.labels {
            let found = worker.labels.get(name);
            if found != Some(wanted) {
                lacks.push(Lack::Label { name: name.clone(), wanted: wanted.clone(), found: found.cloned() });
            }
        }
        let of_kind = |device: &&Device| self.device_kind.is_none_or(|kind| device.kind() == Some(kind));
        let mut devices = worker.devices.iter().filter(of_kind).peekable();
        if let (Some(kind), None) = (self.device_kind, devices.peek()) {
            lacks.push(Lack::Kind(kind));
        } else if self.memory_bytes > 0 {
            let found = devices.map(|device| device.memory_free_bytes).max().unwrap_or(0);
            if found < self.memory_bytes {
                lacks.push(Lack::Memory { wanted: self.memory_bytes, found });
            }
        }
        lacks
    }
}

/// A settings group with a shard that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenGroup {
    /// Number in its job.
    pub number: u32,
    /// Pixels.
    pub size: (u32, u32),
}

/// A job with shards that may be leased now.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenJob {
    /// Names it.
    pub id: JobId,
    /// Whose share it uses.
    pub owner: String,
    /// Share of the owner against others' 1.
    pub owner_weight: f64,
    /// What to render with.
    pub model: String,
    /// Higher goes first.
    pub priority: i32,
    /// What a worker must have.
    pub needs: Needs,
    /// Where a row says nothing else.
    pub settings: Settings,
    /// When the last row was in.
    pub submitted_at: Timestamp,
    /// What is not rendered by then is not rendered.
    pub deadline: Option<Timestamp>,
    /// When a shard of it was leased last.
    pub leased_at: Option<Timestamp>,
    /// Images of it in leases that are held now.
    pub leased_images: u64,
    /// Some of its settings groups with a shard that is ready now, lowest number first.
    pub groups: Vec<OpenGroup>,
}

impl OpenJob {
    /// Its priority with what waiting has added.
    pub fn effective_priority(&self, now: Timestamp) -> i64 {
        let since = self.leased_at.unwrap_or(self.submitted_at).max(self.submitted_at);
        let waited = now.duration_since(since).as_secs().max(0);
        i64::from(self.priority) + waited / AGEING.as_secs() as i64
    }

    /// Its deadline, once half of the time from its submission to it is over.
    pub fn pressing(&self, now: Timestamp) -> Option<Timestamp> {
        self.deadline.filter(|deadline| {
            now.duration_since(self.submitted_at) >= deadline.duration_since(self.submitted_at) / 2
        })
    }

    /// Megapixel steps of one image.
    fn work(&self) -> f64 {
        self.settings.pixels() as f64 / 1e6 * f64::from(self.settings.steps)
    }
}

/// Where a shard may be taken from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// The job.
    pub job: JobId,
    /// One settings group of it, or any.
    pub group: Option<u32>,
}

/// An open job with what its place at one moment depends on, whoever asks.
#[derive(Debug)]
struct Ranked<'a> {
    job: &'a OpenJob,
    priority: i64,
    pressing: Option<Timestamp>,
}

impl Ranked<'_> {
    /// Highest priority first, then the earliest of the deadlines that press.
    fn order(&self, other: &Self) -> Ordering {
        let rank = |job: &Self| (std::cmp::Reverse(job.priority), job.pressing.is_none(), job.pressing);
        rank(self).cmp(&rank(other))
    }
}

/// The open jobs at one moment, and what each owner uses.
#[derive(Debug)]
pub struct Plan<'a> {
    jobs: Vec<Ranked<'a>>,
    used: HashMap<&'a str, f64>,
    /// Jobs and the workers that refuse them.
    refused: HashSet<(&'a str, &'a str)>,
}

impl<'a> Plan<'a> {
    /// A plan for the claims of this moment.
    pub fn new(jobs: &'a [OpenJob], now: Timestamp) -> Self {
        let mut used = HashMap::new();
        for job in jobs {
            *used.entry(job.owner.as_str()).or_default() += job.leased_images as f64 * job.work();
        }
        let ranked = |job: &'a OpenJob| Ranked {
            job,
            priority: job.effective_priority(now),
            pressing: job.pressing(now),
        };
        Self { jobs: jobs.iter().map(ranked).collect(), used, refused: HashSet::new() }
    }

    /// The same without the jobs that a worker refuses, as pairs of a job and a worker.
    pub fn without(self, refused: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self { refused: refused.collect(), ..self }
    }

    /// Where this worker looks for a shard, best first. The first choice is counted as given, so that the next worker
    /// of the same moment looks elsewhere when that is fair.
    pub fn choices(&mut self, worker: &Worker<'_>) -> Vec<Choice> {
        let mut fitting: Vec<_> = self
            .jobs
            .iter()
            .filter(|ranked| ranked.job.needs.lacks(worker).is_empty())
            .filter(|ranked| !self.refused.contains(&(ranked.job.id.as_str(), worker.name)))
            .map(|ranked| (ranked, self.share(ranked.job, worker)))
            .collect();
        fitting.sort_by(|(a, a_share), (b, b_share)| {
            let by_age = || (a.job.submitted_at, &a.job.id).cmp(&(b.job.submitted_at, &b.job.id));
            a.order(b).then(a_share.total_cmp(b_share)).then_with(by_age)
        });
        let fitting: Vec<&OpenJob> = fitting.into_iter().map(|(ranked, _)| ranked.job).collect();
        if let Some(first) = fitting.first() {
            *self.used.entry(first.owner.as_str()).or_default() += SHARD_IMAGES * first.work();
        }
        let mut choices = Vec::new();
        for job in fitting.into_iter().take(MOST_JOBS) {
            let same_size = |group: &&OpenGroup| worker.last.is_some_and(|(_, size)| size == group.size);
            let group = job.groups.iter().find(same_size).filter(|_| job.groups.len() > 1);
            choices.extend(group.map(|group| Choice { job: job.id.clone(), group: Some(group.number) }));
            choices.push(Choice { job: job.id.clone(), group: None });
        }
        choices
    }

    /// What the owner uses of its share, with what the worker's change of models would cost.
    fn share(&self, job: &OpenJob, worker: &Worker<'_>) -> f64 {
        let used = self.used.get(job.owner.as_str()).copied().unwrap_or_default();
        let changes = worker.last.is_some_and(|(model, _)| model != job.model);
        let change = if changes { CHANGE_SHARDS * SHARD_IMAGES * job.work() } else { 0.0 };
        (used + change) / job.owner_weight.max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
pub(super) mod tests;
