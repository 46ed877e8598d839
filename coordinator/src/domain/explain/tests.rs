use std::collections::BTreeMap;

use super::*;
use crate::domain::schedule::Device;
use crate::domain::schedule::tests::job;

fn now() -> Timestamp {
    "2026-11-23T12:04:00Z".parse().unwrap()
}

fn ready(shards: u64) -> Backlog {
    Backlog {
        state: JobState::Running,
        owner_held: false,
        ready: shards,
        delayed: 0,
        next_at: None,
        leased: 0,
        error: None,
        output_error: None,
    }
}

fn asked<'a>(id: &'a JobId, needs: &'a Needs) -> Asked<'a> {
    Asked { id, needs, held_by: &[], refused_by: &[], deadline: None, end_reason: None, only_owner: None }
}

/// What is said about job 2, with job 1 before it, to one worker with a GPU of 8 GB.
fn said(backlog: &Backlog, needs: &Needs, workers: usize) -> Vec<(Cause, String)> {
    let (first, second) = (OpenJob { priority: 10, ..job(1, "ann") }, job(2, "ann"));
    let devices = [Device { id: "cuda:0".to_owned(), memory_free_bytes: 8_000_000_000, ..Device::default() }];
    let labels = BTreeMap::new();
    let offers = Worker { name: "w", devices: &devices, labels: &labels, last: None };
    let present = vec![Present { name: "w", offers, excluded_until: None }; workers];
    let explanation = explain(&asked(&second.id, needs), backlog, &[&first, &second], &present, now());
    assert_eq!(explanation.workers, workers as u64);
    explanation.parts.into_iter().map(|part| (part.cause, part.text)).collect()
}

#[test]
fn ready_shards_wait_for_workers_or_for_other_jobs() {
    let any = Needs::default();
    let large = Needs { memory_bytes: 24_000_000_000, ..Needs::default() };
    for (needs, workers, cause, text) in [
        (&any, 0, Cause::NoWorkers, "3 shards ready: no worker is connected"),
        (
            &large,
            1,
            Cause::NoneFits,
            "3 shards ready: no worker has what it needs: w has 8.0 GB of free device memory, not 24.0 GB",
        ),
        (&any, 1, Cause::Behind, "3 shards ready: behind 1 other job, first job 1 with priority 65"),
    ] {
        assert_eq!(said(&ready(3), needs, workers), [(cause, text.to_owned())]);
    }
    let alone = explain(
        &asked(&job(2, "ann").id, &any),
        &ready(1),
        &[&job(2, "ann")],
        &[Present {
            name: "w",
            offers: Worker { name: "w", devices: &[], labels: &BTreeMap::new(), last: None },
            excluded_until: None,
        }],
        now(),
    );
    assert_eq!((alone.fitting, alone.parts[0].cause), (1, Cause::Next));
    assert_eq!(alone.parts[0].text, "1 shard ready: comes next; the worker that fits is busy");
}

#[test]
fn every_part_is_told() {
    let at = "2026-11-23T12:04:31Z".parse().unwrap();
    let backlog = Backlog {
        leased: 2,
        delayed: 1,
        next_at: Some(at),
        error: Some((ErrorClass::OutOfMemory, "8 GB are too few".to_owned())),
        ..ready(1)
    };
    let said = said(&backlog, &Needs::default(), 0);
    assert_eq!(said[0], (Cause::Leased, "2 shards being rendered".to_owned()));
    let text = "1 shard tried again after errors, the first at 2026-11-23T12:04:31Z; most often out_of_memory: \
                8 GB are too few";
    assert_eq!(said[1], (Cause::Delayed, text.to_owned()));
    assert_eq!((said.len(), said[2].0), (3, Cause::NoWorkers));
}

#[test]
fn what_holds_the_whole_job_is_told_before_anything_about_workers() {
    let any = Needs::default();
    for (backlog, cause) in [
        (Backlog { state: JobState::Paused, ..ready(3) }, Cause::Paused),
        (Backlog { owner_held: true, ..ready(3) }, Cause::OwnerHeld),
        (ready(0), Cause::Finishing),
        (Backlog { output_error: Some("disk full".to_owned()), ..ready(0) }, Cause::OutputError),
        (Backlog { state: JobState::Cancelled, ..ready(3) }, Cause::Ended),
    ] {
        let said = said(&backlog, &any, 1);
        assert_eq!((said.len(), said[0].0), (1, cause));
    }
}

