//! Calls the webhooks of jobs that have ended. Which are due stands in the database, and whoever begins a try has it alone for
//! a while: any number of coordinators share them, and what a killed one left is tried again.
//!
//! - `call`: one call; `sign`: its signature

mod call;
mod sign;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Client;
use sanafarm_telemetry::coordinator::WEBHOOKS;
use tokio::task::JoinSet;

use crate::domain::webhook::{AllowedHost, is_too_late, wait_after};
use crate::farm::Farm;
use crate::store;
use crate::store::records::{Delivery, Tried};

pub use sign::WebhookSecret;

/// Calls at the same time: a receiver that hangs holds up few others.
const AT_ONCE: usize = 16;
/// How long a try belongs to who has begun it: longer than any takes.
const ALONE: Duration = Duration::from_secs(20);

/// Where webhooks may go, and what they are signed with.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// Hosts that may be called.
    pub hosts: Vec<AllowedHost>,
    /// Calls are signed with each of them: two while one takes over from the other.
    pub secrets: Vec<WebhookSecret>,
}

pub(super) async fn run(farm: Arc<Farm>) {
    // Others may be allowed to.
    let Some(webhooks) = farm.options.webhooks.clone() else { return };
    let caller = match call::client() {
        Ok(client) => Arc::new(Caller { farm: Arc::clone(&farm), client, webhooks }),
        Err(error) => return tracing::error!(%error, "make a client for webhooks: none is called"),
    };
    let mut calls = JoinSet::new();
    loop {
        let longest = farm.options.sweep_interval;
        let wait = match caller.start(&mut calls).await {
            Ok(next) => next.map_or(longest, |next| next.min(longest)),
            // Nothing is lost: the next round finds the same ones.
            Err(error) => {
                tracing::warn!(%error, "look for webhooks to call");
                longest
            }
        };
        tokio::select! {
            // What is under way is cut off and tried again by the next coordinator.
            () = farm.stop.cancelled() => return,
            Some(ended) = calls.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "call a webhook");
                }
            }
            () = farm.live.until_ended() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

struct Caller {
    farm: Arc<Farm>,
    client: Client,
    webhooks: Webhooks,
}

impl Caller {
    /// Begins as many of those that are due as there is room for. How long it is to the next one.
    async fn start(self: &Arc<Self>, calls: &mut JoinSet<()>) -> store::Result<Option<Duration>> {
        let (store, now) = (&self.farm.store, self.farm.store.clock());
        let due = |next: Timestamp| Duration::try_from(next.duration_since(now)).unwrap_or_default();
        let next = store.next_webhook().await?.map(due);
        let room = AT_ONCE.saturating_sub(calls.len());
        if room == 0 || next.is_none_or(|next| !next.is_zero()) {
            // With no room, the end of a call wakes.
            return Ok(next.filter(|next| !next.is_zero()));
        }
        let until = later(now, ALONE);
        let begun = store.begin_webhooks(room as u32, until, now).await?;
        let all = begun.len() < room;
        for delivery in begun {
            calls.spawn(Arc::clone(self).deliver(delivery));
        }
        let next = if all { store.next_webhook().await?.map(due) } else { None };
        Ok(next)
    }

    async fn deliver(self: Arc<Self>, delivery: Delivery) {
        let store = &self.farm.store;
        let called = call::call(&self.client, &self.webhooks, &delivery, store.clock()).await;
        let (now, job, attempt) = (store.clock(), &delivery.job, delivery.attempt);
        let tried = match called {
            Ok(()) => {
                tracing::info!(%job, attempt, "webhook delivered");
                Tried::Delivered
            }
            Err(refused) => {
                let wait = wait_after(attempt) / 2;
                let at = later(now, wait + sanafarm_storage::jitter(wait));
                let error = refused.error;
                if refused.gone || is_too_late(delivery.since, at) {
                    tracing::error!(%job, attempt, error, "webhook given up");
                    Tried::GivenUp { error }
                } else {
                    tracing::warn!(%job, attempt, error, "webhook is tried again");
                    Tried::Again { error, at }
                }
            }
        };
        let outcome = match &tried {
            Tried::Delivered => "delivered",
            Tried::Again { .. } => "again",
            Tried::GivenUp { .. } => "given_up",
        };
        metrics::counter!(WEBHOOKS, "outcome" => outcome).increment(1);
        match store.end_webhook(&delivery, &tried, now).await {
            Ok(()) => self.farm.live.job_changed(),
            // It is called again when its time is over: better twice than never.
            Err(error) => tracing::warn!(%job, %error, "record what came of a webhook"),
        }
    }
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}
