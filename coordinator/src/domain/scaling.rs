//! What an autoscaler wants to know: how much there is to do for workers of one sort.

use std::collections::BTreeMap;

use super::Invalid;
use super::amount::bytes;
use super::schedule::{DeviceKind, Needs};

/// Device-seconds that one worker should have to do when the trigger does not say.
const TARGET_SECONDS: f64 = 600.0;
/// What may be said in the metadata of a trigger.
const KEYS: [&str; 5] = ["model", "labels", "memory", "deviceKind", "targetSeconds"];
/// What KEDA reads for itself and passes on all the same.
const KEDAS_KEYS: [&str; 4] = ["scalerAddress", "enableTLS", "unsafeSsl", "tlsCertFile"];
/// KEDA resolves a key that ends so, and passes it on with the value that it found.
const FROM_ENV: &str = "FromEnv";
/// A known name at least this much like an unknown one is proposed.
const ALIKE: f64 = 0.8;

/// The sort of worker that a trigger scales. What it does not say of model, memory and kind does not count.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSort {
    /// Jobs of this model only.
    pub model: Option<String>,
    /// The labels that its workers have.
    pub labels: BTreeMap<String, String>,
    /// The kind of their devices.
    pub device_kind: Option<DeviceKind>,
    /// Free memory of their devices.
    pub memory_bytes: Option<u64>,
    /// Device-seconds that one of them should have to do.
    pub target_seconds: f64,
}

impl WorkerSort {
    /// Reads the metadata of a trigger.
    pub fn parse<'a>(metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Invalid> {
        let mut sort = Self {
            model: None,
            labels: BTreeMap::new(),
            device_kind: None,
            memory_bytes: None,
            target_seconds: TARGET_SECONDS,
        };
        for (key, value) in metadata {
            let value = value.trim();
            let wrong = |why: String| Invalid::job(format!("{key} {value:?}: {why}"));
            match key.strip_suffix(FROM_ENV).unwrap_or(key) {
                "model" => sort.model = Some(value.to_owned()).filter(|model| !model.is_empty()),
                "labels" => sort.labels = labels(value).map_err(wrong)?,
                "memory" => sort.memory_bytes = Some(bytes(value).map_err(wrong)?),
                "deviceKind" => {
                    let kind = value.parse();
                    sort.device_kind = Some(kind.map_err(|_| wrong("there are cpu and cuda".to_owned()))?);
                }
                "targetSeconds" => {
                    let seconds =
                        value.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
                    let why = || wrong("expected a number of seconds above 0, such as 600".to_owned());
                    sort.target_seconds = seconds.ok_or_else(why)?;
                }
                known if KEDAS_KEYS.contains(&known) => {}
                unknown => return Err(unknown_key(unknown)),
            }
        }
        Ok(sort)
    }

    /// Whether such a worker could render images of a job.
    pub fn can_do(&self, model: &str, needs: &Needs) -> bool {
        self.model.as_ref().is_none_or(|wanted| wanted == model)
            && needs.labels.iter().all(|(name, value)| self.labels.get(name) == Some(value))
            && needs.device_kind.is_none_or(|kind| self.device_kind.is_none_or(|own| own == kind))
            && self.memory_bytes.is_none_or(|own| needs.memory_bytes <= own)
    }
}

/// Reads labels such as `zone=eu,gpu=h100`.
fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| match pair.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        Some(_) | None => Err("expected names and values, such as zone=eu,gpu=h100".to_owned()),
    });
    pairs.collect()
}

fn unknown_key(key: &str) -> Invalid {
    let likeness = |known: &&str| strsim::jaro_winkler(&known.to_lowercase(), &key.to_lowercase());
    let nearest = KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Invalid::job(match nearest.filter(|known| likeness(known) >= ALIKE) {
        Some(nearest) => format!("unknown key {key} in the trigger's metadata; did you mean {nearest}?"),
        None => format!("unknown key {key} in the trigger's metadata; there are {}", KEYS.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(metadata: &[(&str, &str)]) -> Result<WorkerSort, String> {
        WorkerSort::parse(metadata.iter().copied()).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn metadata_tells_the_sort_of_worker() {
        let plain = parsed(&[("scalerAddress", "farm:7070"), ("enableTLS", "true")]).unwrap();
        assert_eq!((plain.model.as_deref(), plain.target_seconds), (None, 600.0));
        let sort = parsed(&[
            ("model", "hf:a/b"),
            ("labels", "zone=eu, gpu=h100"),
            ("memoryFromEnv", "24GB"),
            ("deviceKind", "cuda"),
            ("targetSeconds", "90"),
        ]);
        let labels = [("gpu", "h100"), ("zone", "eu")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let wanted = WorkerSort {
            model: Some("hf:a/b".to_owned()),
            labels,
            device_kind: Some(DeviceKind::Cuda),
            memory_bytes: Some(24_000_000_000),
            target_seconds: 90.0,
        };
        assert_eq!(sort, Ok(wanted));
    }

    #[test]
    fn wrong_metadata_is_told_with_its_key() {
        for (key, value, told) in [
            (
                "targetSecond",
                "1",
                "unknown key targetSecond in the trigger's metadata; did you mean targetSeconds?",
            ),
            ("Model", "x", "unknown key Model in the trigger's metadata; did you mean model?"),
            (
                "zone",
                "eu",
                "unknown key zone in the trigger's metadata; there are model, labels, memory, deviceKind, targetSeconds",
            ),
            ("memory", "much", r#"memory "much": expected a number and a unit, such as 24GB or 512MiB"#),
            ("labels", "zone", r#"labels "zone": expected names and values, such as zone=eu,gpu=h100"#),
            ("deviceKind", "tpu", r#"deviceKind "tpu": there are cpu and cuda"#),
            ("targetSeconds", "0", r#"targetSeconds "0": expected a number of seconds above 0, such as 600"#),
        ] {
            assert_eq!(parsed(&[(key, value)]).unwrap_err(), told);
        }
    }

    #[test]
    fn a_worker_can_do_what_asks_for_no_more_than_it_has() {
        let needs = Needs {
            labels: [("zone".to_owned(), "eu".to_owned())].into(),
            device_kind: Some(DeviceKind::Cuda),
            memory_bytes: 16_000_000_000,
        };
        let can = |metadata: &[(&str, &str)], needs: &Needs| parsed(metadata).unwrap().can_do("m", needs);
        assert!(can(&[], &Needs::default()));
        assert!(!can(&[], &needs), "workers of this sort have no label");
        assert!(can(&[("labels", "zone=eu,a=b")], &needs));
        assert!(!can(&[("labels", "zone=us")], &needs));
        assert!(!can(&[("labels", "zone=eu"), ("memory", "8GB")], &needs));
        assert!(can(&[("labels", "zone=eu"), ("memory", "16GB"), ("deviceKind", "cuda")], &needs));
        assert!(!can(&[("labels", "zone=eu"), ("deviceKind", "cpu")], &needs));
        assert!(!can(&[("model", "other")], &Needs::default()));
    }
}
