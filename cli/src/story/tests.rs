//! Every kind of event in words.

use std::collections::HashMap;

use prost_types::Timestamp;
use sanafarm_coordinator::domain::event::{EventKind, ImageKind};
use sanafarm_proto::v1::story_begin::Subject;
use sanafarm_proto::v1::{
    Device, Event, Image, ImageState, Job, JobState, Settings, ShardRange, StoryBegin, StoryEnd, StoryImage,
    StoryWorker,
};
use serde_json::{Value, json};

use super::{Runs, Words, closing, event_json, heading};

const PLAIN: Words = Words { with_job: false };
const OF_JOB: Words = Words { with_job: true };

fn at(second: i64) -> Option<Timestamp> {
    // 2026-11-23T02:47:00Z.
    Some(Timestamp { seconds: 1_795_402_020 + second, nanos: 123_000_000 })
}

fn event(kind: &str, detail: &Value) -> Event {
    Event {
        seq: 1,
        at: at(0),
        kind: kind.to_owned(),
        job_id: "0199".to_owned(),
        detail: detail.to_string(),
        actor: "bob".to_owned(),
        ..Event::default()
    }
}

/// An event of an attempt by worker `w` at images 0 to 7.
fn of_lease(kind: &str, detail: &Value) -> Event {
    Event {
        range: Some(ShardRange { first_index: 0, last_index: 7, images: 8 }),
        attempt: Some(2),
        worker: "w".to_owned(),
        actor: "w".to_owned(),
        session_id: "s1".to_owned(),
        shard_id: "0200".to_owned(),
        ..event(kind, detail)
    }
}

/// An event with a kind of its own, for each that there is.
fn known(kind: EventKind) -> Event {
    let word = kind.word();
    let because = |event: Event| Event { reason: "lunch".to_owned(), ..event };
    match kind {
        EventKind::JobSubmitted => {
            event(word, &json!({ "images": 12, "shards": 3, "model": "tiny", "output": "/out" }))
        }
        EventKind::JobStarted => event(word, &json!({})),
        EventKind::JobFinished => event(word, &json!({ "state": "failed", "done": 11, "failed": 1 })),
        EventKind::JobCancelled => {
            because(event(word, &json!({ "state": "cancelled", "done": 1, "failed": 0 })))
        }
        EventKind::JobPaused | EventKind::JobResumed => because(event(word, &json!({}))),
        EventKind::JobPrioritised => because(event(word, &json!({ "from": 0, "to": -3 }))),
        EventKind::JobRetried => because(event(word, &json!({ "images": 2, "error_class": "bad_image" }))),
        EventKind::JobRequeued => because(event(word, &json!({ "images": 2 }))),
        EventKind::LeaseGranted | EventKind::LeaseFinished => of_lease(word, &json!({})),
        EventKind::LeaseReleased => of_lease(word, &json!({ "reason": "drain", "message": "bye" })),
        EventKind::LeaseLost => {
            Event { actor: "coordinator".to_owned(), ..of_lease(word, &json!({ "rendering": [3, 4] })) }
        }
        EventKind::LeaseRevoked => Event { actor: "bob".to_owned(), ..because(of_lease(word, &json!({}))) },
        EventKind::ShardCut => of_lease(word, &json!({ "first_index": 8, "images": 4, "shard": "0300" })),
        EventKind::ImageFailed => {
            let detail = json!({ "error_class": "prompt", "error": "cannot be drawn" });
            Event { image_index: Some(3), ..of_lease(word, &detail) }
        }
        EventKind::SessionOpened => {
            let detail = json!({ "worker": "w", "version": "0.1.0" });
            let devices = vec![Device { id: "cuda:0".to_owned(), ..Device::default() }];
            Event { range: None, attempt: None, devices, ..of_lease(word, &detail) }
        }
        EventKind::SessionClosed => {
            Event { range: None, attempt: None, ..of_lease(word, &json!({ "reason": "drained" })) }
        }
        EventKind::OutputError => event(word, &json!({ "error": "disk full" })),
        EventKind::OwnerHeld | EventKind::OwnerLetGo => because(event(word, &json!({ "owner": "ann" }))),
        EventKind::OwnerWeighed => event(word, &json!({ "owner": "ann", "weight": 2.5 })),
        EventKind::WorkerExcluded => {
            let detail = json!({ "until": "2026-11-23T02:52:00.000Z", "times": 2 });
            Event { range: None, attempt: None, ..of_lease(word, &detail) }
        }
        EventKind::WorkerForgiven => {
            Event { range: None, attempt: None, ..of_lease(word, &json!({ "times": 1 })) }
        }
        EventKind::WorkerDrained => {
            let asked = because(of_lease(word, &json!({ "drain": "now" })));
            Event { range: None, attempt: None, actor: "bob".to_owned(), ..asked }
        }
        EventKind::WorkerLeaving => {
            let reason = "spot notice".to_owned();
            Event { range: None, attempt: None, reason, ..of_lease(word, &json!({})) }
        }
        EventKind::WebhookDelivered => event(word, &json!({ "attempts": 3, "error": null })),
        EventKind::WebhookFailed => event(word, &json!({ "attempts": 1, "error": "410 Gone" })),
    }
}

