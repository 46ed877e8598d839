//! Hints through Redis. It may be slow, hang, be flushed or be gone: the farm then goes on by looking at the database.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::Hints;
use crate::farm::Farm;

/// Where hints are published.
const CHANNEL: &str = "sanafarm:hints";
/// Redis is asked nothing that takes longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A message that says nothing is published this often.
const BEAT: Duration = Duration::from_secs(10);
/// Without any message for this long, not even our own, the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(25);
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two messages: what happens meanwhile is one message.
const GATHER: Duration = Duration::from_millis(10);

/// Sends hints to the other coordinators and takes in theirs, until the farm stops.
pub(crate) async fn relay(farm: Arc<Farm>, client: Client) {
    let own = Uuid::new_v4().to_string();
    tokio::select! {
        () = farm.stop.cancelled() => {}
        () = publish(&farm, client.clone(), &own) => {}
        () = subscribe(&farm, client, &own) => {}
    }
}

async fn publish(farm: &Farm, client: Client, own: &str) {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_number_of_retries(1);
    let mut trouble = Trouble::default();
    let mut connection = loop {
        match ConnectionManager::new_lazy_with_config(client.clone(), config.clone()) {
            Ok(connection) => break connection,
            Err(error) => trouble.met("connect to redis", &error),
        }
        sleep(PAUSE).await;
    };
    loop {
        let hints = tokio::select! {
            hints = farm.live.outgoing() => hints,
            () = sleep(BEAT) => Hints::default(),
        };
        let message = format!("{own} {}", hints.to_text());
        let sent: Result<i64, RedisError> =
            redis::cmd("PUBLISH").arg(CHANNEL).arg(message).query_async(&mut connection).await;
        match sent {
            Ok(_) => trouble.over(),
            // A hint that is lost costs delay only.
            Err(error) => trouble.met("publish hints in redis", &error),
        }
        sleep(GATHER).await;
    }
}

async fn subscribe(farm: &Farm, client: Client, own: &str) {
    let mut trouble = Trouble::default();
    loop {
        match listen(farm, &client, own, &mut trouble).await {
            Ok(()) => tracing::debug!("redis was silent; subscribing again"),
            Err(error) => trouble.met("listen to redis", &error),
        }
        sleep(PAUSE).await;
    }
}

/// Takes hints in until the connection ends or seems dead.
async fn listen(farm: &Farm, client: &Client, own: &str, trouble: &mut Trouble) -> Result<(), RedisError> {
    let late = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let mut subscription = timeout(PATIENCE, client.get_async_pubsub()).await.map_err(late)??;
    timeout(PATIENCE, subscription.subscribe(CHANNEL)).await.map_err(late)??;
    trouble.over();
    // What was said meanwhile was not heard.
    farm.live.incoming(Hints::all());
    let mut messages = subscription.on_message();
    while let Ok(Some(message)) = timeout(SILENCE, messages.next()).await {
        let text: String = message.get_payload()?;
        if let Some((sender, hints)) = text.split_once(' ')
            && sender != own
            && let Some(hints) = Hints::from_text(hints)
        {
            farm.live.incoming(hints);
        }
    }
    Ok(())
}

/// Logs the beginning and the end of trouble, not every moment of it.
#[derive(Debug, Default)]
struct Trouble {
    lasts: bool,
}

impl Trouble {
    fn met(&mut self, what: &str, error: &RedisError) {
        if !std::mem::replace(&mut self.lasts, true) {
            tracing::warn!(%error, "cannot {what}; the farm goes on, slower to notice");
        }
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.lasts) {
            tracing::info!("redis is back");
        }
    }
}
