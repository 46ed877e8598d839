//! The analyst's SQL, on a connection of its own that cannot write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Executor, Row, SqlSafeStr, Statement, TypeInfo, Value, ValueRef,
};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::SqliteStore;
use super::codec::result_code;
use super::open::reader_options;
use crate::domain::statement::check_statement;
use crate::store::parts::{PARTS, Parts, TURN};
use crate::store::records::{Answer, Cell};
use crate::store::{Error, Result};

/// Instructions of SQLite's virtual machine between two looks at the clock.
const LOOK_EVERY: i32 = 10_000;
/// SQLITE_INTERRUPT.
const INTERRUPT: i32 = 9;

pub(super) async fn query(
    store: &SqliteStore,
    sql: &str,
    limit: Duration,
) -> Result<BoxStream<'static, Result<Answer>>> {
    check_statement(sql)?;
    let turn = timeout(limit.min(TURN), Arc::clone(&store.analysts).acquire_owned());
    let permit = turn.await.map_err(|_| Error::Crowded)?.map_err(|_| Error::Closed)?;
    let mut connection = reader_options(&store.file).connect().await?;
    let gone = Arc::new(AtomicBool::new(false));
    let deadline = Instant::now() + limit;
    let asked = Arc::clone(&gone);
    connection.lock_handle().await?.set_progress_handler(LOOK_EVERY, move || {
        !asked.load(Ordering::Relaxed) && Instant::now() < deadline
    });
    let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
    let statement =
        (&mut connection).prepare(sql.clone()).await.map_err(|error| query_error(error, limit))?;
    let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    let (reader, answer) = mpsc::channel(PARTS + 1);
    // Room for the error, also when nobody makes room: an answer cut short must not look whole.
    let last = reader.clone().reserve_owned().await.map_err(|_| Error::Closed)?;
    let task = tokio::spawn(async move {
        let sent =
            timeout_at(deadline.into(), send_all(&mut connection, sql, columns, Parts::new(reader))).await;
        // A connection that still reads keeps the write-ahead log from being folded in.
        drop((connection, permit));
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => drop(last.send(Err(query_error(error, limit)))),
            Err(_) => drop(last.send(Err(Error::TimedOut(limit)))),
        }
    });
    Ok(UntilDropped { answer, gone, _task: AbortOnDropHandle::new(task) }.boxed())
}

/// Returns early, and well, when nobody reads any more.
async fn send_all(
    connection: &mut SqliteConnection,
    sql: sqlx::SqlStr,
    columns: Vec<String>,
    mut parts: Parts,
) -> std::result::Result<(), sqlx::Error> {
    if !parts.columns(columns).await {
        return Ok(());
    }
    let mut rows = sqlx::query(sql).persistent(false).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if !parts.row(cells(&row)?).await {
            return Ok(());
        }
    }
    parts.end().await;
    Ok(())
}

fn cells(row: &SqliteRow) -> std::result::Result<Vec<Cell>, sqlx::Error> {
    (0..row.len())
        .map(|column| {
            // The type is that of the value: SQLite columns may hold anything.
            let value = ValueRef::to_owned(&row.try_get_raw(column)?);
            if value.is_null() {
                return Ok(Cell::Null);
            }
            let name = value.type_info().name().to_owned();
            Ok(match name.as_str() {
                "INTEGER" | "BOOLEAN" => Cell::Integer(value.try_decode_unchecked()?),
                "REAL" => Cell::Real(value.try_decode_unchecked()?),
                "BLOB" => Cell::Blob(value.try_decode_unchecked()?),
                _ => Cell::Text(value.try_decode_unchecked()?),
            })
        })
        .collect()
}

fn query_error(error: sqlx::Error, limit: Duration) -> Error {
    if result_code(&error) == Some(INTERRUPT) {
        return Error::TimedOut(limit);
    }
    match error.as_database_error() {
        Some(database) => Error::Query(database.message().to_owned()),
        None => Error::from(error),
    }
}

/// The answer; stops the statement when it is dropped.
struct UntilDropped {
    answer: mpsc::Receiver<Result<Answer>>,
    /// Stops SQLite itself, which knows nothing of tasks.
    gone: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

impl Stream for UntilDropped {
    type Item = Result<Answer>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.answer.poll_recv(context)
    }
}

impl Drop for UntilDropped {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}
