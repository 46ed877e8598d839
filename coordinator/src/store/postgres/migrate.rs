//! Bringing the tables up to date while other coordinators and analysts use them.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Executor, PgConnection};

/// Who changes a table waits for all who use it, and whoever comes later waits behind: a farm would stand still for as long as one
/// long question of an analyst takes. So a migration gives up its place in the queue soon, and comes again. What is applied
/// together with others that start waits for them no longer either.
const WAIT: &str = "SET lock_timeout = '2s'";
/// How long the others have the tables for themselves.
const PAUSE: Duration = Duration::from_secs(1);
/// What is given up after: no question takes as long.
const TRIES: usize = 200;
/// SQLSTATE of a lock that was waited for in vain.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Applies what the database lacks, each migration in a transaction of its own.
pub(super) async fn migrate(connection: &mut PgConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    connection.execute(WAIT).await.map_err(MigrateError::Execute)?;
    for _ in 1..TRIES {
        match migrator.run(&mut *connection).await {
            Err(error) if waits_for_others(&error) => {
                tracing::info!("a migration waits until nobody uses its tables");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
    migrator.run(connection).await
}

fn waits_for_others(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}
