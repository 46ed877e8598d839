//! Connecting, and bringing the tables up to date.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, SqlSafeStr};
use tokio::sync::Semaphore;

use super::PostgresStore;
use super::life::Life;
use super::migrate::migrate;
use super::month::NO_MONTH;
use super::trouble::Trouble;
use crate::store::parts::ANALYSTS;
use crate::store::{Error, Result};

/// The tables, in the order in which they came to be.
pub(super) const MIGRATIONS: [(i64, &str, &str); 15] = [
    (1, "tables", include_str!("../../../../migrations/postgres/0001_tables.sql")),
    (2, "audit views", include_str!("../../../../migrations/postgres/0002_audit_views.sql")),
    (3, "claims and commits", include_str!("../../../../migrations/postgres/0003_claims_and_commits.sql")),
    (4, "reader", include_str!("../../../../migrations/postgres/0004_reader.sql")),
    (5, "after and deadline", include_str!("../../../../migrations/postgres/0005_after_and_deadline.sql")),
    (6, "cut shards", include_str!("../../../../migrations/postgres/0006_cut_shards.sql")),
    (7, "stories", include_str!("../../../../migrations/postgres/0007_stories.sql")),
    (8, "images by state", include_str!("../../../../migrations/postgres/0008_images_by_state.sql")),
    (9, "forms and archives", include_str!("../../../../migrations/postgres/0009_forms_and_archives.sql")),
    (10, "steering", include_str!("../../../../migrations/postgres/0010_steering.sql")),
    (11, "tokens", include_str!("../../../../migrations/postgres/0011_tokens.sql")),
    (
        12,
        "webhooks and backlog",
        include_str!("../../../../migrations/postgres/0012_webhooks_and_backlog.sql"),
    ),
    (13, "speeds", include_str!("../../../../migrations/postgres/0013_speeds.sql")),
    (14, "usage", include_str!("../../../../migrations/postgres/0014_usage.sql")),
    (15, "refusals", include_str!("../../../../migrations/postgres/0015_refusals.sql")),
];
const NEWEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Connections of a coordinator, besides those of its duties and of analysts.
const CONNECTIONS: u32 = 16;
/// The sweep, the purge, the call-off, and outputs that are published or finished at the same time: each holds one while it
/// works with the others.
const DUTIES: u32 = 12;
/// How long a call waits for a connection.
const TURN: Duration = Duration::from_secs(10);
/// A connection that was idle for this long is tested before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// How every connection of a coordinator is set. Its statements go from few rows to their neighbours by index, however
/// large the tables are. A plan made while a table was small is kept for long and must not read it whole. What waits
/// for a lock ends some time, and so does a transaction whose coordinator does not answer.
pub(super) const SETTINGS: &str = "SET TIME ZONE 'UTC'; SET enable_seqscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET random_page_cost = 1.1; SET max_parallel_workers_per_gather = 0; SET jit = off; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '60s'";

fn migrator() -> Migrator {
    first_migrations(MIGRATIONS.len())
}

/// The first so many migrations.
pub(super) fn first_migrations(count: usize) -> Migrator {
    let first = MIGRATIONS.into_iter().take(count).map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(first.collect())
}