#[test]
fn every_kind_has_its_sentence() {
    let told: Vec<String> = EventKind::ALL.iter().map(|kind| PLAIN.sentence(&known(*kind))).collect();
    assert_eq!(
        told,
        [
            "bob submitted the job: 12 images in 3 shards, model tiny, output /out",
            "the job started",
            "the job failed: 11 images done, 1 failed",
            "bob cancelled the job with 1 image done: lunch",
            "bob paused the job: lunch",
            "bob resumed the job: lunch",
            "bob changed the priority of the job from 0 to -3: lunch",
            "bob had 2 failed images of class bad_image tried again: lunch",
            "bob had 2 images rendered again, whose objects are lost or damaged: lunch",
            "w took what is left of images 0 to 7 (attempt 2)",
            "w is done with images 0 to 7 (attempt 2)",
            "w handed back images 0 to 7 (attempt 2): it is leaving, bye",
            "w was lost with images 0 to 7 (attempt 2) while it rendered images 3, 4",
            "bob took away images 0 to 7 (attempt 2) from w: lunch",
            "4 images from image 8 on were cut off for another worker: w keeps images 0 to 7 (attempt 2)",
            "image 3 was given up on w (attempt 2): prompt: cannot be drawn",
            "w connected with version 0.1.0, with cuda:0 (session s1)",
            "w left: drained (session s1)",
            "the output of the job could not be written: disk full",
            "bob held back the jobs of ann: lunch",
            "bob let the jobs of ann go on: lunch",
            "bob changed the share of ann to 2.5",
            "w failed image after image and gets nothing until 2026-11-23 02:52:00 UTC (2 times since its last \
             picture)",
            "w rendered an image again and is forgiven (taken out 1 time before)",
            "bob asked w to leave at once: lunch",
            "w is leaving: spot notice",
            "the webhook was delivered at attempt 3",
            "the webhook was given up after 1 attempt: 410 Gone",
        ]
    );
}

#[test]
fn the_story_of_an_image_tells_errors_and_the_picture() {
    let error = json!({ "error_class": "bad_image", "error": "flat", "device": "cpu" });
    let error = Event { image_index: Some(3), range: None, ..of_lease(ImageKind::ImageError.word(), &error) };
    assert_eq!(PLAIN.sentence(&error), "w could not render image 3 on cpu (attempt 2): bad_image: flat");
    let done =
        json!({ "object": "3.png", "bytes": 12345, "sha256": "ab", "device": "cpu", "render_seconds": 2.04 });
    let done = Event { image_index: Some(3), range: None, ..of_lease(ImageKind::ImageDone.word(), &done) };
    assert_eq!(
        PLAIN.sentence(&done),
        "w rendered image 3 on cpu in 2.0 s (attempt 2): 3.png, 12,345 bytes, sha256 ab"
    );
}

