//! A place in the database where transactions wait for the test: so it knows where a coordinator is when it kills it.

use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

use super::cluster::Cluster;
use super::wait_until;

/// Whoever comes by waits for this advisory lock, which the test holds while the gate is closed.
const LOCK: &str = "7, 7";
/// The processes that wait there.
const WAITING: &str =
    "select pid from pg_locks where locktype = 'advisory' and (classid, objid) = (7, 7) and not granted";

/// A closed gate.
pub struct Gate<'a> {
    cluster: &'a Cluster,
    runtime: Runtime,
    holder: PgConnection,
}

/// What becomes of a transaction at a gate whose coordinator is dead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// It ends as if its commit had never reached the server.
    TurnedBack,
    /// What its coordinator had sent is done, and nobody hears of it.
    LetThrough,
}

impl<'a> Gate<'a> {
    /// Transactions that insert a row into this table wait when they commit.
    pub fn at_commit(cluster: &'a Cluster, table: &str) -> Self {
        let deferred = "deferrable initially deferred for each row";
        Self::close(cluster, &format!("constraint trigger gate after insert on {table} {deferred}"))
    }

    /// Transactions wait before they insert a row for which this is so into this table.
    pub fn before_row(cluster: &'a Cluster, table: &str, is_so: &str) -> Self {
        Self::close(cluster, &format!("trigger gate before insert on {table} for each row when ({is_so})"))
    }

    fn close(cluster: &'a Cluster, trigger: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut holder = runtime.block_on(PgConnection::connect(cluster.url())).unwrap();
        let lock = sqlx::AssertSqlSafe(format!("select pg_advisory_lock({LOCK})"));
        runtime.block_on(sqlx::raw_sql(lock).execute(&mut holder)).unwrap();
        cluster.sql(&format!(
            "create function wait_at_gate() returns trigger language plpgsql set lock_timeout = 0 as \
             $$ begin perform pg_advisory_xact_lock_shared({LOCK}); return new; end $$; \
             create {trigger} execute function wait_at_gate()"
        ));
        Self { cluster, runtime, holder }
    }

    /// Waits until somebody waits here.
    #[track_caller]
    pub fn wait_for_one(&self) {
        wait_until("somebody at the gate", || !self.cluster.sql(WAITING).is_empty());
    }

    /// Opens the gate after the coordinators of all who wait here were killed.
    #[track_caller]
    pub fn open_for_the_dead(mut self, fate: Fate) {
        let waiting = self.cluster.sql(WAITING).replace('\n', ", ");
        assert!(!waiting.is_empty(), "nobody waits at the gate");
        let of_waiting = format!("from pg_stat_activity where pid in ({waiting})");
        if fate == Fate::TurnedBack {
            self.cluster.sql(&format!("select pg_terminate_backend(pid) {of_waiting}"));
        } else {
            self.open();
        }
        wait_until("the transactions to end", || {
            self.cluster.number(&format!("select count(*) {of_waiting}")) == 0
        });
        self.open();
    }

    /// Opens the gate.
    pub fn open_for_the_living(mut self) {
        self.open();
    }

    fn open(&mut self) {
        let unlock = "select pg_advisory_unlock_all()";
        self.runtime.block_on(sqlx::raw_sql(unlock).execute(&mut self.holder)).unwrap();
    }
}
