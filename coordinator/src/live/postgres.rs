//! Hints through the database itself, for farms without Redis.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use futures::stream::{BoxStream, StreamExt};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};

use super::relay::{Failure, PATIENCE, Wire};

/// Where hints are published, in this database only.
const CHANNEL: &str = "sanafarm_hints";

/// A PostgreSQL database, with two connections of its own.
pub(crate) struct PostgresWire {
    pool: PgPool,
}

impl PostgresWire {
    /// Reads the address; connects later.
    pub fn new(url: &str) -> Result<Self, sqlx::Error> {
        let mut options: PgConnectOptions = url.parse()?;
        if options.get_application_name().is_none() {
            options = options.application_name("sanafarm");
        }
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| {
                // A hint need not survive a power cut.
                Box::pin(async move {
                    sqlx::query("SET synchronous_commit = off").execute(connection).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Ok(Self { pool })
    }
}

#[async_trait]
impl Wire for PostgresWire {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn most_bytes(&self) -> usize {
        // What NOTIFY takes, less a byte.
        7998
    }

    fn gather(&self) -> Duration {
        // Every message is a transaction.
        Duration::from_millis(100)
    }

    async fn publish(&self, message: String) -> Result<(), Failure> {
        sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(message).execute(&self.pool).await?;
        Ok(())
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, String>, Failure> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        // The relay connects again: it knows that it has missed something.
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        let messages = stream::unfold(listener, async |mut listener| {
            let notification = listener.try_recv().await.ok()??;
            Some((notification.payload().to_owned(), listener))
        });
        Ok(messages.boxed())
    }
}
