//! `sanafarm coordinator`: serve jobs to workers and clients.

use std::time::Duration;

use sanafarm_coordinator::{Coordinator, Options};
use sanafarm_worker::Shutdown;
use tokio::net::TcpListener;

use crate::args::CoordinatorArgs;
use crate::data_folder::DataFolder;
use crate::error::{Error, Exit};
use crate::printer::Printer;
use crate::signals::Signals;

/// Serves until it is told to stop. Prints `listening on ADDR` when it can be reached.
pub async fn run(args: CoordinatorArgs, printer: &Printer) -> Result<Exit, Error> {
    let listener = listen(&args.listen, args.insecure).await?;
    let data = DataFolder::choose(args.data);
    data.create()?;
    let _lock = data.lock()?;
    let failed = |error: sanafarm_coordinator::Error| {
        Error::failure(format!("serve the database {}", data.database().display())).caused_by(&error)
    };
    let lease_duration = Duration::from_secs(args.lease_seconds);
    let options = Options { lease_duration, redis: args.redis, ..Options::file(data.database()) };
    let coordinator = Coordinator::open(options).await.map_err(failed)?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::failure(format!("listen on {}", args.listen)).caused_by(&error))?;
    let shutdown = Shutdown::default();
    let signals = Signals::listen(shutdown.clone(), "ending open calls; again to stop now", printer)?;
    printer.data(format!("listening on {address}"))?;
    let served = tokio::select! {
        served = coordinator.serve(listener, shutdown.soft.clone()) => served.map_err(failed),
        () = shutdown.hard.cancelled() => Ok(()),
    };
    signals.end_at_once();
    coordinator.close().await;
    served.map(|()| Exit::Success)
}

async fn listen(address: &str, insecure: bool) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    let wrong = |error: &std::io::Error| {
        let error_text = Error::mistake(format!("listen on {address}")).caused_by(error);
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                error_text.hint("another program serves there: stop it, or name another port with --listen")
            }
            _ => error_text.hint("name an address of this machine, such as --listen 127.0.0.1:7070"),
        }
    };
    let listener = listener.map_err(|error| wrong(&error))?;
    let bound = listener.local_addr().map_err(|error| wrong(&error))?;
    if !bound.ip().is_loopback() && !insecure {
        return Err(Error::mistake(format!("{address} can be reached from other machines"))
            .because("there is no TLS and no password yet")
            .hint("on a network that you trust, add --insecure"));
    }
    Ok(listener)
}
