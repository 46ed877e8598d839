//! One person with one machine: nobody goes on with a job in the background, so each command says how to go on.

use sanafarm_proto::v1::{Job, JobState};

use crate::connect::Connection;
use crate::data_folder::DataFolder;
use crate::job_view::has_ended;
use crate::printer::Printer;

/// After a change in a data folder: what has it take effect.
pub fn tell_next(job: &Job, data: &DataFolder, printer: &Printer) {
    if job.state() == JobState::Paused {
        let lets = format!("`sanafarm resume {}{}`", job.job_id, data.option());
        printer.note(format!("{lets} lets it go on, with the same `sanafarm render` command again"));
    } else if !has_ended(job) {
        printer.note("to go on with it, run the same `sanafarm render` command again");
    }
}

/// Says so when some of these jobs wait for somebody to run their commands again.
pub fn tell_all_abandoned(connection: &Connection, jobs: &[Job], printer: &Printer) {
    let left = jobs.iter().filter(|job| !has_ended(job) && job.state() != JobState::Paused).count();
    if connection.idle_data().is_some() && left > 0 {
        let which = if left == 1 {
            "the job that is not finished".to_owned()
        } else {
            format!("the {left} jobs that are not finished")
        };
        printer.note(format!("nobody renders {which}: the same `sanafarm render` command goes on with it"));
    }
}

/// Says so when a job waits for somebody to run its command again: whether it does.
pub fn tell_abandoned(connection: &Connection, job: &Job, printer: &Printer) -> bool {
    let Some(data) = connection.idle_data().filter(|_| !has_ended(job)) else { return false };
    if job.state() == JobState::Paused {
        tell_next(job, data, printer);
    } else {
        printer.note("nobody renders it now: the same `sanafarm render` command goes on with it");
    }
    true
}
