//! Whose sessions a caller may speak for. Their ids are no secret.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tonic::Status;

use super::status::status;
use crate::auth::Principal;
use crate::domain::id::SessionId;
use crate::farm::Farm;
use crate::store::Error;

/// Sessions whose worker is kept in mind.
const MOST_SESSIONS: usize = 10_000;

/// The worker of each session that a caller of one worker has spoken for: it never changes.
#[derive(Debug, Default)]
pub(crate) struct SessionWorkers(Mutex<HashMap<String, String>>);

impl SessionWorkers {
    async fn worker(&self, farm: &Farm, session: &str) -> Result<String, Status> {
        // No critical section leaves it half-changed.
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned();
        if let Some(worker) = known {
            return Ok(worker);
        }
        let found = farm.store.worker(session).await.map_err(status)?;
        // A worker whose name is that of a session is no session.
        let found = found.filter(|found| found.session.is_some());
        let unknown = || status(Error::NotFound { what: "session", id: session.to_owned() });
        let worker = found.ok_or_else(unknown)?.worker;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_SESSIONS {
            all.clear();
        }
        all.insert(session.to_owned(), worker.clone());
        Ok(worker)
    }
}

/// The session that a call is about. Refuses that of another worker to who is one worker only.
pub(super) async fn own(farm: &Farm, who: &Principal, session: String) -> Result<SessionId, Status> {
    if who.worker.is_some() {
        who.must_be_worker(&farm.sessions.worker(farm, &session).await?)?;
    }
    Ok(SessionId::from(session))
}
