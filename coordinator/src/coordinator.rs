//! The coordinator as its callers see it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sanafarm_net::{Listener, ServerTls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::auth::{AuthFailures, AuthMode, Door, Gate, Limits};
use crate::farm::Farm;
use crate::live::postgres::PostgresWire;
use crate::live::redis::RedisWire;
use crate::live::relay::{Wire, relay};
use crate::monitor::Monitor;
use crate::options::{Database, Options};
use crate::store;
use crate::store::Store;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::{grpc, services};

/// Why a coordinator could not be opened or served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The folder for manifests on their way out.
    #[error("prepare folder {}: {source}", folder.display())]
    Scratch {
        /// Where it should be.
        folder: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The address of Redis. The error does not hold it: there may be a password in it.
    #[error("read the redis address: {0}; it looks like redis://host:6379")]
    Redis(#[from] redis::RedisError),
    /// The socket.
    #[error("listen: {0}")]
    Listen(std::io::Error),
    /// The wire.
    #[error("serve grpc: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The coordinator was closed.
    #[error("the coordinator is closed")]
    Closed,
}

/// A running coordinator: cheap to clone.
#[derive(Clone, Debug)]
pub struct Coordinator {
    farm: Arc<Farm>,
}

impl Coordinator {
    /// Opens the database, brings its tables up to date and starts the sweep.
    ///
    /// One process may have a SQLite file open at a time: the caller holds a lock on its folder. A PostgreSQL database
    /// may have any number of coordinators.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let (store, wire) = connect(&options).await?;
        empty_folder(options.scratch.clone()).await?;
        let farm = Arc::new(Farm::new(store, options));
        let recovered = farm.store.recover(farm.options.lease_duration, farm.store.clock()).await?;
        if recovered != store::records::Recovered::default() {
            tracing::info!(
                released = recovered.released,
                abandoned = recovered.abandoned,
                "took over from an earlier process"
            );
        }
        if let Some(wire) = wire {
            farm.tasks.spawn(relay(Arc::clone(&farm), wire));
        }
        services::start(&farm);
        Ok(Self { farm })
    }

    /// Opens an existing database to look only: all calls that change something are refused.
    pub async fn open_read_only(database: &Path) -> Result<Self, Error> {
        let store = SqliteStore::open_read_only(database).await?;
        let options = Options::file(database.to_owned());
        Ok(Self { farm: Arc::new(Farm::new(Arc::new(store), options)) })
    }

    /// Opens a database to make and end tokens only: no duty runs, and another process may have it open.
    pub async fn open_for_tokens(database: Database) -> Result<Self, Error> {
        let store: Arc<dyn Store> = match &database {
            Database::File(file) => Arc::new(SqliteStore::open(file).await?),
            Database::Server(url) => Arc::new(PostgresStore::open(url).await?),
        };
        let options = Options::new(database, PathBuf::new());
        Ok(Self { farm: Arc::new(Farm::new(store, options)) })
    }

    /// A channel to this coordinator inside the process, with no port. It connects again by itself.
    pub async fn local_channel(&self) -> Result<Channel, Error> {
        if self.farm.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        Ok(grpc::local_channel(&self.farm).await?)
    }

    /// Serves gRPC to everybody until `shutdown` is cancelled or the coordinator is closed, and then until running
    /// calls have ended.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Error> {
        self.serve_as(listener, None, self.door(AuthMode::Open, Limits::default()), shutdown).await
    }

    /// A way in for those of `mode`, as far as the limits go.
    pub fn door(&self, mode: AuthMode, limits: Limits) -> Door {
        Door(Arc::new(Gate::new(Arc::clone(&self.farm), mode, limits)))
    }

    /// The same, to those whom the door lets in, with TLS when there is a certificate.
    pub async fn serve_as(
        &self,
        listener: TcpListener,
        tls: Option<Arc<ServerTls>>,
        door: Door,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let listener = Listener::start(listener, tls).map_err(Error::Listen)?;
        Ok(grpc::serve(&self.farm, listener, door.0, shutdown).await?)
    }

    /// Callers that were turned away since it was opened.
    pub fn auth_failures(&self) -> Arc<AuthFailures> {
        Arc::clone(&self.farm.auth_failures)
    }

    /// Watches this coordinator, which is not ready any more once `leaving` is cancelled.
    pub fn monitor(&self, leaving: CancellationToken) -> Monitor {
        Monitor::new(Arc::clone(&self.farm), leaving)
    }

    /// Stops the sweep, ends open calls and closes the database.
    pub async fn close(self) {
        self.farm.stop.cancel();
        self.farm.tasks.close();
        self.farm.tasks.wait().await;
        self.farm.store.close().await;
    }
}

/// The store, and the wire to the other coordinators where there may be some.
async fn connect(options: &Options) -> Result<(Arc<dyn Store>, Option<Box<dyn Wire>>), Error> {
    let redis = match &options.redis {
        Some(url) => Some(Box::new(RedisWire::new(url.expose())?) as Box<dyn Wire>),
        None => None,
    };
    Ok(match &options.database {
        Database::File(file) => (Arc::new(SqliteStore::open(file).await?), redis),
        Database::Server(url) => {
            let store = PostgresStore::open(url).await?;
            let wire = match redis {
                Some(redis) => redis,
                None => Box::new(PostgresWire::new(url).map_err(store::Error::from)?),
            };
            (Arc::new(store), Some(wire))
        }
    })
}

/// What a killed process left there is of no use to anybody.
async fn empty_folder(folder: PathBuf) -> Result<(), Error> {
    let removed = match tokio::fs::remove_dir_all(&folder).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    removed.map_err(|source| Error::Scratch { folder, source })
}
