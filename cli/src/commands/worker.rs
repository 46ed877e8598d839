//! `sanafarm worker`: render what a coordinator hands out.

use sanafarm_worker::{Options, Shutdown};

use crate::args::WorkerArgs;
use crate::connect::endpoint;
use crate::data_folder::DataFolder;
use crate::environment;
use crate::error::{Error, Exit};
use crate::printer::Printer;
use crate::signals::Signals;

/// Renders until it is told to leave.
pub async fn run(args: WorkerArgs, printer: &Printer) -> Result<Exit, Error> {
    let address = args.coordinator.or_else(|| environment::filled(environment::COORDINATOR));
    let address = address.ok_or_else(|| {
        let hint = format!("name it with --coordinator ADDR or {}", environment::COORDINATOR);
        Error::mistake("no coordinator was named").hint(hint)
    })?;
    // A worker may start before its coordinator: it waits.
    let channel = endpoint(&address)?.connect_lazy();
    let options = Options {
        name: args.name.unwrap_or_else(host_name),
        cache: args.cache.unwrap_or_else(|| DataFolder::choose(None).models()),
        job: None,
        device: args.device,
        labels: args.label.into_iter().collect(),
        activity: None,
    };
    let shutdown = Shutdown::default();
    let signals =
        Signals::listen(shutdown.clone(), "finishing the image in hand; again to stop now", printer)?;
    let summary = sanafarm_worker::run(channel, options, shutdown).await;
    signals.end_at_once();
    let summary = summary.map_err(|error| {
        Error::failure(format!("work for coordinator {address}"))
            .caused_by(&error)
            .hint("finished images are safe; start the worker again when the cause is gone")
    })?;
    printer.note(format!("left after {} images and {} errors", summary.done, summary.failed));
    Ok(Exit::Success)
}

fn host_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.or_else(|| environment::filled("HOSTNAME")).unwrap_or_else(|| "worker".to_owned())
}
