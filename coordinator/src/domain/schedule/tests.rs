use proptest::prelude::*;

use super::*;
use crate::domain::settings::{BinMode, DecodeMode};

fn start() -> Timestamp {
    "2026-11-23T02:47:00Z".parse().unwrap()
}

/// The `number`-th job, an age of a second apart from the next.
pub(in crate::domain) fn job(number: u64, owner: &str) -> OpenJob {
    OpenJob {
        id: JobId::from(format!("job {number}")),
        owner: owner.to_owned(),
        owner_weight: 1.0,
        model: "sana".to_owned(),
        priority: 0,
        needs: Needs::default(),
        settings: Settings {
            width: 1000,
            height: 1000,
            steps: 20,
            guidance: 4.5,
            bin: BinMode::Auto,
            decode: DecodeMode::Exact,
        },
        submitted_at: start() + Duration::from_secs(number),
        deadline: None,
        leased_at: None,
        leased_images: 0,
        groups: vec![OpenGroup { number: 0, size: (1000, 1000) }],
    }
}

fn gpu(free: u64) -> Device {
    Device { id: "cuda:0".to_owned(), memory_free_bytes: free, ..Device::default() }
}

/// The jobs that a worker without labels looks at, by the number in their name.
fn order(jobs: &[OpenJob], devices: &[Device], last: Option<(&str, (u32, u32))>) -> Vec<String> {
    let labels = BTreeMap::new();
    let now = start() + Duration::from_secs(100);
    let choices = Plan::new(jobs, now).choices(&Worker { name: "w", devices, labels: &labels, last });
    choices
        .into_iter()
        .map(|choice| {
            let number = choice.job.as_str().trim_start_matches("job ").to_owned();
            choice.group.map_or(number.clone(), |group| format!("{number}/{group}"))
        })
        .collect()
}

#[test]
fn priority_goes_before_share_and_share_before_age() {
    let busy = OpenJob { leased_images: 320, ..job(1, "ann") };
    let urgent = OpenJob { priority: 1, ..job(3, "ann") };
    assert_eq!(order(&[busy, job(2, "ann"), urgent, job(4, "bob")], &[], None), ["3", "4", "1", "2"]);
}

#[test]
fn a_deadline_presses_in_the_second_half_of_its_time_and_the_earliest_first() {
    // Looked at 100 seconds after the start.
    let due = |number, owner, seconds| OpenJob {
        deadline: Some(start() + Duration::from_secs(seconds)),
        ..job(number, owner)
    };
    let urgent = OpenJob { priority: 1, ..job(6, "ann") };
    let busy = OpenJob { leased_images: 320, ..due(3, "ann", 150) };
    let jobs = [job(1, "bob"), due(2, "bob", 190), busy, due(4, "bob", 1000), urgent];
    assert_eq!(order(&jobs, &[], None), ["6", "3", "2", "1", "4"]);
    let half = due(0, "ann", 100);
    assert_eq!(half.pressing(start() + Duration::from_secs(49)), None);
    assert_eq!(half.pressing(start() + Duration::from_secs(50)), half.deadline);
    // The clock of the coordinator that took it in was ahead.
    assert_eq!(half.pressing(start() - Duration::from_secs(9)), None);
}

#[test]
fn a_job_that_gets_nothing_rises() {
    let now = start() + AGEING * 3;
    let starved = job(0, "ann");
    assert_eq!(starved.effective_priority(now), 3);
    let served = OpenJob { leased_at: Some(start() + AGEING * 2), ..job(0, "ann") };
    assert_eq!(served.effective_priority(now), 1);
    // The clock of another coordinator may be ahead.
    assert_eq!(OpenJob { leased_at: Some(now), ..starved }.effective_priority(start()), 0);
}

#[test]
fn twice_the_weight_is_twice_the_work() {
    let jobs = [OpenJob { owner_weight: 2.0, ..job(1, "ann") }, job(2, "bob")];
    let (labels, now) = (BTreeMap::new(), start() + Duration::from_secs(9));
    let mut plan = Plan::new(&jobs, now);
    let mut given = [0, 0];
    for _ in 0..300 {
        let first = &plan.choices(&Worker { name: "w", devices: &[], labels: &labels, last: None })[0];
        given[usize::from(first.job.as_str() == "job 2")] += 1;
    }
    assert_eq!(given, [200, 100]);
}

