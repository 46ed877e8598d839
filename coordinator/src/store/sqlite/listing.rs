//! The objects that an output may hold. On a connection of its own: they are as many as its pictures, and their reader may be
//! slow.

use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::SqliteStore;
use super::codec::{json_text, unsigned, word};
use super::open::reader_options;
use crate::domain::id::JobId;
use crate::store::parts::{PART_ROWS, PARTS, TURN};
use crate::store::records::Listed;
use crate::store::{Error, Result};

/// What images `i` of jobs `j` are to the database, with their results `r`.
const STATE: &str = "CASE WHEN r.state = 'done' THEN 'done' WHEN j.open THEN 'pending' ELSE 'dead' END";
/// The objects of output ?1; ?2 are the names of what is written about the pictures.
fn sql() -> String {
    const OF_IMAGES: &str = "FROM jobs_of_output AS j CROSS JOIN images AS i ON i.job = j.key \
        LEFT JOIN results AS r ON r.job = i.job AND r.idx = i.idx";
    // What comes before the last dot: the name without the dot and all that is no dot at its end.
    const STEM: &str = "rtrim(rtrim(i.object, replace(i.object, '.', '')), '.')";
    const FINAL: &str = "printf('train-%06d', a.number)";
    format!(
        "WITH jobs_of_output AS MATERIALIZED (SELECT key, id, layout, thumbnails, \
         state IN ('pending', 'running', 'paused') AS open FROM jobs WHERE output = ?1 AND sealed_at IS NOT NULL) \
         SELECT i.object AS name, {STATE} AS state, r.bytes, r.sha256, j.id AS job, i.idx {OF_IMAGES} \
         WHERE j.layout = 'files' \
         UNION ALL SELECT 'thumbnails/' || {STEM} || '.jpg', {STATE}, NULL, NULL, j.id, i.idx {OF_IMAGES} \
         WHERE j.thumbnails \
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
         AND NOT EXISTS (SELECT 1 FROM archives AS a WHERE a.shard = l.shard AND a.attempt = l.attempt) \
         UNION ALL SELECT m.value, 'manifest', NULL, NULL, NULL, NULL FROM json_each(?2) AS m \
         ORDER BY name"
    )
}

pub(super) async fn objects(
    store: &SqliteStore,
    output: &str,
    manifests: &[String],
) -> Result<BoxStream<'static, Result<Vec<Listed>>>> {
    let turn = timeout(TURN, Arc::clone(&store.analysts).acquire_owned());
    let permit = turn.await.map_err(|_| Error::Crowded)?.map_err(|_| Error::Closed)?;
    let mut connection = reader_options(&store.file).connect().await?;
    let (output, manifests) = (output.to_owned(), json_text(&manifests)?);
    let (reader, listed) = mpsc::channel(PARTS);
    let task = tokio::spawn(async move {
        let sent = send_all(&mut connection, &output, &manifests, &reader).await;
        // A connection that still reads keeps the write-ahead log from being folded in.
        drop((connection, permit));
        if let Err(error) = sent {
            // Nobody may read any more.
            let _ = reader.send(Err(error)).await;
        }
    });
    let task = AbortOnDropHandle::new(task);
    Ok(ReceiverStream::new(listed).inspect(move |_| _ = &task).boxed())
}

/// Returns early, and well, when nobody reads any more.
async fn send_all(
    connection: &mut SqliteConnection,
    output: &str,
    manifests: &str,
    reader: &mpsc::Sender<Result<Vec<Listed>>>,
) -> Result<()> {
    let mut rows =
        sqlx::query(AssertSqlSafe(sql())).bind(output).bind(manifests).persistent(false).fetch(connection);
    let mut page = Vec::with_capacity(PART_ROWS);
    while let Some(row) = rows.try_next().await? {
        page.push(read(&row)?);
        if page.len() == PART_ROWS && reader.send(Ok(std::mem::take(&mut page))).await.is_err() {
            return Ok(());
        }
    }
    if !page.is_empty() {
        // As above.
        let _ = reader.send(Ok(page)).await;
    }
    Ok(())
}

fn read(row: &SqliteRow) -> Result<Listed> {
    let number = |column: &str| -> Result<Option<u64>> {
        row.try_get::<Option<i64>, _>(column)?.map(|_| unsigned(row, column)).transpose()
    };
    Ok(Listed {
        name: row.try_get("name")?,
        state: word(row, "state")?,
        bytes: number("bytes")?,
        sha256: row.try_get("sha256")?,
        job: row.try_get::<Option<String>, _>("job")?.map(JobId::from),
        index: number("idx")?,
    })
}