#[test]
fn a_worker_that_was_taken_out_is_named_until_it_is_back() {
    let (labels, job, needs) = (BTreeMap::new(), job(2, "ann"), Needs::default());
    let until = now() + std::time::Duration::from_secs(60);
    let offers = Worker { name: "w", devices: &[], labels: &labels, last: None };
    let out = Present { name: "bad", offers, excluded_until: Some(until) };
    let well = Present { name: "good", offers, excluded_until: None };
    let told =
        |workers: &[Present<'_>], at| explain(&asked(&job.id, &needs), &ready(3), &[&job], workers, at);
    let alone = told(&[out], now());
    assert_eq!((alone.fitting, alone.parts[0].cause, alone.parts[0].at), (0, Cause::Excluded, Some(until)));
    let text = "3 shards ready: bad failed 3 images in a row and was taken out until 2026-11-23T12:05:00Z";
    assert_eq!(alone.parts[0].text, text);
    assert_eq!(told(&[out, well], now()).parts[0].cause, Cause::Next);
    assert_eq!((told(&[out], until).fitting, told(&[out], until).parts[0].cause), (1, Cause::Next));
}

#[test]
fn the_jobs_that_one_waits_for_are_named() {
    let (id, needs) = (job(2, "ann").id, Needs::default());
    let awaited = |number, any_end| Awaited {
        job: job(number, "ann").id,
        any_end,
        state: JobState::Running,
        images: 100,
        finished: 40,
    };
    let jobs: Vec<_> = (3..8).map(|number| awaited(number, number == 4)).collect();
    let jobs: Vec<_> = jobs.iter().collect();
    let pending = Backlog { state: JobState::Pending, ..ready(3) };
    let told = |held_by: &[&Awaited], deadline, backlog: &Backlog| {
        let asked = Asked { held_by, deadline, ..asked(&id, &needs) };
        let explanation = explain(&asked, backlog, &[], &[], now());
        let [part] = explanation.parts.as_slice() else { panic!("{:?}", explanation.parts) };
        (part.shards, part.cause, part.text.clone())
    };
    let text = "3 shards ready: waits for job job 3 (running, 40 of 100 images)";
    assert_eq!(told(&jobs[..1], None, &pending), (3, Cause::After, text.to_owned()));
    let text = format!(
        "{text}, job job 4 (running, 40 of 100 images) to end, job job 5 (running, 40 of 100 images), and 2 others"
    );
    assert_eq!(told(&jobs, None, &pending), (3, Cause::After, text));
    let paused = Backlog { state: JobState::Paused, ..pending.clone() };
    assert_eq!(told(&jobs, None, &paused).1, Cause::Paused);
    assert_eq!(told(&jobs, Some(now()), &paused).1, Cause::DeadlinePassed);
    let ended = Backlog { state: JobState::Cancelled, ..pending };
    let asked = Asked { end_reason: Some("deadline passed"), ..asked(&id, &needs) };
    let explanation = explain(&asked, &ended, &[], &[], now());
    assert_eq!(explanation.parts[0].text, "the job is cancelled: deadline passed");
}

#[test]
fn a_job_of_another_owner_is_not_named() {
    let deadline = Some(now() + std::time::Duration::from_secs(60));
    let (first, second, needs) = (OpenJob { deadline, ..job(1, "bob") }, job(2, "ann"), Needs::default());
    let (devices, labels) = ([], BTreeMap::new());
    let offers = Worker { name: "w", devices: &devices, labels: &labels, last: None };
    let present = [Present { name: "w", offers, excluded_until: None }];
    let told = |only_owner| {
        let asked = Asked { only_owner, ..asked(&second.id, &needs) };
        explain(&asked, &ready(1), &[&first, &second], &present, now()).parts[0].text.clone()
    };
    let text = told(Some("ann"));
    assert!(text.contains("behind 1 other job, first one of another owner with priority"), "{text}");
    assert!(!text.contains("job 1") && !text.contains("due at"), "{text}");
    for sees in [None, Some("bob")] {
        assert!(told(sees).contains("first job 1 with priority"), "{}", told(sees));
    }
}

#[test]
fn a_job_that_is_before_because_of_its_deadline_says_so() {
    let deadline = Some(now() + std::time::Duration::from_secs(60));
    let (first, second, needs) = (OpenJob { deadline, ..job(1, "ann") }, job(2, "ann"), Needs::default());
    let (devices, labels) = (Vec::new(), BTreeMap::new());
    let offers = Worker { name: "w", devices: &devices, labels: &labels, last: None };
    let worker = Present { name: "w", offers, excluded_until: None };
    let told = explain(&asked(&second.id, &needs), &ready(3), &[&first, &second], &[worker], now());
    let text =
        "3 shards ready: behind 1 other job, first job 1 with priority 55, due at 2026-11-23T12:05:00Z";
    assert_eq!(told.parts[0].text, text);
}

#[test]
fn workers_that_refuse_the_job_are_told_with_what_they_said() {
    let (labels, job, needs) = (BTreeMap::new(), job(2, "ann"), Needs::default());
    let until = now() + std::time::Duration::from_secs(60);
    let offers = Worker { name: "w", devices: &[], labels: &labels, last: None };
    let present = |name| Present { name, offers, excluded_until: None };
    let refused_by = [Refusing { worker: "bad", why: "permission denied", until }];
    let asked = Asked { refused_by: &refused_by, ..asked(&job.id, &needs) };
    let told = |workers: &[Present<'_>]| explain(&asked, &ready(3), &[&job], workers, now());
    let said = Part {
        shards: 0,
        cause: Cause::Refused,
        text: "bad does not take it before 2026-11-23T12:05:00Z: permission denied".to_owned(),
        at: Some(until),
    };
    let alone = told(&[present("bad")]);
    assert_eq!((alone.fitting, alone.parts[0].cause), (0, Cause::Refused));
    assert_eq!(alone.parts[0].text, "3 shards ready: no other worker has what it needs");
    assert_eq!(alone.parts[1], said);
    let two = told(&[present("bad"), present("good")]);
    assert_eq!((two.fitting, two.parts[0].cause, &two.parts[1]), (1, Cause::Next, &said));
}
