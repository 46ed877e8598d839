//! What a worker measures of itself: how busy its devices and the stages behind them are, what waits in its outbox, and
//! what troubles it. Told to the coordinator with each renewal.
//!
//! Whoever works holds a [`Busy`] guard while it does; shares are those of the last minute.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sanafarm_proto::v1::{DeviceStats, WorkerStats};

/// Seconds that a share looks back.
const WINDOW: usize = 60;

/// Who says that the outbox is full: a worker that has no room for another picture takes no work.
pub(crate) const FULL: &str = "full outbox";

/// Shared by all parts of one worker.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    stages: Mutex<BTreeMap<&'static str, Arc<Stage>>>,
    devices: Mutex<BTreeMap<String, Arc<DeviceMeter>>>,
    outbox: Mutex<Kept>,
    /// By who says it.
    troubles: Mutex<BTreeMap<&'static str, String>>,
    standing: Mutex<Standing>,
}

/// How the worker stands with its coordinator.
#[derive(Debug, Default)]
struct Standing {
    /// It has a session.
    open: bool,
    /// Why it leaves; empty while it stays.
    leaving: String,
}

/// What lies in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) images: u64,
    pub(crate) bytes: u64,
}

impl Stats {
    /// The stage of this name, with one pair of hands until [`Stage::set_width`] says otherwise.
    pub(crate) fn stage(&self, name: &'static str) -> Arc<Stage> {
        lock(&self.stages).entry(name).or_default().clone()
    }

    /// The device of this id.
    pub(crate) fn device(&self, id: &str) -> Arc<DeviceMeter> {
        let mut devices = lock(&self.devices);
        if let Some(device) = devices.get(id) {
            return device.clone();
        }
        devices.entry(id.to_owned()).or_default().clone()
    }

    pub(crate) fn set_outbox(&self, kept: Kept) {
        *lock(&self.outbox) = kept;
    }

    /// What is wrong, as `who` sees it; `None` when nothing is any more.
    pub(crate) fn set_trouble(&self, who: &'static str, trouble: Option<String>) {
        let mut troubles = lock(&self.troubles);
        match trouble {
            Some(trouble) => troubles.insert(who, trouble),
            None => troubles.remove(who),
        };
    }

    /// The coordinator has let it in, and it renders on these devices.
    pub(crate) fn opened<'a>(&self, devices: impl Iterator<Item = &'a str>) {
        devices.for_each(|id| drop(self.device(id)));
        lock(&self.standing).open = true;
    }

    /// It leaves.
    pub(crate) fn leaves(&self, why: &str) {
        lock(&self.standing).leaving = why.to_owned();
    }

    /// Why it takes no work; empty when it does.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        {
            let standing = lock(&self.standing);
            if !standing.open {
                troubles.push("no session with the coordinator yet".to_owned());
            }
            if !standing.leaving.is_empty() {
                troubles.push(format!("leaving: {}", standing.leaving));
            }
        }
        troubles.extend(lock(&self.troubles).get(FULL).cloned());
        let now = Instant::now();
        let told: Vec<_> = lock(&self.devices).iter().map(|(id, device)| device.told(id, now)).collect();
        if !told.is_empty() && told.iter().all(|device| !device.broken.is_empty()) {
            troubles
                .extend(told.into_iter().map(|device| format!("{}: {}", device.device_id, device.broken)));
        }
        troubles
    }

    /// As the coordinator is told.
    pub(crate) fn snapshot(&self) -> WorkerStats {
        self.told(Instant::now())
    }

    fn told(&self, now: Instant) -> WorkerStats {
        let devices = lock(&self.devices).iter().map(|(id, device)| device.told(id, now)).collect();
        let busy =
            lock(&self.stages).iter().map(|(name, stage)| ((*name).to_owned(), stage.share(now))).collect();
        let outbox = *lock(&self.outbox);
        let troubles: Vec<String> = lock(&self.troubles).values().cloned().collect();
        WorkerStats {
            devices,
            busy,
            outbox_images: outbox.images,
            outbox_bytes: outbox.bytes,
            trouble: troubles.join("; "),
        }
    }
}

/// A stage of the work, done by one or several hands at once.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    meter: Mutex<Meter>,
}

impl Stage {
    /// How many can work at it at once: its share is that of all of them.
    pub(crate) fn set_width(&self, hands: u32) {
        lock(&self.meter).width = hands.max(1);
    }

    /// One of its hands works while this guard lives.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.enter(Instant::now());
        Busy { stages: vec![self.clone()] }
    }

    fn share(&self, now: Instant) -> f64 {
        lock(&self.meter).share(now)
    }

    fn enter(&self, now: Instant) {
        let mut meter = lock(&self.meter);
        meter.advance(now);
        meter.active += 1;
    }

    fn leave(&self, now: Instant) {
        let mut meter = lock(&self.meter);
        meter.advance(now);
        meter.active = meter.active.saturating_sub(1);
    }
}

/// Somebody works; to be dropped when they do not any more.
#[derive(Debug)]
#[must_use = "nobody is busy without its guard"]
pub(crate) struct Busy {
    stages: Vec<Arc<Stage>>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = Instant::now();
        self.stages.iter().for_each(|stage| stage.leave(now));
    }
}

/// What a device does.
#[derive(Debug, Default)]
pub(crate) struct DeviceMeter {
    /// Whatever it does.
    any: Arc<Stage>,
    parts: Mutex<BTreeMap<&'static str, Arc<Stage>>>,
    state: Mutex<DeviceState>,
}

#[derive(Debug, Default)]
struct DeviceState {
    batch: u32,
    resident: bool,
    broken: String,
    steps_down: u32,
}