impl PostgresStore {
    /// Connects to the database of this URL, such as `postgres://user:password@host:5432/farm`, and applies the
    /// migrations that it lacks. `?sslmode=verify-full&sslrootcert=ca.pem` and libpq's other settings for TLS hold;
    /// what the URL leaves out comes from libpq's environment variables.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, CONNECTIONS, TURN).await
    }

    /// The same, with so many connections at most, for which a call waits so long.
    pub(super) async fn open_with(url: &str, connections: u32, turn: Duration) -> Result<Self> {
        let (options, place) = read_url(url)?;
        let mut connection = options.connect().await.map_err(|error| open_error(&place, &error))?;
        // Others that start now wait for an advisory lock, which goes with the connection if this fails.
        migrate(&mut connection, &migrator()).await.map_err(|error| migrate_error(&place, error))?;
        sqlx::query("SELECT admit_reader()")
            .execute(&mut connection)
            .await
            .map_err(|error| open_error(&place, &error))?;
        close(connection).await;
        let life = Life::begin(options.clone()).await.map_err(|error| open_error(&place, &error))?;
        let store = Self::with_pools(options, place, connections, turn, life);
        store.clock.compare(&store.pool).await?;
        store.months(store.clock.now()).await?;
        Ok(store)
    }

    fn with_pools(
        options: PgConnectOptions,
        place: String,
        connections: u32,
        turn: Duration,
        life: Life,
    ) -> Self {
        let trouble = Arc::new(Trouble::new());
        Self {
            pool: pool(&options, connections, turn, &trouble),
            duties: pool(&options, DUTIES, TURN, &trouble),
            options,
            place,
            life: Arc::new(life),
            clock: Arc::default(),
            trouble,
            month: Arc::new(AtomicI64::new(NO_MONTH)),
            analysts: Arc::new(Semaphore::new(ANALYSTS)),
        }
    }
}

/// Connects when somebody first wants a connection.
fn pool(options: &PgConnectOptions, connections: u32, turn: Duration, trouble: &Arc<Trouble>) -> PgPool {
    let trouble = Arc::clone(trouble);
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(turn)
        // A question and its answer more for each call: only where it may be needed.
        .test_before_acquire(false)
        .before_acquire(move |connection, state| {
            let idle_since = Instant::now().checked_sub(state.idle_for);
            let test = state.idle_for >= IDLE || idle_since.is_none_or(|since| trouble.was_after(since));
            let trouble = Arc::clone(&trouble);
            Box::pin(async move {
                if test {
                    connection.ping().await.inspect_err(|_| trouble.note())?;
                }
                Ok(true)
            })
        })
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(SETTINGS).execute(connection).await?;
                Ok(())
            })
        })
        .connect_lazy_with(options.clone())
}

/// The options of a URL, and how they are told to people: without the password.
fn read_url(url: &str) -> Result<(PgConnectOptions, String)> {
    let wrong = |reason: String| Error::Open { file: "postgres://".to_owned(), reason };
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(wrong("the address must look like postgres://user@host:5432/database".to_owned()));
    }
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| wrong(error.to_string()))?;
    let options =
        if options.get_application_name().is_some() { options } else { options.application_name("sanafarm") };
    let database = options.get_database().unwrap_or(options.get_username());
    let place = match options.get_socket() {
        Some(socket) => {
            format!("postgres://{}@/{database}?host={}", options.get_username(), socket.display())
        }
        None => format!(
            "postgres://{}@{}:{}/{database}",
            options.get_username(),
            options.get_host(),
            options.get_port()
        ),
    };
    Ok((options, place))
}

async fn close(connection: PgConnection) {
    // It has done its work: nothing is lost when it does not hear the goodbye.
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "close a connection");
    }
}

fn open_error(place: &str, error: &sqlx::Error) -> Error {
    let reason = match error.as_database_error() {
        Some(database) => database.message().to_owned(),
        None => error.to_string(),
    };
    Error::Open { file: place.to_owned(), reason }
}

fn migrate_error(place: &str, error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(found) => Error::Newer { file: place.to_owned(), found, known: NEWEST },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => open_error(place, &error),
        other => Error::Open { file: place.to_owned(), reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_told_to_nobody() {
        let (_, place) = read_url("postgres://ann:geheim@db.example:5433/farm?sslmode=require").unwrap();
        assert_eq!(place, "postgres://ann@db.example:5433/farm");
        for wrong in [
            "postgres://ann:geheim@db:port/farm",
            "mysql://ann:geheim@db/farm",
            "postgres://ann:geheim@db/?sslmode=x",
        ] {
            let error = format!("{:?}", read_url(wrong).unwrap_err());
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
