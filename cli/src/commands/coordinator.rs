//! `sanafarm coordinator`: serve jobs to workers and clients.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sanafarm_coordinator::{Coordinator, Database, Options};
use sanafarm_worker::Shutdown;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::serving::serving;
use crate::args::CoordinatorArgs;
use crate::data_folder::{DataFolder, Lock};
use crate::error::{Error, Exit};
use crate::printer::Printer;
use crate::signals::Signals;
use crate::watching::{Role, Watching};

/// Serves until it is told to stop. Prints `listening on ADDR` when it can be reached.
pub async fn run(args: CoordinatorArgs, printer: &Printer) -> Result<Exit, Error> {
    let webhooks = args.webhooks.webhooks()?;
    let listener = listen(&args.listen).await?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::failure(format!("listen on {}", args.listen)).caused_by(&error))?;
    let mut watching = Watching::begin(&args.watching, Role::Coordinator, &address.to_string()).await?;
    let mut addresses = vec![(args.listen.as_str(), address)];
    addresses.extend(args.watching.http.as_deref().zip(watching.address()));
    let serving = serving(&args.serving, &addresses, printer).await?;
    let database = args.database.map(|url| url.expose().to_owned());
    let scheme = if serving.tls.is_some() { "https://" } else { "" };
    let place = Place::take(database, args.data, &format!("{scheme}{address}"))?;
    let failed = |error: sanafarm_coordinator::Error| {
        Error::failure(format!("serve the database {}", place.name)).caused_by(&error)
    };
    let lease_duration = Duration::from_secs(args.lease_seconds);
    let (redis, presign) = (args.redis, args.presign);
    let options = Options {
        lease_duration,
        redis,
        presign,
        webhooks,
        max_prompts: args.serving.max_prompts,
        ..place.options.clone()
    };
    let coordinator = Coordinator::open(options).await.map_err(failed)?;
    let shutdown = Shutdown::default();
    let door = coordinator.door(serving.auth, args.serving.limits());
    let monitor = Arc::new(coordinator.monitor(shutdown.soft.clone()));
    watching.show(monitor, Some(door.clone()), serving.http_tls, printer)?;
    let signals = Signals::listen(shutdown.clone(), "ending open calls; again to stop now", printer)?;
    printer.data(format!("listening on {address}"))?;
    let served = tokio::select! {
        served = coordinator.serve_as(listener, serving.tls, door, shutdown.soft.clone()) => served.map_err(failed),
        () = shutdown.hard.cancelled() => Ok(()),
    };
    signals.end_at_once();
    coordinator.close().await;
    watching.close().await;
    served.map(|()| Exit::Success)
}

/// Where the truth is, held for this process as far as it must be.
struct Place {
    /// For people; without a password.
    name: String,
    options: Options,
    /// Of the data folder, which has one user at a time.
    _lock: Option<Lock>,
    /// Of a coordinator that has no data folder.
    _scratch: Option<TempDir>,
}

impl Place {
    /// For a coordinator that serves at `address`.
    fn take(database: Option<String>, data: Option<PathBuf>, address: &str) -> Result<Self, Error> {
        let Some(url) = database.filter(|url| !url.is_empty()) else {
            let data = DataFolder::choose(data);
            data.create()?;
            let lock = data.lock("coordinator", Some(address))?;
            let options = Options::file(data.database());
            return Ok(Self {
                name: data.database().display().to_string(),
                options,
                _lock: Some(lock),
                _scratch: None,
            });
        };
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(Error::mistake("the database is no PostgreSQL URL")
                .hint("write postgres://user@host:5432/database; for a SQLite file use --data DIR"));
        }
        let scratch = tempfile::tempdir().map_err(|error| {
            Error::failure("make a folder for manifests on their way out")
                .caused_by(&error)
                .hint("set TMPDIR to a folder that can be written")
        })?;
        let options = Options::new(Database::Server(url), scratch.path().join("manifests"));
        Ok(Self { name: "that was named".to_owned(), options, _lock: None, _scratch: Some(scratch) })
    }
}

async fn listen(address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| {
        let error_text = Error::mistake(format!("listen on {address}")).caused_by(&error);
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                error_text.hint("another program serves there: stop it, or name another port with --listen")
            }
            _ => error_text.hint("name an address of this machine, such as --listen 127.0.0.1:7070"),
        }
    })
}
