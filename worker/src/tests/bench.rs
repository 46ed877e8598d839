//! How much of its time a device waits while finished pictures are encoded, kept, stored and reported. Printed, not
//! asserted:
//!
//!     cargo nextest run --release --workspace --lib --run-ignored only -E 'test(idle_share)' --no-capture

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sana::plan::Fit;
use sana::{Memory, ModelInfo, Progress, Recipe, Sink};
use sanafarm_proto::v1::Lease;
use sanafarm_test_servers::s3::{Fault, On, S3};

use super::{TestCoordinator, shard};
use crate::engine::Engine;
use crate::{Options, Shutdown, shift};

const IMAGES: usize = 40;
const SIDE: u32 = 4096;
/// Rows handed out at once.
const BAND: u32 = 32;

/// Takes a stated time for an image and renders nothing: its pixels are half noise, half plain, made beforehand.
struct SyntheticEngine {
    seconds: f64,
    pixels: Arc<Vec<u8>>,
    /// When each image was begun and ended.
    spans: Arc<Mutex<Vec<(Instant, Instant)>>>,
}

impl Engine for SyntheticEngine {
    fn load(&mut self, _folder: &Path, _: Memory) -> Result<ModelInfo, sana::Error> {
        Ok(ModelInfo {
            name: "synthetic".into(),
            weights_sha256: "0".repeat(64),
            native_size: SIDE,
            weights_bytes: 0,
            scheduler: "flow-dpm-solver++",
            family: sana::Family::Sana,
        })
    }

    fn dtype(&self) -> &'static str {
        "f32"
    }

    fn compute_size(&self, recipe: &Recipe) -> Result<(u32, u32), sana::Error> {
        Ok((recipe.width, recipe.height))
    }

    fn fit(&mut self, _: &Path, _: &Recipe) -> Result<Fit, sana::Error> {
        Ok(Fit::default())
    }

    fn render(&mut self, recipes: &[Recipe], _: &Fit, sink: &mut dyn Sink) -> Result<(), sana::Error> {
        let begun = Instant::now();
        let [recipe] = recipes else { panic!("one at a time") };
        let total = Duration::from_secs_f64(self.seconds);
        // Four fifths before the decoder, one in it.
        sink.progress(0, Progress::Denoising { step: 0, steps: recipe.steps });
        std::thread::sleep(total * 4 / 5);
        sink.progress(0, Progress::Decoding { rows: 0, height: recipe.height });
        let decoding = Instant::now();
        let band = recipe.width as usize * 3 * BAND as usize;
        let bands = self.pixels.chunks(band).count() as u32;
        for (number, band) in (1..).zip(self.pixels.chunks(band)) {
            sink.rows(0, band).map_err(sana::Error::Sink)?;
            let due = decoding + total / 5 * number / bands;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        self.spans.lock().unwrap().push((begun, Instant::now()));
        sink.ended(0, Ok(()));
        Ok(())
    }

    fn probe(&mut self) -> Result<(), sana::Error> {
        Ok(())
    }
}

fn pixels() -> Vec<u8> {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let row = SIDE as usize * 3;
    (0..row * SIDE as usize)
        .map(|at| if at % row < row / 2 { noise() } else { (at / row / 16) as u8 })
        .collect()
}

#[test]
#[ignore = "a benchmark"]
fn idle_share_of_a_device_with_a_slow_store() {
    let pixels = Arc::new(pixels());
    let s3 = S3::start();
    // No other thread of this process reads its environment yet.
    for (name, value) in s3.environment() {
        unsafe { std::env::set_var(name, value) };
    }
    println!("{IMAGES} pictures of {SIDE}x{SIDE}, {} MB of pixels each", pixels.len() / 1_000_000);
    println!("| seconds an image | put | idle | encode | store | report | MB a picture |");
    for (seconds, delay) in [(2.0, 0), (2.0, 300), (2.0, 3000), (1.0, 300)] {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(measure(&s3, &pixels, seconds, delay));
    }
}

async fn measure(s3: &S3, pixels: &Arc<Vec<u8>>, seconds: f64, delay: u64) {
    s3.heal();
    s3.inject(On::put("/farm/"), usize::MAX, Fault::Delay(Duration::from_millis(delay)));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model_index.json"), "{}").unwrap();
    let lease = |number: usize| {
        let output = format!("s3://farm/{seconds}-{delay}-{number}");
        let mut lease =
            shard(&number.to_string(), 10 * number as u64, &["x"; 10], Path::new("out"), folder.path());
        let settings = lease.settings.as_mut().unwrap();
        (settings.width, settings.height) = (SIDE, SIDE);
        Lease { output, ..lease }
    };
    let served = TestCoordinator::serve((0..IMAGES / 10).map(lease).collect()).await;
    let spans = Arc::new(Mutex::new(Vec::new()));
    let engine: Box<dyn Engine> =
        Box::new(SyntheticEngine { seconds, pixels: pixels.clone(), spans: spans.clone() });
    let (shutdown, options) = (Shutdown::default(), Options::new("bench", folder.path().into()));
    let worker = tokio::spawn(shift::run(
        served.channel.clone(),
        options,
        shutdown.clone(),
        vec![(crate::device::cpu(), engine)],
    ));
    for images in 1..=IMAGES {
        served.coordinator.until("the next result", |state| state.results.len() >= images).await;
    }
    let stats = served.coordinator.state().stats.clone();
    let bytes = served.coordinator.state().done(0).bytes;
    shutdown.soft.cancel();
    worker.await.unwrap().unwrap();
    let spans = spans.lock().unwrap();
    let wall = (spans.last().unwrap().1 - spans[0].0).as_secs_f64();
    // Also what the engine waited in the middle of an image.
    let idle = 1.0 - seconds * spans.len() as f64 / wall;
    let share = |name| 100.0 * stats.busy.get(name).copied().unwrap_or_default();
    println!(
        "| {seconds} | {delay} ms | {:.2} % | {:.0} % | {:.0} % | {:.1} % | {:.1} |",
        100.0 * idle,
        share("encode"),
        share("store"),
        share("report"),
        bytes as f64 / 1e6
    );
}
