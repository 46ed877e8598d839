//! Progress of a job: a bar where standard error is a terminal, else a plain line now and then.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use sanafarm_proto::v1::{Job, Rendering};
use sanafarm_worker::Activity;

use crate::job_view::waits_for;
use crate::printer::Printer;
use crate::printer::amounts::count;

/// Shortest time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Takes the cursor some columns back.
const BACK: &str = "\x1b[3D";
/// A speed is told when it was measured for so long.
const MEASURED: Duration = Duration::from_secs(2);

/// Shows how far a job is.
#[derive(Debug)]
pub struct Progress {
    printer: Printer,
    bar: ProgressBar,
    told: Option<(Instant, u64)>,
    failed: u64,
}

impl Progress {
    /// Starts at what the job has already.
    pub fn start(job: &Job, printer: &Printer) -> Self {
        let there = job.done + job.failed;
        let bar = printer.bars().add(ProgressBar::new(job.images).with_style(style(
            printer.colour(),
            "images",
            there,
        )));
        bar.set_position(there);
        // Images of an earlier run say nothing about the speed of this one.
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { printer: printer.clone(), bar, told: None, failed: job.failed }
    }

    /// Shows the counters of a job.
    pub fn update(&mut self, job: &Job) {
        let position = job.done + job.failed;
        self.bar.set_length(job.images);
        self.bar.set_position(position);
        self.failed = job.failed;
        if let Some(first) = job.rendering.first() {
            self.say(&rendering(first, job.rendering.len() - 1));
        } else if let Some(waits) = waits_for(job) {
            self.say(&waits);
        }
        if self.bar.is_hidden() {
            self.tell(job, position);
        }
    }

    /// Shows what the devices are doing.
    pub fn activity(&self, activities: &[Activity]) {
        let mut busy = activities.iter().filter(|device| !device.stage.is_empty());
        let first = busy.next().map(words).unwrap_or_default();
        let others = others(busy.count());
        self.say(&format!("{first}{others}"));
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }

    /// Beside the bar, after what must not be overlooked.
    fn say(&self, text: &str) {
        self.bar.set_message(match self.failed {
            0 => text.to_owned(),
            failed => format!("{} failed  {text}", count(failed)),
        });
    }

    fn tell(&mut self, job: &Job, position: u64) {
        let due = match self.told {
            Some((at, told)) => at.elapsed() >= LINE_INTERVAL && told != position,
            None => true,
        };
        if due {
            self.told = Some((Instant::now(), position));
            let failed = if job.failed == 0 { String::new() } else { format!(", {} failed", job.failed) };
            let speed = job.images_per_minute.map(|speed| format!(", {speed} images/min"));
            let left = job.seconds_left.map(|seconds| {
                let left = Duration::from_secs(seconds as u64);
                format!(", {} left", HumanDuration(left))
            });
            let waits = waits_for(job).map(|waits| format!(", {waits}"));
            self.printer.note(format!(
                "{position} of {} images{failed}{}{}{}",
                job.images,
                waits.unwrap_or_default(),
                speed.unwrap_or_default(),
                left.unwrap_or_default()
            ));
        }
    }
}

/// What a worker of the farm does, and how many others do something too.
fn rendering(first: &Rendering, others: usize) -> String {
    let Rendering { worker, index, stage, step, steps } = first;
    let step = if stage == "denoise" { format!(" {step}/{steps}") } else { String::new() };
    let others = self::others(others);
    format!("{worker}: #{index} {stage}{step}{others}")
}

fn others(count: usize) -> String {
    if count > 0 { format!(" (and {count} more)") } else { String::new() }
}

/// Shows how much of a list was read, where standard error is a terminal.
#[derive(Clone, Debug)]
pub struct Reading {
    bar: ProgressBar,
}

impl Reading {
    /// Starts at the first row of the list that the user named so.
    pub fn start(list: &str, printer: &Printer) -> Self {
        let style = ProgressStyle::with_template("{spinner} reading {msg}: {human_pos} rows")
            .expect("the template is a constant");
        let bar = printer.bars().add(ProgressBar::new_spinner().with_style(style));
        bar.set_message(list.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// So many more rows were read.
    pub fn rows(&self, rows: usize) {
        self.bar.inc(rows as u64);
    }

    /// Takes it away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Shows how many of so many things were done, where standard error is a terminal.
#[derive(Debug)]
pub struct Counting {
    bar: ProgressBar,
}

impl Counting {
    /// Starts at none of `of`.
    pub fn start(of: u64, what: &'static str, printer: &Printer) -> Self {
        let bar = printer.bars().add(ProgressBar::new(of).with_style(style(printer.colour(), what, 0)));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// Another one is done.
    pub fn one_more(&self) {
        self.bar.inc(1);
    }

    /// So many are done.
    pub fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// What is done now.
    pub fn say(&self, message: &str) {
        self.bar.set_message(message.to_owned());
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn words(activity: &Activity) -> String {
    let Activity { index, stage, step, steps, device: _, job: _ } = activity;
    match *stage {
        "" => String::new(),
        "load" => "loading the model".to_owned(),
        "denoise" => format!("#{index} denoise {step}/{steps}"),
        stage => format!("#{index} {stage}"),
    }
}

/// A bar that stood at `there` when it was started: what was there before says nothing about speed.
fn style(colour: bool, what: &'static str, there: u64) -> ProgressStyle {
    let bar = if colour { "{bar:30.cyan/dim}" } else { "{bar:30}" };
    // A terminal echoes Ctrl-C where the cursor is: beyond the end of a line it would begin another one, and the bar above
    // would never be cleared.
    let template = format!("{bar} {{pos}}/{{len}} {what}  {{speed}}{{wide_msg}}{BACK}");
    let style = ProgressStyle::with_template(&template).expect("the template is a constant");
    let started = Instant::now();
    style.with_key("speed", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        if state.pos() > there && started.elapsed() >= MEASURED {
            // A bar has no way to report that it could not be drawn.
            let _ = write!(out, "{:.2} {what}/s  eta {:#}  ", state.per_sec(), HumanDuration(state.eta()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_is_told_in_a_few_words() {
        let (device, job) = ("cpu".to_owned(), "job".to_owned());
        let activity = |stage, step, steps| {
            words(&Activity { device: device.clone(), job: job.clone(), index: 3, stage, step, steps })
        };
        assert_eq!(activity("denoise", 7, 20), "#3 denoise 7/20");
        assert_eq!(activity("decode", 20, 20), "#3 decode");
        assert_eq!(activity("load", 0, 0), "loading the model");
    }

    #[test]
    fn a_worker_is_told_with_its_step() {
        let stage = "denoise".to_owned();
        let first = Rendering { worker: "w".to_owned(), index: 3, stage, step: 7, steps: 20 };
        assert_eq!(rendering(&first, 0), "w: #3 denoise 7/20");
        let decode = Rendering { stage: "decode".to_owned(), ..first };
        assert_eq!(rendering(&decode, 2), "w: #3 decode (and 2 more)");
    }

    #[test]
    fn both_styles_are_valid() {
        style(true, "images", 0);
        style(false, "tars", 3);
        Counting::start(3, "pictures", &Printer::new()).one_more();
        Reading::start("a.csv", &Printer::new()).finish();
    }
}
