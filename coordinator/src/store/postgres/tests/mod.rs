//! The conformance suite on PostgreSQL, and what only PostgreSQL has.

use std::sync::Arc;
use std::time::Duration;

use sanafarm_test_servers::Postgres;

use super::PostgresStore;
use crate::store::Store;
use crate::store::conformance::{Bench, conformance_suite};

mod guards;
mod names;
mod plans;
mod queries;
mod restarts;
mod together;

/// How long a call may wait for a connection: for ever.
const HOUR: Duration = Duration::from_secs(3600);

/// A server of its own for each test: nothing that one does can disturb another.
async fn fresh_store() -> (PostgresStore, Postgres) {
    let server = Postgres::start();
    let store = PostgresStore::open(&server.database("farm")).await.unwrap();
    (store, server)
}

async fn fresh() -> (Arc<dyn Store>, Postgres) {
    let (store, server) = fresh_store().await;
    (Arc::new(store), server)
}

/// Another coordinator's store on the same database.
async fn another(server: &Postgres) -> Bench {
    Bench::new(Arc::new(PostgresStore::open(&server.url("farm")).await.unwrap()))
}

mod suite {
    super::conformance_suite!(super::fresh);
}
