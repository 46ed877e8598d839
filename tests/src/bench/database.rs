//! What the database itself knows: its version, its transactions, and whether each image has one result.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use crate::error::Error;

/// Settings that decide what a commit costs.
const SETTINGS: [&str; 6] =
    ["fsync", "full_page_writes", "max_wal_size", "shared_buffers", "synchronous_commit", "wal_level"];

/// A second result of an image would be a second row of it.
const VERIFY: &str = "SELECT i.*, a.* \
    FROM (SELECT count(*), count(DISTINCT image_index), count(*) FILTER (WHERE state = 'done') \
        FROM audit_images WHERE CAST(job_id AS text) = $1) AS i, \
    (SELECT count(*) FILTER (WHERE outcome = 'held'), CAST(coalesce(max(images), 0) AS bigint) \
        FROM audit_attempts WHERE CAST(job_id AS text) = $1) AS a";

/// A connection of the benchmark's own.
#[derive(Debug)]
pub enum Database {
    /// A PostgreSQL server.
    Postgres(PgPool),
    /// A SQLite file.
    File(SqlitePool),
}

/// Whether this names a server; a path of a file otherwise.
pub fn is_url(database: &str) -> bool {
    database.starts_with("postgres://") || database.starts_with("postgresql://")
}

impl Database {
    /// Connects.
    pub async fn open(database: &str) -> Result<Self, Error> {
        let failed = Error::database("open the database");
        if is_url(database) {
            let pool = PgPoolOptions::new().max_connections(1).connect(database).await;
            return Ok(Self::Postgres(pool.map_err(failed)?));
        }
        let options = SqliteConnectOptions::new().filename(Path::new(database)).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        Ok(Self::File(pool.map_err(failed)?))
    }

    /// Name and version.
    pub async fn version(&self) -> Result<String, Error> {
        let failed = Error::database("ask for the version");
        match self {
            Self::Postgres(pool) => {
                let version: Result<String, _> =
                    sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(pool).await;
                Ok(format!("PostgreSQL {}", version.map_err(failed)?))
            }
            Self::File(pool) => {
                let version: Result<String, _> =
                    sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await;
                Ok(format!("SQLite {}", version.map_err(failed)?))
            }
        }
    }

    /// Settings of a server that decide what a commit costs.
    pub async fn settings(&self) -> Result<BTreeMap<String, String>, Error> {
        let Self::Postgres(pool) = self else { return Ok(BTreeMap::new()) };
        let settings: Result<Vec<(String, String)>, _> =
            sqlx::query_as("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)")
                .bind(&SETTINGS[..])
                .fetch_all(pool)
                .await;
        Ok(settings.map_err(Error::database("ask for settings"))?.into_iter().collect())
    }

    /// Transactions that ended in this database since it was made, as far as its processes have told; none of a
    /// file.
    pub async fn transactions(&self) -> Result<Option<i64>, Error> {
        let Self::Postgres(pool) = self else { return Ok(None) };
        let count: Result<i64, _> = sqlx::query_scalar(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()",
        )
        .fetch_one(pool)
        .await;
        count.map(Some).map_err(Error::database("count transactions"))
    }

    /// Insists that each image of the job has exactly one result, that it is done, and that no lease is left. Gives the
    /// number of images of its largest shard.
    pub async fn verify(&self, job: &str, images: u64) -> Result<i64, Error> {
        let (rows, distinct, done, held, largest) = match self {
            Self::Postgres(pool) => sqlx::query_as(VERIFY).bind(job).fetch_one(pool).await,
            Self::File(pool) => sqlx::query_as(VERIFY).bind(job).fetch_one(pool).await,
        }
        .map_err(Error::database("look for the results"))?;
        let found: [i64; 3] = [rows, distinct, done];
        let held: i64 = held;
        if found.iter().any(|count| u64::try_from(*count) != Ok(images)) || held != 0 {
            return Err(Error::Farm(format!(
                "of {images} images SQL finds {rows} rows with {distinct} indices, {done} of them done, and {held} \
                 leases that are held: not one result each"
            )));
        }
        Ok(largest)
    }
}