impl DeviceMeter {
    /// It does this part of the work (`text`, `denoise`, `decode`, `load`) while the guard lives.
    pub(crate) fn busy(&self, part: &'static str) -> Busy {
        let stages = vec![self.any.clone(), lock(&self.parts).entry(part).or_default().clone()];
        let now = Instant::now();
        stages.iter().for_each(|stage| stage.enter(now));
        Busy { stages }
    }

    /// So many images are denoised at once.
    pub(crate) fn set_batch(&self, images: u32) {
        lock(&self.state).batch = images;
    }

    /// Whether all parts of the model stay on it.
    pub(crate) fn set_resident(&self, resident: bool) {
        lock(&self.state).resident = resident;
    }

    /// It had too little memory, and less was tried.
    pub(crate) fn stepped_down(&self) {
        lock(&self.state).steps_down += 1;
    }

    /// Nothing is rendered on it any more.
    pub(crate) fn broke(&self, why: &str) {
        lock(&self.state).broken = why.to_owned();
    }

    fn told(&self, id: &str, now: Instant) -> DeviceStats {
        let state = lock(&self.state);
        let parts = lock(&self.parts);
        DeviceStats {
            device_id: id.to_owned(),
            idle: 1.0 - self.any.share(now),
            busy: parts.iter().map(|(part, stage)| ((*part).to_owned(), stage.share(now))).collect(),
            batch: state.batch,
            resident: state.resident,
            broken: state.broken.clone(),
            steps_down: state.steps_down,
        }
    }
}

/// Seconds of work in each second of the window.
#[derive(Debug)]
struct Meter {
    origin: Instant,
    /// Up to when `seconds` are counted.
    counted: Instant,
    active: u32,
    width: u32,
    /// By second since `origin`, modulo the window.
    seconds: [f64; WINDOW],
}

impl Default for Meter {
    fn default() -> Self {
        let now = Instant::now();
        Self { origin: now, counted: now, active: 0, width: 1, seconds: [0.0; WINDOW] }
    }
}

impl Meter {
    /// Counts the time since the last call.
    fn advance(&mut self, now: Instant) {
        let window = Duration::from_secs(WINDOW as u64);
        if now.saturating_duration_since(self.counted) >= window {
            self.seconds = [0.0; WINDOW];
            self.counted = now.checked_sub(window).unwrap_or(now).max(self.counted);
        }
        while self.counted < now {
            let second = self.counted.duration_since(self.origin).as_secs();
            let end = self.origin + Duration::from_secs(second + 1);
            let until = end.min(now);
            let spent = until.duration_since(self.counted).as_secs_f64();
            self.seconds[second as usize % WINDOW] += spent * f64::from(self.active);
            self.counted = until;
            if until == end {
                self.seconds[(second + 1) as usize % WINDOW] = 0.0;
            }
        }
    }

    /// Share of the window, or of the time since the beginning, that was spent at work; of all hands together.
    fn share(&mut self, now: Instant) -> f64 {
        self.advance(now);
        let age = self.counted.duration_since(self.origin).as_secs_f64();
        // The second that has begun stands in the place of the oldest one.
        let counted = age.min((WINDOW - 1) as f64 + age.fract());
        if counted <= 0.0 {
            return 0.0;
        }
        (self.seconds.iter().sum::<f64>() / counted / f64::from(self.width)).clamp(0.0, 1.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No critical section above leaves its figures half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(meter: &Meter, seconds: f64) -> Instant {
        meter.origin + Duration::from_secs_f64(seconds)
    }

    fn work(meter: &mut Meter, from: f64, to: f64) {
        meter.advance(after(meter, from));
        meter.active += 1;
        meter.advance(after(meter, to));
        meter.active -= 1;
    }

    #[test]
    fn a_share_is_the_time_at_work_in_the_time_that_there_was() {
        let mut meter = Meter::default();
        work(&mut meter, 0.25, 0.75);
        let share = meter.share(after(&meter, 2.0));
        assert!((share - 0.25).abs() < 1e-9, "{share}");
        meter.width = 2;
        let share = meter.share(after(&meter, 2.0));
        assert!((share - 0.125).abs() < 1e-9, "{share}");
    }

    #[test]
    fn a_share_forgets_what_was_more_than_a_minute_ago() {
        let mut meter = Meter::default();
        work(&mut meter, 0.0, 30.0);
        let share = meter.share(after(&meter, 60.0));
        assert!((0.45..0.55).contains(&share), "{share}");
        for later in [95.0, 500.0, 501.5] {
            assert_eq!(meter.share(after(&meter, later)), 0.0, "{later}");
        }
        meter.advance(after(&meter, 600.0));
        meter.active += 1;
        let share = meter.share(after(&meter, 10_000.0));
        assert!((share - 1.0).abs() < 1e-6, "{share}");
    }

    #[test]
    fn what_a_worker_measures_is_told_under_its_names() {
        let stats = Stats::default();
        let _store = stats.stage("store").busy();
        let _denoise = stats.device("cpu").busy("denoise");
        stats.set_outbox(Kept { images: 2, bytes: 10 });
        stats.set_trouble("store", Some("out of reach".into()));
        stats.device("cpu").stepped_down();
        // They have been at it for the whole of the last minute.
        let told = stats.told(Instant::now() + Duration::from_secs(3600));
        assert!(told.busy["store"] > 0.99, "{told:?}");
        assert_eq!((told.outbox_images, told.outbox_bytes, told.trouble.as_str()), (2, 10, "out of reach"));
        let device = &told.devices[0];
        assert_eq!((device.device_id.as_str(), device.steps_down), ("cpu", 1));
        assert!(device.idle < 0.01 && device.busy["denoise"] > 0.99, "{device:?}");
        stats.set_trouble("store", None);
        assert_eq!(stats.snapshot().trouble, "");
    }
}
