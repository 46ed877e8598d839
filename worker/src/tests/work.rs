//! Good days.

use std::io::Cursor;

use sanafarm_proto::v1::*;
use tokio::sync::watch;

use super::{Farm, engine, shard};
use crate::recipe::Provenance;
use crate::{Activity, picture, shift};

#[tokio::test]
async fn a_shard_becomes_pictures_that_carry_their_recipe() {
    let mut farm = Farm::start(|out, model| {
        let mut lease = shard("a", 7, &["red dots", "ein Bär, 赤い熊", "three"], out, model);
        lease.images[1].negative_prompt = "blurry".into();
        vec![lease]
    })
    .await;
    let summary = farm.finish(3).await;
    assert_eq!((summary.done, summary.failed), (3, 0));
    let state = farm.coordinator().state();
    assert_eq!(state.opened.len(), 1);
    assert_eq!(state.opened[0].worker, "worker-1");
    assert_eq!(state.opened[0].devices[0].id, "cpu");
    assert_eq!((state.accepted, state.known, state.closed), (3, 0, 1));
    assert!(state.leased.is_empty() && state.releases.is_empty(), "{:?}", state.releases);

    for index in 7..10 {
        let done = state.done(index);
        let file = farm.file(&done.object);
        assert_eq!(done.bytes, file.len() as u64);
        assert_eq!(done.sha256, picture::sha256(&file));
        assert_eq!(serde_json::from_str::<Provenance>(&done.recipe).unwrap(), picture::read(&file).unwrap());
        let mut reader = png::Decoder::new(Cursor::new(&file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((frame.width, frame.height), (40, 24));
        let expected: Vec<u8> = (0..24).flat_map(|y| engine::row(100 + index, 40, y)).collect();
        assert_eq!(pixels, expected);
    }
    let recipe: serde_json::Value = serde_json::from_str(&state.done(8).recipe).unwrap();
    assert_eq!(
        recipe,
        serde_json::json!({
            "program": "sanafarm", "version": env!("CARGO_PKG_VERSION"), "model": "test-model",
            "weights_sha256": "0123456789abcdef".repeat(4), "prompt": "ein Bär, 赤い熊", "negative_prompt": "blurry",
            "seed": 108, "width": 40, "height": 24, "compute_width": 64, "compute_height": 32, "steps": 3,
            "guidance": 4.5, "scheduler": "flow-dpm-solver++", "dtype": "f32", "bin": "auto", "decode": "exact",
        })
    );
    assert_eq!(*farm.watch.loads.lock().unwrap(), 1, "the model stays loaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_shards_are_rendered_once_each_in_order() {
    let prompts: Vec<String> = (0..60).map(|index| format!("prompt {index}")).collect();
    let names: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let mut farm = Farm::start(|out, model| {
        names
            .chunks(7)
            .enumerate()
            .map(|(n, some)| shard(&format!("s{n}"), n as u64 * 7, some, out, model))
            .collect()
    })
    .await;
    let summary = farm.finish(60).await;
    assert_eq!(summary.done, 60);
    assert_eq!(farm.watch.started(), prompts);
    let state = farm.coordinator().state();
    assert_eq!((state.accepted, state.known), (60, 0));
    assert_eq!(std::fs::read_dir(farm.folder.path().join("out")).unwrap().count(), 60);
}

#[tokio::test]
async fn the_next_shard_is_leased_while_the_last_image_is_rendered() {
    let mut farm = Farm::start(|out, model| {
        vec![shard("a", 0, &["x", "wait"], out, model), shard("b", 2, &["y"], out, model)]
    })
    .await;
    // The gate is closed: image 1 cannot be finished before shard b is leased.
    farm.coordinator().until("both leased", |state| state.leased.contains_key("b")).await;
    assert!(!farm.coordinator().state().results.contains_key(&1));
    farm.watch.open();
    assert_eq!(farm.finish(3).await.done, 3);
}

#[tokio::test]
async fn only_one_shard_is_held_ahead_however_small_the_shards_are() {
    let names: Vec<String> = (0..8).map(|index| format!("s{index}")).collect();
    let mut farm = Farm::start(|out, model| {
        let prompt = |index| if index == 0 { "wait" } else { "x" };
        names.iter().zip(0..).map(|(id, index)| shard(id, index, &[prompt(index)], out, model)).collect()
    })
    .await;
    // One is rendered, one stands at the engine, one is ahead. Had it room for more, it would ask within moments.
    let is_full = |held: &&Vec<HeldLease>| held.len() >= 3;
    farm.coordinator()
        .until("some renewals of all that is held", |state| {
            state.renewals.iter().filter(is_full).count() >= 8
        })
        .await;
    assert_eq!(farm.coordinator().state().leased.len(), 3);
    farm.watch.open();
    assert_eq!(farm.finish(8).await.done, 8);
}

#[tokio::test]
async fn the_coordinator_is_told_at_once_what_is_being_rendered() {
    let mut farm = Farm::start(|out, model| vec![shard("a", 0, &["x", "wait", "y"], out, model)]).await;
    farm.begun(1).await;
    farm.watch.open();
    assert_eq!(farm.finish(3).await.done, 3);
}

#[tokio::test]
async fn the_same_recipe_gives_the_same_bytes_in_any_shard_and_order() {
    let mut one = Farm::start(|out, model| vec![shard("a", 0, &["p", "q", "r"], out, model)]).await;
    one.finish(3).await;
    let mut other = Farm::start(|out, model| {
        let mut shards: Vec<_> =
            ["p", "q", "r"].iter().zip(0..).map(|(p, index)| shard(p, index, &[p], out, model)).collect();
        shards.reverse();
        shards.iter_mut().for_each(|lease| lease.job_id = "another job".into());
        shards
    })
    .await;
    other.finish(3).await;
    for name in ["0000.png", "0001.png", "0002.png"] {
        assert!(one.file(name) == other.file(name), "{name}");
    }
}

#[tokio::test]
async fn a_failing_image_leaves_its_neighbours_alone() {
    let mut farm = Farm::start(|out, model| vec![shard("a", 0, &["x", "flat", "y"], out, model)]).await;
    let summary = farm.finish(3).await;
    assert_eq!((summary.done, summary.failed), (2, 1));
    let failed = farm.coordinator().state().failed(1);
    assert_eq!(failed.error_class(), ErrorClass::BadImage);
    assert!(!farm.folder.path().join("out/0001.png").exists(), "no part of the failed picture stays");
}

#[tokio::test]
async fn a_shard_with_errors_to_try_again_is_released_as_finished() {
    let folder = tempfile::tempdir().unwrap();
    let shards =
        |out: &std::path::Path, model: &std::path::Path| vec![shard("a", 0, &["x", "flat"], out, model)];
    let mut farm = Farm::start_in(folder, shards, |state| state.errors_are_final = false).await;
    farm.coordinator().until("a release", |state| !state.releases.is_empty()).await;
    {
        let state = farm.coordinator().state();
        let (lease, reason, _) = &state.releases[0];
        assert_eq!((lease.attempt, *reason), (1, ReleaseReason::Finished));
        assert_eq!(state.errors[0].1.error_class(), ErrorClass::BadImage);
        assert!(state.results.contains_key(&0));
    }
    farm.shutdown.soft.cancel();
    farm.end().await.unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_fails_each_image_and_is_tried_once_a_lease() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model/model_index.json"), "broken").unwrap();
    let shards = |out: &std::path::Path, model: &std::path::Path| {
        let absent = model.with_file_name("absent");
        vec![shard("a", 0, &["x", "y", "z"], out, model), shard("b", 3, &["x"], out, &absent)]
    };
    let mut farm = Farm::start_in(folder, shards, |_| {}).await;
    assert_eq!(farm.finish(4).await.failed, 4);
    let state = farm.coordinator().state();
    for index in 0..4 {
        assert_eq!(state.failed(index).error_class(), ErrorClass::Model, "{index}");
    }
    assert!(state.failed(0).message.contains("vae/config.json"));
    assert!(state.failed(3).message.contains("absent"));
    assert_eq!(*farm.watch.loads.lock().unwrap(), 1);
}

/// Quality and thumbnail of the second image, and the files beside it.
#[tokio::test]
async fn pictures_come_in_the_form_that_the_lease_asks_for() {
    for (format, ending) in [
        (ImageFormat::Png, "png"),
        (ImageFormat::Jpeg, "jpg"),
        (ImageFormat::Webp, "webp"),
        (ImageFormat::WebpLossless, "webp"),
    ] {
        let mut farm = Farm::start(|out, model| {
            let mut lease = shard("a", 0, &["x", "y"], out, model);
            lease.form =
                Some(Form { format: format.into(), quality: 95, thumbnails: true, ..Default::default() });
            for image in &mut lease.images {
                image.object = format!("{}.{ending}", image.index);
            }
            lease.images[1].thumbnail = "small/1.jpg".into();
            vec![lease]
        })
        .await;
        assert_eq!(farm.finish(2).await.done, 2, "{format:?}");
        let done = farm.coordinator().state().done(1);
        let file = farm.file(&format!("1.{ending}"));
        assert_eq!(done.sha256, picture::sha256(&file));
        let stored = picture::read(&file).unwrap();
        assert_eq!(serde_json::from_str::<Provenance>(&done.recipe).unwrap(), stored);
        let name = match format {
            ImageFormat::Png => "PNG",
            ImageFormat::Jpeg => "JPEG",
            _ => "WebP",
        };
        assert_eq!(picture::Format::of(&file).map(picture::Format::name), Some(name));
        let rgb: Vec<u8> = (0..24).flat_map(|y| engine::row(101, 40, y)).collect();
        let found = picture::pixels(&file).unwrap();
        assert_eq!((found.width, found.height), (40, 24));
        assert!(found.rgb == rgb || matches!(format, ImageFormat::Jpeg | ImageFormat::Webp));
        let quality = done.quality.unwrap();
        assert!(quality.entropy > 5.0 && quality.entropy < 8.0, "{quality:?}");
        assert_eq!(quality.clipped, 0.0);
        let small = picture::pixels(&farm.file("small/1.jpg")).unwrap();
        assert_eq!((small.width, small.height), (40, 24));
        let folder = std::fs::read_dir(farm.folder.path().join("out")).unwrap();
        assert_eq!(folder.count(), 3, "no thumbnail without a name for it");
    }
}

#[tokio::test]
async fn a_form_that_this_worker_cannot_write_fails_the_image_before_it_is_rendered() {
    let mut farm = Farm::start(|out, model| {
        let mut newer = shard("a", 0, &["x"], out, model);
        newer.form.as_mut().unwrap().format = 99;
        let mut large = shard("b", 1, &["y"], out, model);
        large.form.as_mut().unwrap().format = ImageFormat::Webp.into();
        large.settings.as_mut().unwrap().height = 16_384;
        let mut older = shard("c", 2, &["z"], out, model);
        older.form = None;
        vec![newer, large, older]
    })
    .await;
    assert_eq!(farm.finish(3).await.failed, 2);
    let state = farm.coordinator().state();
    assert_eq!(state.failed(0).error_class(), ErrorClass::Internal);
    assert!(state.failed(0).message.contains("picture format 99"), "{:?}", state.failed(0));
    assert_eq!(state.failed(1).error_class(), ErrorClass::Size);
    assert!(state.failed(1).message.contains("40x16384"), "{:?}", state.failed(1));
    assert_eq!(farm.watch.started(), ["z"]);
    assert!(picture::read(&farm.file("0002.png")).is_ok());
}

#[tokio::test]
async fn a_flat_picture_is_refused_whatever_the_engine_says() {
    let mut farm = Farm::start(|out, model| vec![shard("a", 0, &["white", "x"], out, model)]).await;
    assert_eq!(farm.finish(2).await.failed, 1);
    let failed = farm.coordinator().state().failed(0);
    assert_eq!(failed.error_class(), ErrorClass::BadImage);
    assert!(failed.message.contains("#ffffff"), "{failed:?}");
    assert!(!farm.folder.path().join("out/0000.png").exists());
}

#[tokio::test]
async fn settings_of_a_newer_coordinator_fail_the_image() {
    let mut farm = Farm::start(|out, model| {
        let mut lease = shard("a", 0, &["x"], out, model);
        lease.settings.as_mut().unwrap().decode = 99;
        vec![lease]
    })
    .await;
    farm.finish(1).await;
    let failed = farm.coordinator().state().failed(0);
    assert_eq!(failed.error_class(), ErrorClass::Internal);
    assert!(failed.message.contains("decode mode 99"), "{}", failed.message);
}

#[tokio::test]
async fn a_job_that_ends_stops_its_image_at_the_next_step_and_others_go_on() {
    let mut farm = Farm::start(|out, model| {
        let other = Lease { job_id: "other".into(), ..shard("b", 5, &["red"], out, model) };
        vec![shard("a", 0, &["wait", "never started"], out, model), other]
    })
    .await;
    let coordinator = farm.coordinator().clone();
    let waits = |progress: &Progress| (progress.stage.as_str(), progress.step) == ("denoise", 3);
    coordinator.until("the image in hand is told", |state| state.progress.iter().any(waits)).await;
    let told = coordinator.state().progress.iter().find(|progress| waits(progress)).unwrap().clone();
    assert_eq!((told.job_id.as_str(), told.index, told.worker.as_str()), ("job", 0, "worker-1"));
    coordinator.change(|state| {
        state.leased.remove("a");
        for notices in &state.notices {
            notices.send(Ok(Notice { ended_job: "job".into(), ..Default::default() })).unwrap();
        }
    });
    // Nobody opens the gate: only a stopped image makes room for the other job's.
    let summary = farm.finish(1).await;
    assert_eq!(summary, crate::Summary { done: 1, failed: 0, kept: 0 });
    assert_eq!(farm.watch.started(), ["wait", "red"]);
    assert!(coordinator.state().results.contains_key(&5));
}

#[tokio::test]
async fn the_activity_names_image_stage_and_step() {
    let folder = tempfile::tempdir().unwrap();
    let (out, model) = (folder.path().join("out"), folder.path().join("model"));
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("model_index.json"), "{}").unwrap();
    let lease = shard("a", 5, &["wait"], &out, &model);
    let served = super::TestCoordinator::serve(vec![lease]).await;
    let (activity, mut seen) = watch::channel(Vec::new());
    let options =
        crate::Options { activity: Some(activity), ..crate::Options::new("w", folder.path().into()) };
    let shutdown = crate::Shutdown::default();
    let gate = std::sync::Arc::new(engine::Watch::default());
    let worker =
        tokio::spawn(shift::run(served.channel.clone(), options, shutdown.clone(), super::one_cpu(&gate)));
    let (device, job) = ("cpu".to_owned(), "job".to_owned());
    let denoising = Activity { device, job, index: 5, stage: "denoise", step: 3, steps: 3 };
    seen.wait_for(|now| *now == [denoising.clone()]).await.unwrap();
    gate.open();
    served.coordinator.until("the result", |state| state.results.len() == 1).await;
    shutdown.soft.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!(seen.borrow()[0].stage, "", "idle at the end");
}