#[test]
fn a_loaded_model_is_kept_until_that_gets_unfair() {
    let other = OpenJob { model: "sprint".to_owned(), ..job(1, "ann") };
    let last = Some(("sana", (1, 1)));
    assert_eq!(order(&[other.clone(), job(2, "bob")], &[], last), ["2", "1"]);
    let busy = OpenJob { leased_images: 320, ..job(2, "bob") };
    assert_eq!(order(&[other, busy], &[], last), ["1", "2"]);
}

#[test]
fn a_size_is_kept_where_a_job_has_several() {
    let group = |number, side| OpenGroup { number, size: (side, side) };
    let mixed = OpenJob { groups: vec![group(0, 512), group(1, 1024)], ..job(1, "ann") };
    assert_eq!(order(&[mixed.clone(), job(2, "ann")], &[], Some(("sana", (1024, 1024)))), ["1/1", "1", "2"]);
    assert_eq!(order(&[mixed], &[], Some(("sana", (2048, 2048)))), ["1"]);
}

#[test]
fn a_worker_gets_only_what_it_can_do() {
    let large = OpenJob {
        needs: Needs {
            device_kind: Some(DeviceKind::Cuda),
            memory_bytes: 24_000_000_000,
            ..Needs::default()
        },
        ..job(1, "ann")
    };
    let labelled = OpenJob {
        needs: Needs { labels: [("zone".to_owned(), "eu".to_owned())].into(), ..Needs::default() },
        ..job(2, "ann")
    };
    let jobs = [large.clone(), labelled.clone(), job(3, "ann")];
    assert_eq!(order(&jobs, &[gpu(8_000_000_000)], None), ["3"]);
    assert_eq!(order(&jobs, &[gpu(8_000_000_000), gpu(24_000_000_000)], None), ["1", "3"]);
    let says = |needs: &Needs, devices: &[Device], labels: &BTreeMap<String, String>| {
        let worker = Worker { name: "w", devices, labels, last: None };
        needs.lacks(&worker).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = BTreeMap::new();
    assert_eq!(says(&large.needs, &[], &none), ["no cuda device"]);
    assert_eq!(
        says(&large.needs, &[gpu(8_000_000_000)], &none),
        ["8.0 GB of free device memory, not 24.0 GB"]
    );
    assert_eq!(says(&labelled.needs, &[], &none), ["no label zone=eu"]);
    let us = [("zone".to_owned(), "us".to_owned())].into();
    assert_eq!(says(&labelled.needs, &[], &us), ["label zone is us, not eu"]);
}

#[test]
fn needs_are_read_as_they_were_written() {
    let needs = Needs {
        labels: [("zone".to_owned(), "eu".to_owned())].into(),
        device_kind: Some(DeviceKind::Cuda),
        memory_bytes: 7,
    };
    let text = serde_json::to_string(&needs).unwrap();
    assert_eq!(text, r#"{"labels":{"zone":"eu"},"device_kind":"cuda","memory_bytes":7}"#);
    assert_eq!(serde_json::from_str::<Needs>(&text).unwrap(), needs);
    assert_eq!(serde_json::to_string(&Needs::default()).unwrap(), "{}");
    assert!(serde_json::from_str::<Needs>(r#"{"device_kind":"abacus"}"#).is_err());
}

proptest! {
    #[test]
    fn every_fitting_job_is_a_choice_once_and_none_starves(
        priorities in prop::collection::vec((-5i32..5, 0u64..500, 0u64..3), 1..20),
    ) {
        let jobs: Vec<_> = priorities
            .iter()
            .enumerate()
            .map(|(number, (priority, leased_images, owner))| OpenJob {
                priority: *priority,
                leased_images: *leased_images,
                ..job(number as u64, &format!("owner {owner}"))
            })
            .collect();
        let mut seen = order(&jobs, &[], None);
        seen.sort();
        let mut all: Vec<_> = (0..jobs.len()).map(|number| number.to_string()).collect();
        all.sort();
        prop_assert_eq!(seen, all);
        // Whichever waits long enough while the others are served comes first.
        let labels = BTreeMap::new();
        let now = start() + AGEING * 20;
        for starved in 0..jobs.len() {
            let served: Vec<_> = jobs
                .iter()
                .enumerate()
                .map(|(number, job)| OpenJob { leased_at: (number != starved).then_some(now), ..job.clone() })
                .collect();
            let choices = Plan::new(&served, now).choices(&Worker { name: "w", devices: &[], labels: &labels, last: None });
            prop_assert_eq!(&choices[0].job, &jobs[starved].id);
        }
    }
}
