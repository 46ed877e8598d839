//! `sanafarm estimate`, and the dry runs of `submit` and `render`: what a list would take.

use jiff::Timestamp;
use sanafarm_proto::v1::job_service_client::JobServiceClient;
use serde_json::{Value, json};

use super::timing::find_jobs;
use crate::args::{EstimateArgs, SubmissionArgs, TimingArgs};
use crate::connect::Connection;
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::job_view::settings_json;
use crate::printer::{Printer, Table, amounts};
use crate::submission::{Estimate, GoodList, GroupEstimate, Submission, report_skipped, submitted_model};

/// Groups that are shown one by one.
const MAX_GROUPS_SHOWN: usize = 20;

/// Reads a list and tells what it would take.
pub async fn run(args: EstimateArgs, printer: &Printer) -> Result<Exit, Error> {
    let data = DataFolder::choose(args.place.data.clone());
    let history = Connection::history(&args.place.into(), &data).await?;
    rehearse(&args.submission, args.timing, &data, history, args.json, printer).await
}

/// Does all that a submission does but the sending. Lines that are wrong are all told, and end it as a mistake.
pub async fn rehearse(
    args: &SubmissionArgs,
    mut timing: TimingArgs,
    data: &DataFolder,
    history: Option<Connection>,
    json: bool,
    printer: &Printer,
) -> Result<Exit, Error> {
    if let Some(passed) = timing.deadline.filter(|deadline| *deadline <= Timestamp::now()) {
        return Err(Error::mistake(format!("the deadline {passed:.0} has passed")).hint("give a later one"));
    }
    // The database of this folder may be another one than that of the coordinator.
    match history.as_ref().filter(|connection| connection.is_remote()) {
        Some(connection) => find_jobs(&mut timing, &connection.channel).await?,
        None if timing.after.is_empty() && timing.after_any.is_empty() => {}
        None => printer.note("no coordinator was asked whether the jobs that come before are there"),
    }
    data.create()?;
    let list = GoodList::read_good_lines(args, data, printer).await?;
    let model = submitted_model(args, data, printer).await?;
    let submission = Submission::new(args, list, &model, printer).await?;
    let client = history.as_ref().map(|connection| JobServiceClient::new(connection.channel.clone()));
    let mut estimate = submission.estimate(client).await?;
    if let Some(connection) = history {
        if !connection.is_remote() {
            // Workers of another time: nobody serves this database now.
            estimate.workers = None;
        }
        connection.close().await;
    }
    if json {
        printer.data(object(&estimate, &timing, args.skip_invalid))?;
    } else {
        for (name, value) in lines(&estimate, &timing) {
            printer.data(format!("{name:11} {value}"))?;
        }
        groups(&estimate)?;
    }
    if args.skip_invalid || estimate.skipped.count == 0 {
        report_skipped(&estimate.skipped, printer);
        return Ok(Exit::Success);
    }
    let skipped = &estimate.skipped;
    let error = Error::mistake(format!("{}: {} lines are invalid", estimate.list, skipped.count));
    let error = skipped.first.iter().cloned().fold(error, Error::because);
    let more = skipped.rows - skipped.first.len() as u64;
    let error = if more > 0 { error.because(format!("and {more} more")) } else { error };
    Err(error.hint("mend them, or skip bad lines with --skip-invalid"))
}

fn lines(estimate: &Estimate, timing: &TimingArgs) -> Vec<(&'static str, String)> {
    let images = estimate.images();
    let mut lines = vec![
        ("list", estimate.list.clone()),
        ("rows", amounts::count(estimate.rows)),
        ("images", amounts::count(images)),
        ("duplicates", amounts::count(estimate.duplicates)),
        ("groups", amounts::count(estimate.groups.len() as u64)),
        ("shards", amounts::count(estimate.shards())),
    ];
    let told = |amount: Option<String>, unknown: u64| match (amount, unknown) {
        (None, _) => "not known: nothing like it was rendered yet".to_owned(),
        (Some(amount), 0) => amount,
        (Some(amount), unknown) => {
            let known = amounts::counted(images - unknown, "image");
            format!("at least {amount}, for {known}; nothing like the others was rendered yet")
        }
    };
    let time = told(estimate.seconds().map(amounts::duration), estimate.unmeasured());
    let scaled = match estimate.scaled() {
        0 => String::new(),
        some => format!("; {} by those of another size or number of steps", amounts::counted(some, "image")),
    };
    lines.push(("device time", format!("{time}{scaled}")));
    lines.push(("bytes", told(estimate.bytes().map(amounts::bytes), estimate.unweighed())));
    if let Some(workers) = estimate.workers {
        let there = match farm_seconds(estimate) {
            Some(seconds) if estimate.unmeasured() > 0 => {
                format!("{workers}, which take at least {}", amounts::duration(seconds))
            }
            Some(seconds) => format!("{workers}, which take about {}", amounts::duration(seconds)),
            None => workers.to_string(),
        };
        lines.push(("workers", there));
    }
    lines.extend(timing.after.iter().map(|job| ("after", job.clone())));
    lines.extend(timing.after_any.iter().map(|job| ("after", format!("{job} (any end)"))));
    if let Some(deadline) = timing.deadline {
        let spare = spare_seconds(estimate, timing).map(|spare| match spare {
            0.0.. => format!(", {} to spare", amounts::duration(spare)),
            _ => format!(", about {} too early", amounts::duration(-spare)),
        });
        lines.push(("deadline", format!("{deadline:.0}{}", spare.unwrap_or_default())));
    }
    lines
}

