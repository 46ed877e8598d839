//! `sanafarm worker`: render what a coordinator hands out.

use std::sync::Arc;

use sanafarm_net::ClientSettings;
use sanafarm_worker::{Options, OutboxSettings, Shutdown};

use crate::args::WorkerArgs;
use crate::connect::mistaken;
use crate::data_folder::DataFolder;
use crate::environment;
use crate::error::{Error, Exit};
use crate::models;
use crate::printer::Printer;
use crate::signals::Signals;
use crate::watching::{Role, Watching};

/// Renders until it is told to leave.
pub async fn run(args: WorkerArgs, printer: &Printer) -> Result<Exit, Error> {
    let address = args.coordinator.ok_or_else(|| {
        let hint = format!("name it with --coordinator ADDR or {}", environment::COORDINATOR);
        Error::mistake("no coordinator was named").hint(hint)
    })?;
    // A worker may start before its coordinator: it waits.
    let access = ClientSettings::from(args.access);
    let channel = access.connect_lazy(&address).await.map_err(|error| mistaken(&address, &error))?;
    let data = DataFolder::choose(args.data);
    let beside_cache = args.cache.cache.as_ref().map_or_else(|| data.outbox(), |cache| cache.join("outbox"));
    let models = models::options(args.cache, &data);
    let outbox =
        OutboxSettings { folder: args.outbox.outbox.unwrap_or(beside_cache), limit: args.outbox.outbox_size };
    let name = args.name.unwrap_or_else(host_name);
    let mut watching = Watching::begin(&args.watching, Role::Worker, &name).await?;
    let options = Options {
        devices: args.devices,
        labels: args.label.into_iter().collect(),
        outbox,
        uploads: args.outbox.uploads as usize,
        drain_timeout: args.leaving.drain_timeout,
        limits: args.leaving.limits(),
        notices: args.leaving.notices(),
        models,
        ..Options::new(name, data.models())
    };
    let kept_in = options.outbox.folder.clone();
    // Before something in it is made with the rights of any folder.
    if kept_in.starts_with(data.path()) {
        data.create()?;
    }
    let shutdown = Shutdown::default();
    let signals =
        Signals::listen(shutdown.clone(), "finishing the image in hand; again to stop now", printer)?;
    watching.show(Arc::new(options.monitor.clone()), None, None, printer)?;
    let summary = sanafarm_worker::run(channel, options, shutdown).await;
    signals.end_at_once();
    watching.close().await;
    let summary = summary.map_err(|error| ended(&address, &error))?;
    printer.note(format!("left after {} images and {} errors", summary.done, summary.failed));
    if summary.kept > 0 {
        printer.note(format!(
            "{} finished images wait in {}: start a worker of the same name to have them reported",
            summary.kept,
            kept_in.display()
        ));
    }
    Ok(Exit::Success)
}

/// Why the worker ended before it was told to.
fn ended(address: &str, error: &sanafarm_worker::Error) -> Error {
    let failed = Error::failure(format!("work for coordinator {address}")).caused_by(error);
    let failed = match error {
        sanafarm_worker::Error::Devices(_) => {
            failed.hint("name devices of this machine with --devices, or leave the choice to auto")
        }
        sanafarm_worker::Error::NoDevice(_) => failed
            .hint("finished images are safe; look after the devices of this machine before it renders again"),
        // It says what to do.
        sanafarm_worker::Error::OutboxInUse(_) => failed,
        sanafarm_worker::Error::Storage(_)
        | sanafarm_worker::Error::Coordinator(_)
        | sanafarm_worker::Error::Outbox(_)
        | sanafarm_worker::Error::Engine(_) => {
            failed.hint("finished images are safe; start the worker again when the cause is gone")
        }
    };
    Error { exit: Exit::of_worker(error), ..failed }
}

fn host_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.or_else(|| environment::filled("HOSTNAME")).unwrap_or_else(|| "worker".to_owned())
}