#[test]
fn what_the_farm_did_is_told_so() {
    let farm = |event: Event| Event { actor: "coordinator".to_owned(), ..event };
    let closed = json!({ "reason": "session_closed", "message": "silent" });
    let told = [
        farm(of_lease("lease_released", &closed)),
        farm(of_lease("session_closed", &json!({ "reason": "silent" }))),
        // Older programs did not tell who.
        of_lease("lease_revoked", &json!({})),
        farm(of_lease("lease_lost", &json!({ "rendering": [] }))),
        Event { worker: String::new(), ..of_lease("image_error", &json!({})) },
    ];
    assert_eq!(
        told.map(|event| PLAIN.sentence(&event)),
        [
            "the coordinator took back images 0 to 7 (attempt 2) from w: its session ended, silent",
            "the coordinator took w for gone: silent (session s1)",
            "w lost the right to images 0 to 7 (attempt 2): the job ended",
            "w was lost with images 0 to 7 (attempt 2), none of them in hand",
            "an unknown worker could not render an image (attempt 2)",
        ]
    );
}

#[test]
fn images_of_a_shard_are_told_as_they_lie() {
    let with = |first_index, last_index, images| Event {
        range: Some(ShardRange { first_index, last_index, images }),
        attempt: Some(1),
        ..of_lease("lease_granted", &json!({}))
    };
    let told = [with(5, 5, 1), with(0, 7, 8), with(0, 20, 8)].map(|event| OF_JOB.sentence(&event));
    assert_eq!(
        told,
        [
            "w took image 5 of job 0199 (attempt 1)",
            "w took images 0 to 7 of job 0199 (attempt 1)",
            "w took 8 images between 0 and 20 of job 0199 (attempt 1)",
        ]
    );
}

#[test]
fn a_kind_of_a_newer_program_is_told_as_far_as_it_goes() {
    let event = Event { reason: "tea".to_owned(), ..of_lease("lease_lent", &json!({ "to": "v" })) };
    assert_eq!(
        PLAIN.sentence(&event),
        r#"lease lent with images 0 to 7 (attempt 2) on w by w: tea {"to":"v"}"#
    );
    let bare = Event { kind: "moon_rose".to_owned(), actor: "coordinator".to_owned(), ..Event::default() };
    assert_eq!(PLAIN.sentence(&bare), "moon rose by coordinator");
}

#[test]
fn a_line_has_its_time_and_cannot_steer_the_terminal() {
    let event = Event { reason: "a\nb\u{1b}[31m".to_owned(), ..event("job_paused", &json!({})) };
    assert_eq!(PLAIN.line(&event), r"2026-11-23 02:47:00 UTC  bob paused the job: a\nb\u{1b}[31m");
}

/// The lines of these events.
fn lines(all: bool, events: impl IntoIterator<Item = Event>) -> Vec<String> {
    let mut runs = Runs::new(PLAIN, all);
    let mut lines: Vec<String> = events.into_iter().flat_map(|event| runs.push(event)).collect();
    lines.extend(runs.end());
    lines.into_iter().map(|line| line.trim_start_matches("2026-11-23 ").to_owned()).collect()
}

/// A thousand shards that two workers take and finish, with a pause between.
fn long() -> Vec<Event> {
    let lease = |kind: &str, second: i64| Event {
        at: at(second),
        worker: if second % 2 == 0 { "v" } else { "w" }.to_owned(),
        ..of_lease(kind, &json!({}))
    };
    let work = |seconds: std::ops::Range<i64>| {
        seconds.flat_map(move |second| [lease("lease_granted", second), lease("lease_finished", second)])
    };
    let mut events: Vec<Event> = work(0..500).collect();
    // Written down after the lease that starts it.
    events.insert(1, event("job_started", &json!({})));
    events.push(Event { at: at(500), ..known(EventKind::JobPaused) });
    events.extend(work(501..502));
    events.push(Event { at: at(502), ..known(EventKind::JobFinished) });
    events
}