/// What is left at the deadline if the workers that are connected now, all of them, begin now.
fn spare_seconds(estimate: &Estimate, timing: &TimingArgs) -> Option<f64> {
    let left = timing.deadline?.duration_since(Timestamp::now()).as_secs_f64();
    Some(left - farm_seconds(estimate)?)
}

/// What the workers that are connected now would take, all of them at this one job.
fn farm_seconds(estimate: &Estimate) -> Option<f64> {
    let workers = estimate.workers.filter(|workers| *workers > 0)?;
    Some(estimate.seconds()? / workers as f64)
}

fn groups(estimate: &Estimate) -> Result<(), Error> {
    let columns = ["size", "steps", "guidance", "images", "shards", "s/image", "bytes/image", "measured on"];
    let mut table = Table::on_stdout(&columns);
    let row = |group: &GroupEstimate| {
        let (settings, measured) = (&group.settings, &group.measured);
        vec![
            format!("{}x{}", settings.width, settings.height),
            settings.steps.to_string(),
            settings.guidance.to_string(),
            amounts::count(group.images),
            amounts::count(group.shards),
            measured.seconds_per_image.map(|seconds| format!("{seconds:.2}")).unwrap_or_default(),
            measured.bytes_per_image.map(amounts::bytes).unwrap_or_default(),
            measured_on(group),
        ]
    };
    estimate.groups.iter().take(MAX_GROUPS_SHOWN).try_for_each(|group| table.row(row(group)))?;
    if estimate.groups.len() > MAX_GROUPS_SHOWN {
        table.row(vec![format!("and {} more", estimate.groups.len() - MAX_GROUPS_SHOWN)])?;
    }
    table.finish()
}

/// The images that the figures of a group come from.
fn measured_on(group: &GroupEstimate) -> String {
    let measured = &group.measured;
    match (measured.images, group.is_scaled()) {
        (0, _) => String::new(),
        (images, false) => amounts::count(images),
        (images, true) => {
            let megapixels = measured.scaled_from_pixels as f64 / 1e6;
            let (images, steps) = (amounts::count(images), measured.scaled_from_steps);
            format!("{images} of {megapixels:.3} MP, {steps} steps")
        }
    }
}

fn object(estimate: &Estimate, timing: &TimingArgs, skip_invalid: bool) -> Value {
    let group = |group: &GroupEstimate| {
        let mut object = settings_json(&group.settings);
        object["images"] = json!(group.images);
        object["shards"] = json!(group.shards);
        object["seconds_per_image"] = json!(group.measured.seconds_per_image);
        object["bytes_per_image"] = json!(group.measured.bytes_per_image);
        let measured = &group.measured;
        object["measured_images"] = json!(if group.is_scaled() { 0 } else { measured.images });
        object["scaled_from"] = match group.is_scaled() {
            true => json!({
                "pixels": measured.scaled_from_pixels,
                "steps": measured.scaled_from_steps,
                "images": measured.images,
            }),
            false => Value::Null,
        };
        object
    };
    let skipped = if skip_invalid { "skipped" } else { "invalid" };
    json!({
        "list": estimate.list,
        "model": estimate.spec.model,
        "output": estimate.spec.output,
        "rows": estimate.rows,
        "images": estimate.images(),
        "duplicates": estimate.duplicates,
        "shards": estimate.shards(),
        "seconds": estimate.seconds(),
        "bytes": estimate.bytes(),
        "unmeasured_images": estimate.unmeasured(),
        "scaled_images": estimate.scaled(),
        "workers": estimate.workers,
        "farm_seconds": farm_seconds(estimate),
        "after": timing.after,
        "after_any": timing.after_any,
        "deadline": timing.deadline.map(|deadline| deadline.to_string()),
        "spare_seconds": spare_seconds(estimate, timing),
        "groups": estimate.groups.iter().map(group).collect::<Vec<_>>(),
        skipped: estimate.skipped.first,
        format!("{skipped}_lines"): estimate.skipped.count,
    })
}

#[cfg(test)]
mod tests {
    use sanafarm_proto::v1::{JobSpec, Measured};

    use super::*;
    use crate::submission::Skipped;

    fn told(measured: [Measured; 2]) -> Vec<(&'static str, String)> {
        let group =
            |measured| GroupEstimate { settings: Default::default(), images: 10, shards: 1, measured };
        let estimate = Estimate {
            list: "a.csv".to_owned(),
            spec: JobSpec::default(),
            rows: 20,
            duplicates: 0,
            groups: measured.map(group).into(),
            skipped: Skipped::default(),
            workers: Some(2),
        };
        let lines = lines(&estimate, &TimingArgs::default());
        lines.into_iter().filter(|(name, _)| ["device time", "bytes", "workers"].contains(name)).collect()
    }

    #[test]
    fn a_sum_that_lacks_something_is_the_least() {
        let known = Measured {
            seconds_per_image: Some(2.0),
            bytes_per_image: Some(1e6),
            images: 7,
            ..Measured::default()
        };
        let rest = "for 10 images; nothing like the others was rendered yet";
        let wanted = [
            ("device time", format!("at least 20.0 s, {rest}")),
            ("bytes", format!("at least 10.00 MB, {rest}")),
            ("workers", "2, which take at least 10.0 s".to_owned()),
        ];
        assert_eq!(told([known, Measured::default()]), wanted);
        let scaled =
            Measured { scaled_from_pixels: 64 * 64, scaled_from_steps: 4, bytes_per_image: None, ..known };
        let wanted = [
            ("device time", "40.0 s; 10 images by those of another size or number of steps".to_owned()),
            ("bytes", format!("at least 10.00 MB, {rest}")),
            ("workers", "2, which take about 20.0 s".to_owned()),
        ];
        assert_eq!(told([known, scaled]), wanted);
    }
}
