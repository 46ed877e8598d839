//! Hints through Redis.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};

use super::relay::{Failure, PATIENCE, Wire};

/// Where hints are published.
const CHANNEL: &str = "sanafarm:hints";

/// A Redis server. Nothing is stored in it.
pub(crate) struct RedisWire {
    client: Client,
    /// Connects when it is used first, and again after trouble.
    connection: ConnectionManager,
}

impl RedisWire {
    /// Reads the address; connects later.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        Ok(Self { client, connection })
    }
}

#[async_trait]
impl Wire for RedisWire {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn most_bytes(&self) -> usize {
        1 << 20
    }

    fn gather(&self) -> Duration {
        Duration::from_millis(10)
    }

    async fn publish(&self, message: String) -> Result<(), Failure> {
        let mut connection = self.connection.clone();
        let _receivers: i64 =
            redis::cmd("PUBLISH").arg(CHANNEL).arg(message).query_async(&mut connection).await?;
        Ok(())
    }

    async fn subscribe(&self) -> Result<BoxStream<'static, String>, Failure> {
        let mut subscription = self.client.get_async_pubsub().await?;
        subscription.subscribe(CHANNEL).await?;
        // A message that is no text is none of ours.
        let texts =
            subscription.into_on_message().filter_map(async |message| message.get_payload::<String>().ok());
        Ok(texts.boxed())
    }
}
