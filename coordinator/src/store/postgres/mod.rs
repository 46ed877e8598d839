//! The store of many coordinators: a PostgreSQL database, version 15 or later.
//!
//! What is done most often is one guarded statement each, in functions of the database
//! (`migrations/postgres/0003_claims_and_commits.sql` tells in which order rows are locked; claims were replaced by those of
//! 0009, commits by those of 0009 too, renewals by those of 0006). Everything else is a transaction that locks first and reads then. Two that get in each other's way
//! are tried again.
//!
//! - `open`: connecting; `migrate`: bringing the tables up to date
//! - `life`: that this coordinator lives, as the others see it; `turn`: duties that one of them does;
//!   `clock`: their common time
//! - `submit`, `purge`, `change`, `session`, `lease`, `signing`, `waiting`, `report`, `tail`, `sweep`, `finish`, `read`, `presence`, `stories`,
//!   `webhooks`, `demand`, `speeds`: one file per duty
//! - `archives`: tars; `append`: outputs that several jobs share
//! - `pictures`: what reports hold; `faults`: reports with errors, by the rules of the domain
//! - `tokens`: who may call
//! - `query`: the analyst's SQL; `listing`: what an output may hold
//! - `shard_state`, `standing`, `event`: what several duties share; `month`: room in the history
//! - `codec`, `copy`: between columns and the words of the domain; `trouble`: its errors

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{Postgres, Transaction};
use tokio::sync::Semaphore;

use super::Result;

mod append;
mod archives;
mod change;
mod clock;
mod codec;
mod copy;
mod demand;
mod event;
mod faults;
mod finish;
mod lease;
mod life;
mod listing;
mod migrate;
mod month;
mod open;
mod overview;
mod pictures;
mod presence;
mod purge;
mod query;
mod read;
mod record;
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
pub(super) mod trouble;
mod turn;
mod waiting;
mod webhooks;

use clock::Clock;
use life::Life;
use trouble::Trouble;

/// A PostgreSQL database as a store.
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    /// Connections that are held while something else is done.
    duties: PgPool,
    /// For the analysts' own connections.
    options: PgConnectOptions,
    /// Where it is, for people.
    place: String,
    life: Arc<Life>,
    clock: Arc<Clock>,
    trouble: Arc<Trouble>,
    /// The month that the history was last seen to have room for.
    month: Arc<AtomicI64>,
    /// How many analysts' statements may run at the same time.
    analysts: Arc<Semaphore>,
}

/// Nothing of the options: they hold the password.
impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.place)
            .field("pool", &self.pool)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connections for a statement that writes at this moment.
    async fn writer(&self, now: Timestamp) -> Result<&PgPool> {
        self.months(now).await?;
        Ok(&self.pool)
    }

    /// A transaction that writes at this moment.
    async fn begin(&self, now: Timestamp) -> Result<Transaction<'static, Postgres>> {
        Ok(self.writer(now).await?.begin().await?)
    }

    /// What came of a call.
    fn heard<T>(&self, answer: Result<T>) -> Result<T> {
        self.trouble.heard(answer, &self.place, self.pool.size() > 0)
    }
}
