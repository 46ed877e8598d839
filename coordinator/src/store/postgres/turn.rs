//! Duties that one coordinator does at a time. The right to one is an advisory lock of a transaction that does nothing
//! else: it goes with the connection, so that others take over at once when its holder dies, and after a minute when
//! it only stops answering.

use crate::store::Result;
use crate::store::records::{Duty, Turn};

use super::PostgresStore;

/// First half of the locks; the second is a hash of the duty.
const DUTIES: i32 = 1_396_788_803;

pub(super) async fn turn(store: &PostgresStore, duty: &Duty) -> Result<Option<Turn>> {
    // Every coordinator comes by here every few seconds.
    store.life.keep().await?;
    let name = match duty {
        Duty::Sweep => "sweep".to_owned(),
        Duty::CallOff => "call off".to_owned(),
        Duty::Purge => "purge".to_owned(),
        Duty::Finish(output) => format!("finish {output}"),
        Duty::Publish(output) => format!("publish {output}"),
    };
    let mut tx = store.duties.begin().await?;
    if let Duty::Finish(_) | Duty::Publish(_) = duty {
        // The files of a long job take their time, and so do large tars.
        sqlx::query("SET LOCAL idle_in_transaction_session_timeout = '30min'").execute(&mut *tx).await?;
    }
    let mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1, hashtext($2))")
        .bind(DUTIES)
        .bind(name)
        .fetch_one(&mut *tx)
        .await?;
    Ok(mine.then(|| Turn::held(tx)))
}
