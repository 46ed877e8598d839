//! The analyst's SQL, on a connection of its own that cannot write.
//!
//! The statement is prepared, which the server does with one statement only, and then read through a cursor: a cursor
//! gives some rows at a time.
//!
//! It runs inside functions of the role of readers, with the rights of that role (`SECURITY DEFINER`): in there the
//! server lets nobody take on another role, by whatever expression. Outside, a statement could give back the role that
//! was set for it.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use sqlx::postgres::PgConnectOptions;
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Executor, PgConnection, Row, SqlSafeStr, Statement,
    TypeInfo,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::PostgresStore;
use super::codec::unhex;
use super::record::fields;
use super::trouble::is_stopped;
use crate::domain::statement::check_statement;
use crate::store::parts::{PART_ROWS, PARTS, Parts, TURN};
use crate::store::records::{Answer, Cell};
use crate::store::{Error, Result};

/// Of a transaction that never ends well: nothing of them stays.
const FUNCTIONS: &str = "\
    CREATE FUNCTION pg_temp.sanafarm_ask(_sql text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ \
    DECLARE _answer refcursor := 'answer'; \
    BEGIN OPEN _answer NO SCROLL FOR EXECUTE _sql; END $$; \
    CREATE FUNCTION pg_temp.sanafarm_more(_rows integer) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER AS $$ \
    DECLARE _answer refcursor := 'answer'; _row record; \
    BEGIN \
        FOR _ IN 1.._rows LOOP \
            FETCH _answer INTO _row; \
            EXIT WHEN NOT FOUND; \
            RETURN NEXT _row::pg_catalog.text; \
        END LOOP; \
    END $$; \
    SET TRANSACTION READ ONLY";

pub(super) async fn query(
    store: &PostgresStore,
    sql: &str,
    limit: Duration,
) -> Result<BoxStream<'static, Result<Answer>>> {
    check_statement(sql)?;
    let deadline = Instant::now() + limit;
    let turn = timeout(limit.min(TURN), Arc::clone(&store.analysts).acquire_owned());
    let permit = turn.await.map_err(|_| Error::Crowded)?.map_err(|_| Error::Closed)?;
    let asked = timeout_at(deadline, ask(&store.options, sql, limit)).await;
    let (mut connection, columns) = asked.map_err(|_| Error::TimedOut(limit))??;
    let (reader, answer) = mpsc::channel(PARTS + 1);
    // Room for the error, also when nobody makes room: an answer cut short must not look whole.
    let last = reader.clone().reserve_owned().await.map_err(|_| Error::Closed)?;
    let task = tokio::spawn(async move {
        let parts = Parts::new(reader);
        let sent = timeout_at(deadline, send_all(&mut connection, columns, limit, parts)).await;
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

/// A column of the answer.
struct Named {
    name: String,
    /// The server's name of its type.
    kind: String,
}

/// What no statement may take off: set again before each part.
fn bounds(limit: Duration) -> String {
    let limit = limit.as_millis().clamp(1, i32::MAX as u128);
    format!("SET statement_timeout = {limit}; SET client_connection_check_interval = '500ms'")
}

/// Connects, and opens the cursor as the role of readers.
async fn ask(options: &PgConnectOptions, sql: &str, limit: Duration) -> Result<(PgConnection, Vec<Named>)> {
    // A slow question is its asker's, not something to log.
    let connected = options.clone().disable_statement_logging().connect().await;
    let mut connection = connected.map_err(|error| query_error(error, limit))?;
    let settings = format!(
        "SET TIME ZONE 'UTC'; SET DateStyle = ISO; SET bytea_output = hex; {}; BEGIN READ WRITE; \
         SET LOCAL ROLE sanafarm_reader",
        bounds(limit)
    );
    let begun = sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut connection).await;
    begun.map_err(|error| match error.as_database_error() {
        Some(database) if !is_stopped(&error) => Error::NoReader(database.message().to_owned()),
        _ => query_error(error, limit),
    })?;
    let columns = open(&mut connection, sql).await.map_err(|error| query_error(error, limit))?;
    Ok((connection, columns))
}

type Asked<T> = std::result::Result<T, sqlx::Error>;

async fn open(connection: &mut PgConnection, sql: &str) -> Asked<Vec<Named>> {
    sqlx::raw_sql(FUNCTIONS).execute(&mut *connection).await?;
    let statement = (&mut *connection).prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await?;
    let named = |column: &sqlx::postgres::PgColumn| Named {
        name: column.name().to_owned(),
        kind: column.type_info().name().to_owned(),
    };
    let columns = statement.columns().iter().map(named).collect();
    sqlx::query("SELECT pg_temp.sanafarm_ask($1)").bind(sql).persistent(false).execute(connection).await?;
    Ok(columns)
}

/// Returns early, and well, when nobody reads any more.
async fn send_all(
    connection: &mut PgConnection,
    columns: Vec<Named>,
    limit: Duration,
    mut parts: Parts,
) -> Asked<()> {
    let (names, kinds): (Vec<_>, Vec<_>) =
        columns.into_iter().map(|column| (column.name, column.kind)).unzip();
    if !parts.columns(names).await {
        return Ok(());
    }
    let more = format!("{}; SELECT pg_temp.sanafarm_more({PART_ROWS})", bounds(limit));
    loop {
        let mut rows = sqlx::raw_sql(AssertSqlSafe(more.clone())).fetch(&mut *connection);
        let mut fetched = 0;
        while let Some(row) = rows.try_next().await? {
            fetched += 1;
            if !parts.row(cells(row.try_get(0)?, &kinds)).await {
                return Ok(());
            }
        }
        if fetched < PART_ROWS {
            break;
        }
    }
    parts.end().await;
    Ok(())
}

fn cells(record: &str, kinds: &[String]) -> Vec<Cell> {
    let mut fields = fields(record);
    // A record without fields looks like one whose only field is null.
    fields.truncate(kinds.len());
    fields
        .into_iter()
        .zip(kinds)
        .map(|(field, kind)| field.map_or(Cell::Null, |text| cell(text, kind)))
        .collect()
}

/// A value from its text.
fn cell(text: String, kind: &str) -> Cell {
    let known = match kind {
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
    known.unwrap_or(Cell::Text(text))
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
