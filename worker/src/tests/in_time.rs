//! What each device finishes before the machine is gone, and what it leaves to others.

use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use sana::{BinMode, DecodeMode, Recipe};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::HOUR;
use super::engine::{TestEngine, Watch};
use super::threads::{Bench, pictures, rendered};
use crate::engine::{Engine, Outcome, Pace, Rendered};

const SIZE: (u32, u32) = (32, 32);

/// Says how long pictures of this size take on a device.
fn takes(bench: &Bench, device: &str, together: Duration, alone: Duration) {
    let recipe = Recipe {
        prompt: String::new(),
        negative_prompt: String::new(),
        seed: 0,
        width: SIZE.0,
        height: SIZE.1,
        steps: 2,
        guidance: 4.5,
        bin: BinMode::Auto,
        decode: DecodeMode::Exact,
    };
    bench.paces.set(device, bench.model.to_str().unwrap(), &recipe, Pace { together, alone });
}

fn is_skipped(rendered: &Rendered) -> bool {
    matches!(rendered.outcome, Outcome::Skipped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_has_time_goes_on_while_another_stops() {
    let watch = Arc::new(Watch::default());
    let engines = (0..3).map(|_| Box::new(TestEngine::new(watch.clone())) as Box<dyn Engine>);
    let bench = Bench::start(engines.collect());
    takes(&bench, "cuda:0", HOUR, Duration::ZERO);
    takes(&bench, "cuda:1", 3 * HOUR, Duration::ZERO);
    // Nothing is known of the third: it may have time.
    let answers = bench.send(&["wait"; 3], SIZE, &CancellationToken::new());
    watch.until_started(3).await;
    bench.end.send_replace(Some(Instant::now() + 2 * HOUR));
    let one = tokio::time::timeout(Duration::from_secs(60), select_all(answers));
    let (stopped, _, others) = one.await.expect("one of them stops");
    let stopped = stopped.unwrap();
    assert!(is_skipped(&stopped), "{stopped:?}");
    watch.open();
    let others = rendered(others).await;
    assert_eq!(pictures(&others).len(), 2);
    let mut devices: Vec<_> = others.iter().map(|rendered| rendered.effort.device_id.as_str()).collect();
    devices.sort_unstable();
    assert_eq!(devices, ["cuda:0", "cuda:2"]);
}

#[tokio::test]
async fn of_a_batch_those_are_finished_whose_turn_comes_in_time() {
    let watch = Arc::new(Watch::default());
    let engine = TestEngine { batch: 4, slow: true, ..TestEngine::new(watch.clone()) };
    let bench = Bench::start(vec![Box::new(engine)]);
    // Two hours together, then half an hour for each.
    takes(&bench, "cuda:0", HOUR / 2, HOUR / 2);
    bench.end.send_replace(Some(Instant::now() + HOUR * 13 / 4));
    let answers = bench.send(&["a", "b", "c", "d"], SIZE, &CancellationToken::new());
    watch.open();
    let all = rendered(answers).await;
    assert_eq!(watch.batches().len(), 1, "they were one batch");
    assert_eq!(pictures(&all[..2]).len(), 2);
    assert!(all[2..].iter().all(is_skipped), "{all:?}");
}

#[tokio::test]
async fn a_device_knows_by_its_last_pictures_how_long_the_next_will_take() {
    let watch = Arc::new(Watch::default());
    let bench = Bench::start(vec![Box::new(TestEngine::new(watch.clone()))]);
    takes(&bench, "cuda:0", HOUR, HOUR);
    let go_on = CancellationToken::new();
    assert_eq!(pictures(&rendered(bench.send(&["a"], SIZE, &go_on)).await).len(), 1);
    bench.end.send_replace(Some(Instant::now() + HOUR));
    assert_eq!(pictures(&rendered(bench.send(&["b"], SIZE, &go_on)).await).len(), 1);
}
