//! Why a job waits: gathers what the rule wants to know.

use sanafarm_proto::v1;

use super::convert;
use crate::auth::Principal;
use crate::domain::explain;
use crate::domain::explain::{Asked, Present, Refusing};
use crate::domain::schedule::{OpenJob, Plan, Worker};
use crate::farm::Farm;
use crate::store::Result;
use crate::store::records::{Job, NewSession, Presence};

pub(super) async fn explain(farm: &Farm, who: &Principal, job: Job) -> Result<v1::ExplainJobResponse> {
    let now = farm.store.clock();
    let backlog = farm.store.backlog(&job.id, now).await?;
    let sessions = farm.store.sessions().await?;
    let open = farm.store.open_jobs(now).await?;
    let present: Vec<_> = sessions
        .iter()
        .map(|presence| Present {
            name: &presence.session.worker,
            offers: offers(presence),
            excluded_until: presence.excluded_until,
        })
        .collect();
    let refusals = farm.store.refusals(now).await?;
    let pairs = || refusals.iter().map(|refusal| (refusal.job.as_str(), refusal.worker.as_str()));
    // As a worker sees them that fits this job and does not refuse it, has rendered nothing yet, and asks now.
    let fitting = present
        .iter()
        .filter(|worker| job.needs.lacks(&worker.offers).is_empty())
        .find(|worker| pairs().all(|pair| pair != (job.id.as_str(), worker.name)));
    let order: Vec<&OpenJob> = fitting.map_or_else(Vec::new, |worker| {
        let choices = Plan::new(&open, now).without(pairs()).choices(&worker.offers);
        choices.iter().filter_map(|choice| open.iter().find(|open| open.id == choice.job)).collect()
    });
    let refused_by: Vec<_> = refusals
        .iter()
        .filter(|refusal| refusal.job == job.id)
        .map(|refusal| Refusing { worker: &refusal.worker, why: &refusal.why, until: refusal.until })
        .collect();
    let asked = Asked {
        id: &job.id,
        needs: &job.needs,
        held_by: &job.held_by(),
        refused_by: &refused_by,
        deadline: job.deadline,
        end_reason: job.end_reason.as_deref(),
        only_owner: who.only_owner(),
    };
    let explanation = explain::explain(&asked, &backlog, &order, &present, now);
    Ok(convert::explanation_message(job, explanation))
}

fn offers(presence: &Presence) -> Worker<'_> {
    let NewSession { worker, devices, labels, .. } = &presence.session;
    Worker { name: worker, devices, labels, last: None }
}