#[test]
fn leases_that_follow_each_other_are_one_line() {
    assert_eq!(
        lines(false, long()),
        [
            "02:47:00 UTC  the job started",
            "02:47:00 UTC  500 leases granted and 500 done (4,000 images) on 2 workers, until 2026-11-23 02:55:19 UTC",
            "02:55:20 UTC  bob paused the job: lunch",
            "02:55:21 UTC  w took what is left of images 0 to 7 (attempt 2)",
            "02:55:21 UTC  w is done with images 0 to 7 (attempt 2)",
            "02:55:22 UTC  the job failed: 11 images done, 1 failed",
        ]
    );
    let all = lines(true, long());
    assert_eq!(all.len(), 1000 + 5);
    assert_eq!(
        all[..2],
        ["02:47:00 UTC  v took what is left of images 0 to 7 (attempt 2)", "02:47:00 UTC  the job started"]
    );
}

#[test]
fn what_differs_is_not_joined() {
    let times = |event: Event, count: usize| std::iter::repeat_n(event, count);
    let other = Event { job_id: "0201".to_owned(), ..known(EventKind::LeaseGranted) };
    let storage = of_lease("lease_released", &json!({ "reason": "storage", "message": "disk full" }));
    let events = times(known(EventKind::LeaseGranted), 5)
        .chain(times(other, 5))
        .chain(times(known(EventKind::LeaseReleased), 5))
        .chain(times(storage, 5))
        .chain(times(known(EventKind::LeaseLost), 5))
        .chain(times(known(EventKind::LeaseRevoked), 5))
        .chain(times(known(EventKind::ImageFailed), 5));
    assert_eq!(
        lines(false, events),
        [
            "02:47:00 UTC  5 leases granted to w",
            "02:47:00 UTC  5 leases granted to w",
            "02:47:00 UTC  5 leases (40 images) handed back by w: it is leaving, bye",
            "02:47:00 UTC  5 leases (40 images) handed back by w: its output cannot be written, disk full",
            "02:47:00 UTC  5 leases (40 images) lost with w",
            "02:47:00 UTC  5 leases (40 images) taken away from w by bob: lunch",
            "02:47:00 UTC  5 images given up on w, the first is image 3: prompt: cannot be drawn",
        ]
    );
}

fn story(subject: Subject) -> StoryBegin {
    StoryBegin { subject: Some(subject), older: 41 }
}

fn kinds(kinds: &[(&str, u64)]) -> HashMap<String, u64> {
    kinds.iter().map(|(kind, often)| ((*kind).to_owned(), *often)).collect()
}

#[test]
fn a_job_has_a_first_and_a_last_line() {
    let mut job = Job { job_id: "0199".to_owned(), name: "cats".to_owned(), images: 12, ..Job::default() };
    let begin = story(Subject::Job(job.clone()));
    assert_eq!(heading(&begin), ["job 0199: cats", "41 older events are not shown"]);
    (job.done, job.failed, job.state) = (10, 1, JobState::Running.into());
    let end = StoryEnd {
        job: Some(job),
        kinds: kinds(&[("lease_granted", 14), ("lease_lost", 1)]),
        device_seconds: 123.44,
        workers: 3,
        ..StoryEnd::default()
    };
    assert_eq!(
        closing(&begin, &end),
        "running: 10 of 12 images done, 1 failed, 1 open; 14 attempts, 1 lost; 123.4 device seconds on 3 workers"
    );
}

