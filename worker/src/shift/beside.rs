//! Beside the images run the store stage, the reporter, renewals, and calls about leases.

use std::collections::BTreeMap;

use sanafarm_proto::v1::ReleaseReason;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::Shift;
use super::lease::Leased;
use crate::Error;
use crate::leases::LeaseKey;
use crate::outbox::Queues;
use crate::report::{Acknowledged, renew_leases, report_results};
use crate::session::CallError;
use crate::store::Store;

/// Acknowledgements under way.
const NOTES: usize = 64;

/// What runs beside the images.
pub(super) enum Aside {
    Renewed(Result<(), Error>),
    Stored(Result<(), Error>),
    Reported(Result<(), Error>),
    Released(Result<(), CallError>),
    Leased(Result<Option<Box<Leased>>, Error>),
}

impl Shift {
    /// Starts the store stage, the reporter and the renewal, and gives their acknowledgements.
    pub(super) fn start_conversations(
        &mut self,
        queues: Queues,
        uploads: usize,
        refusing: watch::Sender<BTreeMap<String, String>>,
        stop_renewing: &CancellationToken,
    ) -> mpsc::Receiver<Acknowledged> {
        let (acknowledge, acknowledgements) = mpsc::channel(NOTES);
        let Queues { work, reports } = queues;
        let (session, outbox) = (self.session.clone(), self.outbox.clone());
        let store = Store::new(session.clone(), outbox.clone(), acknowledge.clone(), uploads.max(1));
        // A worker for one job has nothing else to do than what is refused.
        let store = if self.job.is_empty() { store.tell_refusals(refusing) } else { store };
        let stop_storing = self.stop_storing.clone();
        self.asides.spawn(async { Aside::Stored(store.run(work, stop_storing).await) });
        let reporter = report_results(session.clone(), outbox, reports, acknowledge);
        self.asides.spawn(async { Aside::Reported(reporter.await) });
        let stats = self.outbox.stats().clone();
        let renewal =
            renew_leases(session, self.leases.clone(), stats, self.leave.clone(), stop_renewing.clone());
        self.asides.spawn(async { Aside::Renewed(renewal.await) });
        acknowledgements
    }

    /// Takes note of how one of these has ended.
    pub(super) fn settle_aside(&mut self, aside: Result<Aside, JoinError>) {
        let ended = match aside {
            Ok(Aside::Leased(leased)) => {
                self.leasing = None;
                leased.map(|leased| match leased {
                    Some(leased) => self.take(*leased),
                    None => self.limits.found_nothing(),
                })
            }
            Ok(Aside::Stored(ended)) => {
                self.storing = false;
                if ended.is_err() {
                    // No picture can be stored there: rendering on would be in vain.
                    self.stop.cancel();
                }
                ended
            }
            Ok(Aside::Reported(ended)) => {
                self.reporting = false;
                ended
            }
            Ok(Aside::Released(ended)) => {
                self.releasing -= 1;
                match ended {
                    Err(error) if error.is_away() => {
                        tracing::warn!(%error, "a lease is not handed back: it will expire");
                        Ok(())
                    }
                    ended => ended.map_err(Error::from),
                }
            }
            Ok(Aside::Renewed(ended)) => ended,
            // The lease that was being asked for when the worker left.
            Err(error) if error.is_cancelled() => Ok(()),
            Err(error) => Err(Error::Engine(format!("talk to the coordinator: {error}"))),
        };
        if let Err(error) = ended {
            self.fail(error);
        }
    }

    /// Hands a lease back beside the work.
    pub(super) fn release(&mut self, key: LeaseKey, cut_short: bool) {
        let (reason, message) = match (&self.failure, cut_short) {
            (Some(error @ (Error::Storage(_) | Error::Outbox(_))), _) => {
                (ReleaseReason::Storage, error.to_string())
            }
            (Some(error), _) => (ReleaseReason::Drain, error.to_string()),
            (None, true) => (ReleaseReason::Drain, "the worker leaves".into()),
            (None, false) => (ReleaseReason::Finished, "some images are to be tried again".into()),
        };
        self.hand_back(key, reason, message);
    }

    /// The same for a reason.
    pub(super) fn hand_back(&mut self, key: LeaseKey, reason: ReleaseReason, message: String) {
        let session = self.session.clone();
        self.releasing += 1;
        self.asides.spawn(async move { Aside::Released(session.release(&key, reason, message).await) });
    }
}
