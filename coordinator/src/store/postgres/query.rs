//! The analyst's SQL, on a connection of its own that cannot write.
//!
//! The statement is prepared, which the server does with one statement only, and then read through a cursor: a cursor
//! gives some rows at a time, and gives them as text whatever their types.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgRow, PgValueRef};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Executor, PgConnection, Row, SqlSafeStr, Statement,
    TypeInfo, ValueRef,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::PostgresStore;
use super::codec::unhex;
use super::trouble::is_stopped;
use crate::domain::statement::{Question, check_statement};
use crate::store::parts::{PART_ROWS, PARTS, Parts, TURN};
use crate::store::records::{Answer, Cell};
use crate::store::{Error, Result};

pub(super) async fn query(
    store: &PostgresStore,
    sql: &str,
    limit: Duration,
) -> Result<BoxStream<'static, Result<Answer>>> {
    let question = check_statement(sql)?;
    let deadline = Instant::now() + limit;
    let turn = timeout(limit.min(TURN), Arc::clone(&store.analysts).acquire_owned());
    let permit = turn.await.map_err(|_| Error::Crowded)?.map_err(|_| Error::Closed)?;
    let asked = timeout_at(deadline, ask(&store.options, sql, question, limit)).await;
    let (mut connection, columns) =
        asked.map_err(|_| Error::TimedOut(limit))?.map_err(|error| query_error(error, limit))?;
    let (reader, answer) = mpsc::channel(PARTS + 1);
    // Room for the error, also when nobody makes room: an answer cut short must not look whole.
    let last = reader.clone().reserve_owned().await.map_err(|_| Error::Closed)?;
    let sql = sql.to_owned();
    let task = tokio::spawn(async move {
        let parts = Parts::new(reader);
        let sent = timeout_at(deadline, send_all(&mut connection, &sql, question, columns, parts)).await;
        match sent {
            Ok(Ok(())) => {
                // The server ends the transaction, whether or not it hears the goodbye.
                let _ = connection.close().await;
            }
            Ok(Err(error)) => drop(last.send(Err(query_error(error, limit)))),
            Err(_) => drop(last.send(Err(Error::TimedOut(limit)))),
        }
        drop(permit);
    });
    // Dropped, it closes the connection; the server sees that and stops.
    let task = AbortOnDropHandle::new(task);
    Ok(ReceiverStream::new(answer).inspect(move |_| _ = &task).boxed())
}

type Asked<T> = std::result::Result<T, sqlx::Error>;

/// Connects and prepares the statement; the names of its columns. As the role of readers, where the coordinator's own
/// role may be that.
async fn ask(
    options: &PgConnectOptions,
    sql: &str,
    question: Question,
    limit: Duration,
) -> Asked<(PgConnection, Vec<String>)> {
    // A slow question is its asker's, not something to log.
    let mut connection = options.clone().disable_statement_logging().connect().await?;
    let settings = format!(
        "SET TIME ZONE 'UTC'; SET DateStyle = ISO; SET bytea_output = hex; SET cursor_tuple_fraction = 1; \
         SET client_connection_check_interval = '500ms'; SET statement_timeout = {}; \
         SELECT set_config('role', rolname, false) FROM pg_roles \
         WHERE rolname = 'sanafarm_reader' AND pg_has_role(oid, 'MEMBER'); BEGIN READ ONLY",
        limit.as_millis().clamp(1, i32::MAX as u128)
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut connection).await?;
    let statement = (&mut connection).prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await?;
    let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    if question == Question::Rows {
        let cursor = format!("DECLARE answer NO SCROLL CURSOR FOR {sql}");
        sqlx::query(AssertSqlSafe(cursor)).persistent(false).execute(&mut connection).await?;
    }
    Ok((connection, columns))
}

/// Returns early, and well, when nobody reads any more.
async fn send_all(
    connection: &mut PgConnection,
    sql: &str,
    question: Question,
    columns: Vec<String>,
    mut parts: Parts,
) -> Asked<()> {
    if !parts.columns(columns).await {
        return Ok(());
    }
    match question {
        Question::Plan => {
            let mut rows = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false).fetch(connection);
            while let Some(row) = rows.try_next().await? {
                // Text, JSON, XML or YAML: the same bytes.
                if !parts.row(vec![Cell::Text(row.try_get_unchecked(0)?)]).await {
                    return Ok(());
                }
            }
        }
        Question::Rows => {
            let fetch = format!("FETCH FORWARD {PART_ROWS} FROM answer");
            let mut more = true;
            while more {
                let mut rows = sqlx::raw_sql(AssertSqlSafe(fetch.clone())).fetch(&mut *connection);
                let mut fetched = 0;
                while let Some(row) = rows.try_next().await? {
                    fetched += 1;
                    if !parts.row(cells(&row)?).await {
                        return Ok(());
                    }
                }
                more = fetched == PART_ROWS;
            }
        }
    }
    parts.end().await;
    Ok(())
}

fn cells(row: &PgRow) -> Asked<Vec<Cell>> {
    (0..row.len()).map(|column| cell(&row.try_get_raw(column)?)).collect()
}

/// A value from its text, which a cursor gives.
fn cell(value: &PgValueRef<'_>) -> Asked<Cell> {
    if value.is_null() {
        return Ok(Cell::Null);
    }
    let text = value.as_str().map_err(sqlx::Error::Decode)?;
    let kind = value.type_info();
    let known = match kind.name() {
        "INT2" | "INT4" | "INT8" | "OID" => text.parse().ok().map(Cell::Integer),
        "FLOAT4" | "FLOAT8" => text.parse().ok().map(Cell::Real),
        // Whole, it may be longer than a number can be here: then it stays text.
        "NUMERIC" if text.contains(|c: char| !c.is_ascii_digit() && c != '-') => {
            text.parse().ok().map(Cell::Real)
        }
        "NUMERIC" => text.parse().ok().map(Cell::Integer),
        "BOOL" => Some(Cell::Text(if text == "t" { "true" } else { "false" }.to_owned())),
        "TIMESTAMPTZ" => text.parse::<Timestamp>().ok().map(|time| Cell::Text(format!("{time:.3}"))),
        "BYTEA" => text.strip_prefix("\\x").and_then(unhex).map(Cell::Blob),
        _ => None,
    };
    Ok(known.unwrap_or_else(|| Cell::Text(text.to_owned())))
}

fn query_error(error: sqlx::Error, limit: Duration) -> Error {
    if is_stopped(&error) {
        return Error::TimedOut(limit);
    }
    match error.as_database_error() {
        Some(database) => Error::Query(database.message().to_owned()),
        None => Error::from(error),
    }
}
