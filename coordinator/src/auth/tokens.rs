//! The tokens that are in use, as the database has them.
//!
//! A token is read from the database when it is first seen, and again every few seconds while it is in use, by one
//! question for all: a call costs none, and one that was revoked anywhere ends here within seconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::limits::{Allowance, Limits};
use super::lookup::Lookups;
use super::principal::Principal;
use super::secret::{Hash, read};
use crate::farm::Farm;
use crate::store::records::TokenRecord;
use crate::store::{Result, Store};

/// How often the database is asked for those in use.
const REFRESH: Duration = Duration::from_secs(2);
/// One that was not used for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// When a token was last used is written down this often at most.
const WRITE_USE: Duration = Duration::from_secs(60);

/// The tokens that are in use, by the hash of the secret that was shown.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Hash, Arc<Known>>>,
    refreshing: tokio::sync::Mutex<()>,
}

/// A token that was good when it was last looked at.
#[derive(Debug)]
pub(super) struct Known {
    pub id: String,
    pub principal: Principal,
    pub allowance: Allowance,
    /// Cancelled when it is good no more.
    pub revoked: CancellationToken,
    expires_at: Option<Timestamp>,
    /// In milliseconds after 1970.
    used_at: AtomicI64,
    written_at: AtomicI64,
}

impl Tokens {
    /// A token that is in use already: costs nothing.
    pub(super) fn in_use(&self, text: &str, now: Timestamp) -> Option<Arc<Known>> {
        let (id, hash) = read(text)?;
        let known = self.known().get(&hash).cloned()?;
        let good =
            known.id == id && !known.revoked.is_cancelled() && known.expires_at.is_none_or(|end| now < end);
        good.then(|| {
            known.used_at.store(now.as_millisecond(), Ordering::Relaxed);
            known
        })
    }

    /// Asks the database. None for a token that is not good.
    pub(super) async fn look_up(
        &self,
        lookups: &Lookups,
        text: &str,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Option<Arc<Known>>> {
        let Some((id, hash)) = read(text) else { return Ok(None) };
        let found = lookups.call(id.to_owned()).await?;
        let Some(token) = found.filter(|token| accepts(token, &hash, now)) else { return Ok(None) };
        let known = Arc::new(Known {
            allowance: Allowance::new(limits, token.role),
            revoked: CancellationToken::new(),
            expires_at: token.expires_at,
            used_at: AtomicI64::new(now.as_millisecond()),
            written_at: AtomicI64::new(token.last_used_at.map_or(0, Timestamp::as_millisecond)),
            id: token.id,
            principal: Principal {
                name: Some(token.name),
                role: Some(token.role),
                owner: token.owner,
                worker: token.worker,
            },
        });
        // Another call may have been faster: its allowance is the one that counts.
        Ok(Some(Arc::clone(self.known().entry(hash).or_insert(known))))
    }

    /// Compares those in use with the database, and writes down that they were used.
    pub async fn refresh(&self, store: &dyn Store, now: Timestamp) -> Result<()> {
        // Who comes second finds written down what the first one took note of.
        let _one = self.refreshing.lock().await;
        let known: Vec<(Hash, Arc<Known>)> =
            self.known().iter().map(|(hash, known)| (*hash, Arc::clone(known))).collect();
        if known.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = known.iter().map(|(_, known)| known.id.clone()).collect();
        let found: HashMap<String, TokenRecord> =
            store.tokens_by_id(&ids).await?.into_iter().map(|token| (token.id.clone(), token)).collect();
        let mut used = Vec::new();
        for (hash, known) in known {
            let (used_at, written_at) =
                (known.used_at.load(Ordering::Relaxed), known.written_at.load(Ordering::Relaxed));
            if used_at - written_at >= milliseconds(WRITE_USE) {
                known.written_at.store(used_at, Ordering::Relaxed);
                used.push((known.id.clone(), Timestamp::from_millisecond(used_at).unwrap_or(now)));
            }
            if !found.get(&known.id).is_some_and(|token| accepts(token, &hash, now)) {
                tracing::info!(token = known.id, "a token is good no more");
                known.revoked.cancel();
                self.known().remove(&hash);
                continue;
            }
            if now.as_millisecond() - used_at >= milliseconds(FORGET) {
                // Calls get it from the map, and meanwhile nobody does. Held by the map and by this loop, no call runs with it.
                let mut all = self.known();
                if Arc::strong_count(&known) == 2 {
                    all.remove(&hash);
                }
            }
        }
        if !used.is_empty() {
            store.tokens_used(&used).await?;
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Hash, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps them as the database has them, until the farm stops.
pub(crate) async fn keep(farm: Arc<Farm>) {
    loop {
        tokio::select! {
            () = farm.stop.cancelled() => return,
            () = tokio::time::sleep(REFRESH) => {}
        }
        // Every call needs the database too: nobody gets further while it is away.
        if let Err(error) = farm.tokens.refresh(farm.store.as_ref(), farm.store.clock()).await {
            tracing::warn!(%error, "look at the tokens in use");
        }
    }
}

/// Whether a secret with this hash is good for the token now.
fn accepts(token: &TokenRecord, hash: &Hash, now: Timestamp) -> bool {
    let same = |kept: &[u8]| bool::from(kept.ct_eq(hash));
    let old = token.old_hash.as_deref().filter(|_| token.old_expires_at.is_some_and(|end| now < end));
    token.revoked_at.is_none()
        && token.expires_at.is_none_or(|end| now < end)
        && (same(&token.hash) || old.is_some_and(same))
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
