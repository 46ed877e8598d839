//! That this coordinator lives, as the others see it: it holds an advisory lock on a connection of its own. The lock
//! goes with the process, and no clocks are compared.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use tokio::sync::Mutex;

use crate::store::Result;

/// First half of the locks of living coordinators; the second is the coordinator's key.
const LIVING: i32 = 1_396_788_801;

/// Whether the coordinator with the key `{key}` lives, in SQL.
macro_rules! lives {
    ($key:literal) => {
        concat!(
            "EXISTS (SELECT FROM pg_locks AS k WHERE k.locktype = 'advisory' AND k.classid::bigint = 1396788801 \
             AND k.objsubid = 2 AND k.granted AND k.objid::bigint = ",
            $key,
            " AND k.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))"
        )
    };
}
pub(super) use lives;

/// The life of this coordinator, as the others see it.
pub(super) struct Life {
    /// In the table `coordinators`.
    pub key: i32,
    options: PgConnectOptions,
    /// Holds the lock; none after it broke.
    connection: Mutex<Option<PgConnection>>,
}

/// Nothing of the options: they hold the password.
impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Life {
    /// Begins it.
    pub async fn begin(options: PgConnectOptions) -> std::result::Result<Self, sqlx::Error> {
        let mut connection = connect(&options).await?;
        let row = sqlx::query("INSERT INTO coordinators DEFAULT VALUES RETURNING key")
            .fetch_one(&mut connection)
            .await?;
        let key = row.try_get("key")?;
        hold(&mut connection, key).await?;
        Ok(Self { key, options, connection: Mutex::new(Some(connection)) })
    }

    /// Takes the lock again when the connection is broken.
    pub async fn keep(&self) -> Result<()> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_mut() {
            match connection.ping().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "lost the connection that shows that this coordinator lives")
                }
            }
        }
        *held = None;
        let mut connection = connect(&self.options).await?;
        hold(&mut connection, self.key).await?;
        *held = Some(connection);
        Ok(())
    }

    /// Ends it.
    pub async fn end(&self) {
        let Some(mut connection) = self.connection.lock().await.take() else { return };
        // The lock goes with the connection too, but only when the server has seen that.
        let ended = async {
            sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = ended.await {
            tracing::debug!(%error, "close the connection that shows that this coordinator lives");
        }
    }
}

/// The server finds out within half a minute when this machine is gone without a word.
async fn connect(options: &PgConnectOptions) -> std::result::Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    sqlx::raw_sql(
        "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection)
}

/// It may still be held by a connection of ours that the server does not know to be broken: then that one shows it.
async fn hold(connection: &mut PgConnection, key: i32) -> std::result::Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_try_advisory_lock($1, $2)").bind(LIVING).bind(key).execute(connection).await?;
    Ok(())
}
