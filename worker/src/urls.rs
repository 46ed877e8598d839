//! URLs that the coordinator signed: asked for all objects of a lease at once, and kept while they are good.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sanafarm_proto::v1::{Lease, SignedObject};
use tokio::time::Instant;

use crate::leases::LeaseKey;
use crate::session::{CallError, Session};

/// Leases that are known: more than a worker holds at a time, and than an outbox has of, as a rule.
const MOST_LEASES: usize = 64;
/// Objects that a coordinator signs in one call.
const AT_ONCE: usize = 1000;
/// The longest that a URL is kept. It does not go by the clocks of two machines alone.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// A URL, and until when it is used again.
#[derive(Clone, Debug)]
struct Kept {
    signed: SignedObject,
    until: Instant,
}

#[derive(Debug)]
struct OfLease {
    lease: LeaseKey,
    /// By name, those that have been signed and those that will have to be.
    objects: BTreeMap<String, Option<Kept>>,
}

/// What a worker without keys writes to.
#[derive(Debug, Default)]
pub(crate) struct Urls {
    /// The newest last.
    leases: Mutex<Vec<OfLease>>,
    /// Held by the one caller that asks; the others find what they want in its answer.
    asking: tokio::sync::Mutex<()>,
}

impl Urls {
    /// Takes note of what will be written under a lease.
    pub(crate) fn expect(&self, lease: &LeaseKey, names: impl IntoIterator<Item = String>) {
        let mut leases = self.lock();
        let known = of_lease(&mut leases, lease);
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            known.objects.entry(name).or_insert(None);
        }
    }

    /// The same of a lease that was just given.
    pub(crate) fn expect_all(&self, lease: &Lease) {
        let Some(key) = lease.r#ref.clone().filter(|_| lease.presigned) else { return };
        let thumbnails = lease.images.iter().map(|image| image.thumbnail.clone());
        // In a tar, pictures are no objects.
        let pictures = lease.images.iter().filter(|_| lease.archive.is_empty());
        let names = thumbnails.chain(pictures.map(|image| image.object.clone()));
        self.expect(&key.into(), names.chain([lease.archive.clone()]));
    }

    /// A URL for an object of a lease, and whether it was kept from an earlier answer; `anew` when that one was refused.
    /// None when the coordinator sent none.
    pub(crate) async fn of(
        &self,
        session: &Session,
        lease: &LeaseKey,
        object: &str,
        anew: bool,
    ) -> Result<Option<(SignedObject, bool)>, CallError> {
        if anew {
            self.forget(lease);
        }
        if let Ok(kept) = self.find(lease, object) {
            return Ok(Some((kept, true)));
        }
        let _one_at_a_time = self.asking.lock().await;
        let wanted = match self.find(lease, object) {
            Ok(kept) => return Ok(Some((kept, true))),
            Err(wanted) => wanted,
        };
        let alone = wanted.len() == 1;
        let signed = match session.sign(lease, wanted).await {
            // One of the others may be the reason.
            Err(error) if !alone && error.is_final() => {
                tracing::debug!(%error, object, "asking for one URL alone");
                session.sign(lease, vec![object.to_owned()]).await?
            }
            signed => signed?,
        };
        let found = signed.iter().find(|signed| signed.object == object).cloned();
        self.keep(lease, signed);
        Ok(found.map(|signed| (signed, false)))
    }

    /// The URL of an object, or what is to be asked for: the object, and others of its lease that have none.
    fn find(&self, lease: &LeaseKey, object: &str) -> Result<SignedObject, Vec<String>> {
        let mut leases = self.lock();
        let known = of_lease(&mut leases, lease);
        let now = Instant::now();
        let good = |kept: &Option<Kept>| kept.as_ref().is_some_and(|kept| kept.until > now);
        if let Some(Some(kept)) = known.objects.get(object).filter(|kept| good(kept)) {
            return Ok(kept.signed.clone());
        }
        // What comes after it by name is likely to be wanted next.
        let after = known.objects.range::<str, _>((Bound::Excluded(object), Bound::Unbounded));
        let before = known.objects.range::<str, _>((Bound::Unbounded, Bound::Excluded(object)));
        let others = after.chain(before).filter(|(_, kept)| !good(kept)).map(|(name, _)| name.clone());
        Err(std::iter::once(object.to_owned()).chain(others).take(AT_ONCE).collect())
    }

    fn keep(&self, lease: &LeaseKey, signed: Vec<SignedObject>) {
        let mut leases = self.lock();
        let known = of_lease(&mut leases, lease);
        for signed in signed {
            let until = Instant::now() + good_for(&signed, SystemTime::now());
            known.objects.insert(signed.object.clone(), Some(Kept { signed, until }));
        }
    }

    fn forget(&self, lease: &LeaseKey) {
        of_lease(&mut self.lock(), lease).objects.values_mut().for_each(|kept| *kept = None);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OfLease>> {
        // No critical section above leaves it half-changed.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a lease; the oldest makes room.
fn of_lease<'a>(leases: &'a mut Vec<OfLease>, lease: &LeaseKey) -> &'a mut OfLease {
    let at = leases.iter().position(|known| known.lease == *lease).unwrap_or_else(|| {
        if leases.len() == MOST_LEASES {
            leases.remove(0);
        }
        leases.push(OfLease { lease: lease.clone(), objects: BTreeMap::new() });
        leases.len() - 1
    });
    &mut leases[at]
}

/// How long a URL is used: half of the time that it has left, so that what begins with it ends in time.
fn good_for(signed: &SignedObject, now: SystemTime) -> Duration {
    let expires = signed.expires_at.and_then(|time| SystemTime::try_from(time).ok());
    let left = expires.and_then(|expires| expires.duration_since(now).ok()).unwrap_or_default();
    (left / 2).min(LONGEST)
}
