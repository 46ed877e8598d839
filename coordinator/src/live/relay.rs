//! Carries hints between the coordinators of one database, over whatever wire there is.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::Hints;
use crate::farm::Farm;

/// The wire is asked nothing that takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// A message that says nothing is published this often.
const BEAT: Duration = Duration::from_secs(10);
/// Without any message for this long, not even our own, the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(25);
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a message did not get through.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A way for short messages to all coordinators, the sender included. It may be slow, hang, be flushed or be gone: the
/// farm then goes on by looking at the database.
#[async_trait]
pub(crate) trait Wire: Send + Sync {
    /// For people.
    fn name(&self) -> &'static str;
    /// Longest message.
    fn most_bytes(&self) -> usize;
    /// Shortest time between two messages: what happens meanwhile is one message.
    fn gather(&self) -> Duration;
    /// Sends one message.
    async fn publish(&self, message: String) -> Result<(), Failure>;
    /// Messages from now on; the stream ends with the connection.
    async fn subscribe(&self) -> Result<BoxStream<'static, String>, Failure>;
}

/// Sends hints to the other coordinators and takes in theirs, until the farm stops.
pub(crate) async fn relay(farm: Arc<Farm>, wire: Box<dyn Wire>) {
    let own = Uuid::new_v4().to_string();
    tokio::select! {
        () = farm.stop.cancelled() => {}
        () = publish(&farm, wire.as_ref(), &own) => {}
        () = subscribe(&farm, wire.as_ref(), &own) => {}
    }
}

async fn publish(farm: &Farm, wire: &dyn Wire, own: &str) {
    let mut trouble = Trouble::of(wire);
    loop {
        let hints = tokio::select! {
            hints = farm.live.outgoing() => hints,
            () = sleep(BEAT) => Hints::default(),
        };
        let text = hints.to_text(wire.most_bytes() - own.len() - 1);
        let sent = timeout(PATIENCE, wire.publish(format!("{own} {text}"))).await;
        match sent {
            Ok(Ok(())) => trouble.over(),
            // A hint that is lost costs delay only.
            Ok(Err(error)) => trouble.met("publish hints", &error),
            Err(late) => trouble.met("publish hints", &late),
        }
        sleep(wire.gather()).await;
    }
}

async fn subscribe(farm: &Farm, wire: &dyn Wire, own: &str) {
    let mut trouble = Trouble::of(wire);
    loop {
        match timeout(PATIENCE, wire.subscribe()).await {
            Ok(Ok(messages)) => {
                trouble.over();
                // What was said meanwhile was not heard.
                farm.live.incoming(Hints::all());
                listen(farm, messages, own).await;
                tracing::debug!(wire = wire.name(), "silent; subscribing again");
            }
            Ok(Err(error)) => trouble.met("listen to hints", &error),
            Err(late) => trouble.met("listen to hints", &late),
        }
        sleep(PAUSE).await;
    }
}

/// Takes hints in until the connection ends or seems dead.
async fn listen(farm: &Farm, mut messages: BoxStream<'static, String>, own: &str) {
    while let Ok(Some(message)) = timeout(SILENCE, messages.next()).await {
        if let Some((sender, hints)) = message.split_once(' ')
            && sender != own
            && let Some(hints) = Hints::from_text(hints)
        {
            farm.live.incoming(hints);
        }
    }
}

/// Logs the beginning and the end of trouble, not every moment of it.
struct Trouble {
    wire: &'static str,
    lasts: bool,
}

impl Trouble {
    fn of(wire: &dyn Wire) -> Self {
        Self { wire: wire.name(), lasts: false }
    }

    fn met(&mut self, what: &str, error: &dyn Display) {
        if !std::mem::replace(&mut self.lasts, true) {
            tracing::warn!(wire = self.wire, %error, "cannot {what}; the farm goes on, slower to notice");
        }
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.lasts) {
            tracing::info!(wire = self.wire, "hints get through again");
        }
    }
}
