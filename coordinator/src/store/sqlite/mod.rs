//! The store of one process: a SQLite file.
//!
//! All writing goes through one connection, and every write transaction takes its lock when it begins: no
//! transaction can find at its first write that another one was faster. Reading has connections of its own.
//!
//! - `open`: options, migrations, read-only opening
//! - `submit`, `change`, `session`, `lease`, `signing`, `waiting`, `report`, `tail`, `sweep`, `finish`, `read`, `presence`, `stories`, `webhooks`,
//!   `demand`, `speeds`: one file per duty
//! - `archives`: tars; `append`: outputs that several jobs share
//! - `tokens`: who may call
//! - `query`: the analyst's SQL; `listing`: what an output may hold
//! - `shard_state`, `standing`, `event`: what several duties share
//! - `codec`: between columns and the words of the domain

use std::path::PathBuf;

use sqlx::{Sqlite, SqlitePool, Transaction};

use super::{Error, Result, Store};

mod append;
mod archives;
mod change;
pub(super) mod codec;
mod demand;
mod event;
mod finish;
mod lease;
mod listing;
mod open;
mod overview;
mod presence;
mod query;
mod read;
mod refusals;
mod report;
mod session;
mod shard_state;
mod signing;
mod speeds;
mod standing;
mod store;
mod stories;
mod submit;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;
mod tokens;
mod waiting;
mod webhooks;

/// A SQLite file as a store.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    file: PathBuf,
    /// One connection; none when the file is open to look only.
    writer: Option<SqlitePool>,
    reader: SqlitePool,
    /// How many analysts' statements may run at the same time.
    analysts: std::sync::Arc<tokio::sync::Semaphore>,
}

impl SqliteStore {
    /// A transaction that holds the write lock from its start.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        let writer = self.writer.as_ref().ok_or(Error::ReadOnly)?;
        Ok(writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// What came of a write.
    fn written<T>(&self, answer: Result<T>) -> Result<T> {
        answer.map_err(|error| codec::write_error(error, &self.file))
    }
}