#[test]
fn an_image_tells_what_it_shows_and_what_is_open() {
    let settings = Settings { width: 64, height: 96, steps: 4, guidance: 4.5, ..Settings::default() };
    let image = Image {
        index: 3,
        prompt: "red \"dots\"".to_owned(),
        negative_prompt: "blurry".to_owned(),
        seed: 103,
        settings: Some(settings),
        state: ImageState::Pending.into(),
        ..Image::default()
    };
    let job = Job { job_id: "0199".to_owned(), state: JobState::Paused.into(), ..Job::default() };
    let told = |image: Image| StoryBegin {
        older: 0,
        subject: Some(Subject::Image(StoryImage { job: Some(job.clone()), image: Some(image) })),
    };
    let begin = told(image.clone());
    assert_eq!(
        heading(&begin),
        [r#"image 3 of job 0199: "red \"dots\"", not "blurry", seed 103, 64x96, 4 steps, guidance 4.5"#]
    );
    let end = StoryEnd {
        job: Some(job.clone()),
        kinds: kinds(&[("lease_granted", 2), ("image_error", 1)]),
        losses: 1,
        ..StoryEnd::default()
    };
    let went = "after 2 attempts, 1 error, 1 loss";
    assert_eq!(closing(&begin, &end), format!("open {went}: the job is paused"));
    let held = StoryEnd { held_by: "w".to_owned(), ..end.clone() };
    assert_eq!(closing(&begin, &held), format!("open {went}: w has it"));
    let done = told(Image { state: ImageState::Done.into(), ..image.clone() });
    assert_eq!(closing(&done, &end), format!("done {went}"));
    let failed =
        Image { state: ImageState::Failed.into(), error_class: 5, error: "flat".to_owned(), ..image };
    assert_eq!(closing(&told(failed), &end), format!("failed {went}: bad_image: flat"));
}

#[test]
fn a_worker_tells_its_sessions_and_leases() {
    let worker = StoryWorker { worker: "w".to_owned(), session_id: String::new() };
    let one = story(Subject::Worker(StoryWorker { session_id: "s1".to_owned(), ..worker.clone() }));
    assert_eq!(heading(&one)[0], "session s1 of worker w");
    let begin = StoryBegin { older: 0, ..story(Subject::Worker(worker)) };
    assert_eq!(heading(&begin), ["worker w"]);
    let end = StoryEnd {
        kinds: kinds(&[
            ("session_opened", 2),
            ("session_closed", 1),
            ("lease_granted", 1400),
            ("lease_finished", 1397),
            ("lease_lost", 1),
            ("lease_released", 1),
            ("worker_excluded", 1),
        ]),
        done: 96,
        failed: 1,
        device_seconds: 7.0,
        ..StoryEnd::default()
    };
    assert_eq!(
        closing(&begin, &end),
        "2 sessions, 1 open; 1,400 leases: 1,397 done, 1 handed back, 1 lost, 0 taken away, 1 held; 96 images done, \
         1 failed, 7.0 device seconds; taken out 1 time"
    );
}

#[test]
fn json_has_the_documented_fields() {
    let json = event_json(&known(EventKind::LeaseReleased), OF_JOB);
    let expected = r#"{"seq":1,"at":"2026-11-23T02:47:00.123Z","kind":"lease_released","text":"w handed back images 0 to 7 of job 0199 (attempt 2): it is leaving, bye","job_id":"0199","image_index":null,"shard_id":"0200","first_index":0,"last_index":7,"images":8,"attempt":2,"session_id":"s1","worker":"w","actor":"w","reason":null,"detail":{"message":"bye","reason":"drain"}}"#;
    assert_eq!(json, serde_json::from_str::<Value>(expected).unwrap());
    let guide = include_str!("../../../docs/history.md");
    for field in json.as_object().unwrap().keys() {
        assert!(guide.contains(&format!("| `{field}` |")), "docs/history.md does not tell {field}");
    }
}
