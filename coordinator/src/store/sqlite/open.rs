//! Opening the file and bringing its tables up to date.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Row, SqlSafeStr, SqliteConnection};
use tokio::sync::Semaphore;

use super::SqliteStore;
use crate::store::parts::ANALYSTS;
use crate::store::{Error, Result};

/// The tables, in the order in which they came to be.
const MIGRATIONS: [(i64, &str, &str); 14] = [
    (1, "tables", include_str!("../../../../migrations/sqlite/0001_tables.sql")),
    (2, "audit views", include_str!("../../../../migrations/sqlite/0002_audit_views.sql")),
    (3, "scheduling", include_str!("../../../../migrations/sqlite/0003_scheduling.sql")),
    (
        4,
        "audit workers and usage",
        include_str!("../../../../migrations/sqlite/0004_audit_workers_and_usage.sql"),
    ),
    (5, "after and deadline", include_str!("../../../../migrations/sqlite/0005_after_and_deadline.sql")),
    (6, "cut shards", include_str!("../../../../migrations/sqlite/0006_cut_shards.sql")),
    (7, "stories", include_str!("../../../../migrations/sqlite/0007_stories.sql")),
    (8, "forms and archives", include_str!("../../../../migrations/sqlite/0008_forms_and_archives.sql")),
    (9, "steering", include_str!("../../../../migrations/sqlite/0009_steering.sql")),
    (10, "tokens", include_str!("../../../../migrations/sqlite/0010_tokens.sql")),
    (11, "webhooks and backlog", include_str!("../../../../migrations/sqlite/0011_webhooks_and_backlog.sql")),
    (12, "speeds", include_str!("../../../../migrations/sqlite/0012_speeds.sql")),
    (13, "usage", include_str!("../../../../migrations/sqlite/0013_usage.sql")),
    (14, "refusals", include_str!("../../../../migrations/sqlite/0014_refusals.sql")),
];
const NEWEST: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// How long a connection waits for another program that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

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

/// What every connection that only reads has in common.
pub(super) fn reader_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .pragma("query_only", "ON")
        .busy_timeout(BUSY_TIMEOUT)
        // A slow question is its asker's, not something to log.
        .disable_statement_logging()
}

impl SqliteStore {
    /// Opens or creates the file and applies the migrations that it lacks.
    pub async fn open(file: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A committed result survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let opened = SqlitePoolOptions::new()
            .max_connections(1)
            .after_release(|connection, _| Box::pin(reusable(connection)))
            .connect_with(options)
            .await;
        let writer = opened.map_err(|error| open_error(file, &error))?;
        if let Err(error) = migrator().run(&writer).await {
            writer.close().await;
            return Err(migrate_error(file, error));
        }
        Self::with_reader(file, Some(writer)).await
    }

    /// Opens an existing file to look only.
    pub async fn open_read_only(file: &Path) -> Result<Self> {
        if !tokio::fs::try_exists(file).await.unwrap_or(false) {
            return Err(Error::Open {
                file: file.display().to_string(),
                reason: "there is no such file; is this the right data folder?".to_owned(),
            });
        }
        let store = Self::with_reader(file, None).await?;
        let row = sqlx::query("SELECT coalesce(max(version), 0) AS version FROM _sqlx_migrations")
            .fetch_one(&store.reader)
            .await
            .map_err(|error| open_error(file, &error))?;
        let found: i64 = row.try_get("version")?;
        let file = file.display().to_string();
        match found.cmp(&NEWEST) {
            std::cmp::Ordering::Less => Err(Error::Older { file, found, known: NEWEST }),
            std::cmp::Ordering::Equal => Ok(store),
            std::cmp::Ordering::Greater => Err(Error::Newer { file, found, known: NEWEST }),
        }
    }

    async fn with_reader(file: &Path, writer: Option<sqlx::SqlitePool>) -> Result<Self> {
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(reader_options(file))
            .await
            .map_err(|error| open_error(file, &error))?;
        Ok(Self { file: file.to_owned(), writer, reader, analysts: Arc::new(Semaphore::new(ANALYSTS)) })
    }
}

/// Whether the next transaction can begin on this connection. After some errors (disk full, I/O, out of memory,
/// interrupt) SQLite rolls back by itself, the rollback that follows fails, and the driver counts the transaction
/// as open for ever: the pool then closes the connection and opens another.
async fn reusable(connection: &mut SqliteConnection) -> std::result::Result<bool, sqlx::Error> {
    // The rollback of a dropped transaction is queued: it has run when the ping is answered.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

fn open_error(file: &Path, error: &sqlx::Error) -> Error {
    let reason = match error.as_database_error() {
        Some(database) => database.message().to_owned(),
        None => error.to_string(),
    };
    Error::Open { file: file.display().to_string(), reason }
}

fn migrate_error(file: &Path, error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(found) => {
            Error::Newer { file: file.display().to_string(), found, known: NEWEST }
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match Error::from(error) {
            Error::Database(error) => {
                Error::Open { file: file.display().to_string(), reason: error.to_string() }
            }
            known => known,
        },
        other => Error::Open { file: file.display().to_string(), reason: other.to_string() },
    }
}
