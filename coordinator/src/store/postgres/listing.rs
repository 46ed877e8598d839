//! The objects that an output may hold. On a connection of its own: they are as many as its pictures, and their reader may be
//! slow.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, try_unfold};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Row};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use uuid::Uuid;

use super::PostgresStore;
use super::codec::{unsigned, word};
use super::open::SETTINGS;
use crate::domain::id::JobId;
use crate::store::parts::{PART_ROWS, TURN};
use crate::store::records::Listed;
use crate::store::{Error, Result};

/// What images `i` of jobs `j` are to the database, with their results `r`.
const STATE: &str = "CASE WHEN r.state = 'done' THEN 'done' WHEN j.open THEN 'pending' ELSE 'dead' END";
/// The objects of output `$1`; `$2` are the names of what is written about the pictures. Merging is cheaper here than
/// looking up each of so many results.
fn sql() -> String {
    const OF_IMAGES: &str = "FROM jobs_of_output AS j JOIN images AS i ON i.job = j.key \
        LEFT JOIN results AS r ON r.job = i.job AND r.idx = i.idx";
    const FINAL: &str = "'train-' || lpad(a.number::text, greatest(6, length(a.number::text)), '0')";
    format!(
        "WITH jobs_of_output AS MATERIALIZED (SELECT key, id, layout, thumbnails, \
         state IN ('pending', 'running', 'paused') AS open FROM jobs WHERE output = $1 AND sealed_at IS NOT NULL) \
         SELECT o.name, o.state, o.bytes, encode(o.sha256, 'hex') AS sha256, o.job, o.idx FROM ( \
         SELECT i.object AS name, {STATE} AS state, r.bytes, r.sha256, j.id AS job, i.idx {OF_IMAGES} \
         WHERE j.layout = 'files' \
         UNION ALL SELECT 'thumbnails/' || regexp_replace(i.object, '[.][^.]*$', '') || '.jpg', {STATE}, NULL, NULL, \
         j.id, i.idx {OF_IMAGES} WHERE j.thumbnails \
         UNION ALL SELECT {FINAL} || '.tar', CASE WHEN a.published_at IS NULL THEN 'pending' ELSE 'archive' END, \
         a.bytes, a.sha256, j.id, NULL FROM jobs_of_output AS j JOIN archives AS a ON a.job = j.key \
         WHERE a.number IS NOT NULL \
         UNION ALL SELECT 'manifests/' || {FINAL} || '.parquet', 'manifest', NULL, NULL, j.id, NULL \
         FROM jobs_of_output AS j JOIN archives AS a ON a.job = j.key WHERE a.number IS NOT NULL \
         UNION ALL SELECT a.object, 'staged', a.bytes, a.sha256, j.id, NULL \
         FROM jobs_of_output AS j JOIN archives AS a ON a.job = j.key WHERE a.published_at IS NULL \
         UNION ALL SELECT '.staging/' || s.id || '-' || l.attempt || '.tar', 'pending', NULL, NULL, j.id, NULL \
         FROM jobs_of_output AS j JOIN leases AS l ON l.job = j.key JOIN shards AS s ON s.key = l.shard \
         WHERE j.layout = 'webdataset' AND j.open \
         AND NOT EXISTS (SELECT FROM archives AS a WHERE a.shard = l.shard AND a.attempt = l.attempt) \
         UNION ALL SELECT m.name, 'manifest', NULL, NULL, NULL, NULL FROM unnest($2::text[]) AS m (name) \
         ) AS o ORDER BY o.name COLLATE \"C\""
    )
}

pub(super) async fn objects(
    store: &PostgresStore,
    output: &str,
    manifests: &[String],
) -> Result<BoxStream<'static, Result<Vec<Listed>>>> {
    let turn = timeout(TURN, Arc::clone(&store.analysts).acquire_owned());
    let permit = turn.await.map_err(|_| Error::Crowded)?.map_err(|_| Error::Closed)?;
    let mut connection = store.options.clone().disable_statement_logging().connect().await?;
    let settings = format!(
        "{SETTINGS}; SET enable_mergejoin = on; SET idle_in_transaction_session_timeout = 0; \
         SET client_connection_check_interval = '500ms'; BEGIN READ ONLY"
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut connection).await?;
    sqlx::query(AssertSqlSafe(format!("DECLARE listed NO SCROLL CURSOR FOR {}", sql())))
        .bind(output)
        .bind(manifests)
        .persistent(false)
        .execute(&mut connection)
        .await?;
    Ok(try_unfold((connection, permit), page).boxed())
}

/// Some more of them. The server ends its transaction when the connection is dropped.
async fn page(
    (mut connection, permit): (PgConnection, OwnedSemaphorePermit),
) -> Result<Option<(Vec<Listed>, (PgConnection, OwnedSemaphorePermit))>> {
    let rows = sqlx::query(AssertSqlSafe(format!("FETCH FORWARD {PART_ROWS} FROM listed")))
        .persistent(false)
        .fetch_all(&mut connection)
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let page = rows.iter().map(listed).collect::<Result<Vec<_>>>()?;
    Ok(Some((page, (connection, permit))))
}

fn listed(row: &PgRow) -> Result<Listed> {
    let number = |column: &str| -> Result<Option<u64>> {
        row.try_get::<Option<i64>, _>(column)?.map(|_| unsigned(row, column)).transpose()
    };
    Ok(Listed {
        name: row.try_get("name")?,
        state: word(row, "state")?,
        bytes: number("bytes")?,
        sha256: row.try_get("sha256")?,
        job: row.try_get::<Option<Uuid>, _>("job")?.map(|id| JobId::from(id.to_string())),
        index: number("idx")?,
    })
}
