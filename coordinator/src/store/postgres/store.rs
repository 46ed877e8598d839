//! The trait, call by call: each is one duty's.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::domain::blame::Caps;
use crate::domain::explain::Backlog;
use crate::domain::id::{JobId, SessionId};
use crate::domain::leaving::Drain;
use crate::domain::schedule::OpenJob;
use crate::domain::spec::JobSpec;
use crate::domain::speed::Speed;
use crate::domain::state::{ImageState, JobState};
use crate::domain::submission::Batch;
use crate::domain::tail::Share;
use crate::store::records::*;
use crate::store::{Result, Store};

use super::trouble::retried;
use super::{
    PostgresStore, archives, change, demand, finish, lease, listing, overview, presence, purge, query, read,
    refusals, report, session, signing, speeds, stories, submit, sweep, tail, tokens, turn, waiting,
    webhooks,
};

#[async_trait]
impl Store for PostgresStore {
    fn clock(&self) -> Timestamp {
        self.clock.now()
    }

    async fn set_clock(&self) -> Result<()> {
        self.heard(self.clock.compare(&self.pool).await)
    }

    async fn begin_job(&self, spec: &JobSpec, now: Timestamp) -> Result<Begun> {
        self.heard(retried!(submit::begin_job(self, spec, now)))
    }

    async fn add_batch(&self, job: &JobId, batch: &Batch, now: Timestamp) -> Result<()> {
        self.heard(retried!(submit::add_batch(self, job, batch, now)))
    }

    async fn seal_job(&self, job: &JobId, batch: &Batch, now: Timestamp) -> Result<Job> {
        self.heard(retried!(submit::seal_job(self, job, batch, now)))
    }

    async fn abandon_job(&self, job: &JobId) -> Result<()> {
        self.heard(retried!(purge::abandon_job(self, job)))
    }

    async fn purge(&self) -> Result<bool> {
        self.heard(retried!(purge::purge(self)))
    }

    async fn speeds(&self, model: &str) -> Result<Vec<Speed>> {
        self.heard(speeds::speeds(self, model).await)
    }

    async fn job_of(&self, owner: Option<&str>, id: &str) -> Result<Job> {
        self.heard(read::job(self, owner, id).await)
    }

    async fn refusals(&self, now: Timestamp) -> Result<Vec<Refusal>> {
        self.heard(refusals::refusals(self, now).await)
    }

    async fn jobs(&self, owner: Option<&str>, states: &[JobState], limit: u32) -> Result<Vec<Job>> {
        self.heard(read::jobs(self, owner, states, limit).await)
    }

    async fn images(&self, job: &JobId, states: &[ImageState], from: u64, limit: u32) -> Result<Vec<Image>> {
        self.heard(read::images(self, job, states, from, limit).await)
    }

    async fn backlog(&self, job: &JobId, now: Timestamp) -> Result<Backlog> {
        self.heard(presence::backlog(self, job, now).await)
    }

    async fn reach(&self) -> Result<()> {
        self.heard(overview::reach(self).await)
    }

    fn connections(&self) -> Connections {
        overview::connections(self)
    }

    async fn overview(&self, now: Timestamp) -> Result<Overview> {
        self.heard(overview::overview(self, now).await)
    }

    async fn sessions(&self) -> Result<Vec<Presence>> {
        self.heard(presence::sessions(self).await)
    }

    async fn change_job(&self, job: &JobId, change: &Change, by: &By, now: Timestamp) -> Result<Changed> {
        self.heard(retried!(change::change_job(self, job, change, by, now)))
    }

    async fn hold_owner(&self, owner: &str, held: bool, by: &By, now: Timestamp) -> Result<()> {
        self.heard(retried!(change::hold_owner(self, owner, held, by, now)))
    }

    async fn weigh_owner(&self, owner: &str, weight: f64, by: &By, now: Timestamp) -> Result<()> {
        self.heard(retried!(change::weigh_owner(self, owner, weight, by, now)))
    }

    async fn open_session(&self, session: &NewSession, now: Timestamp) -> Result<SessionId> {
        self.heard(retried!(session::open_session(self, session, now)))
    }

    async fn close_session(&self, session: &SessionId, reason: &str, now: Timestamp) -> Result<()> {
        self.heard(retried!(session::close_session(self, session, reason, now)))
    }

    async fn session(&self, session: &SessionId) -> Result<NewSession> {
        self.heard(session::session(self, session).await)
    }

    async fn open_jobs(&self, now: Timestamp) -> Result<Vec<OpenJob>> {
        self.heard(lease::open_jobs(self, now).await)
    }

    async fn lease_shards(
        &self,
        claims: &[Claim],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Option<Lease>>>> {
        self.heard(lease::lease_shards(self, claims, duration, now).await)
    }

    async fn tails(&self, now: Timestamp) -> Result<Vec<Tail>> {
        self.heard(tail::tails(self, now).await)
    }

    async fn idle(&self, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
        self.heard(tail::idle(self, sessions).await)
    }

    async fn take_over(
        &self,
        session: &SessionId,
        share: &Share,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<Lease>> {
        self.heard(tail::take_over(self, session, share, duration, now).await)
    }

    async fn renew_leases(
        &self,
        renewals: &[Renewal],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Renewed>>> {
        self.heard(retried!(session::renew_leases(self, renewals, duration, now)))
    }

    async fn drain(&self, of: &OfWorker, drain: Drain, by: &By, now: Timestamp) -> Result<Vec<SessionId>> {
        self.heard(retried!(session::drain(self, of, drain, by, now)))
    }

    async fn attempt_objects(&self, session: &SessionId, lease: &LeaseRef) -> Result<AttemptObjects> {
        self.heard(signing::attempt_objects(self, session, lease).await)
    }

    async fn release_lease(
        &self,
        session: &SessionId,
        lease: &LeaseRef,
        release: &Release,
        now: Timestamp,
    ) -> Result<()> {
        self.heard(retried!(session::release_lease(self, session, lease, release, now)))
    }

    async fn report_results(
        &self,
        reports: &[Report],
        caps: Caps,
        now: Timestamp,
    ) -> Result<Vec<Result<Reported>>> {
        self.heard(report::report_results(self, reports, caps, now).await)
    }

    async fn recover(&self, lease_duration: Duration, now: Timestamp) -> Result<Recovered> {
        self.heard(retried!(sweep::recover(self, lease_duration, now)))
    }

    async fn turn(&self, duty: &Duty) -> Result<Option<Turn>> {
        self.heard(turn::turn(self, duty).await)
    }

    async fn expire_leases(&self, caps: Caps, now: Timestamp) -> Result<u64> {
        self.heard(retried!(sweep::expire_leases(self, caps, now)))
    }

    async fn close_silent_sessions(&self, before: Timestamp, now: Timestamp) -> Result<u64> {
        self.heard(retried!(session::close_silent_sessions(self, before, now)))
    }

    async fn call_off(&self, now: Timestamp) -> Result<Vec<CalledOff>> {
        self.heard(waiting::call_off(self, now).await)
    }

    async fn next_deadline(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        self.heard(waiting::next_deadline(self, now).await)
    }

    async fn begin_webhooks(&self, limit: u32, until: Timestamp, now: Timestamp) -> Result<Vec<Delivery>> {
        self.heard(retried!(webhooks::begin_webhooks(self, limit, until, now)))
    }

    async fn end_webhook(&self, delivery: &Delivery, tried: &Tried, now: Timestamp) -> Result<()> {
        self.heard(retried!(webhooks::end_webhook(self, delivery, tried, now)))
    }

    async fn next_webhook(&self) -> Result<Option<Timestamp>> {
        self.heard(webhooks::next_webhook(self).await)
    }

    async fn demand(&self) -> Result<Vec<Demand>> {
        self.heard(demand::demand(self).await)
    }

    async fn outputs_to_publish(&self) -> Result<Vec<String>> {
        self.heard(archives::outputs_to_publish(self).await)
    }

    async fn number_archives(&self, output: &str, limit: u32) -> Result<Vec<Archive>> {
        self.heard(retried!(archives::number_archives(self, output, limit)))
    }

    async fn archive_published(&self, lease: &LeaseRef, now: Timestamp) -> Result<()> {
        self.heard(archives::archive_published(self, lease, now).await)
    }

    async fn archives(&self, output: &str, from: u64, limit: u32) -> Result<Vec<Archive>> {
        self.heard(archives::archives(self, output, from, limit).await)
    }

    async fn archive_rows(&self, archive: &Archive) -> Result<Vec<ManifestRow>> {
        self.heard(read::archive_rows(self, archive).await)
    }

    async fn jobs_of_output(&self, output: &str) -> Result<Vec<Job>> {
        self.heard(read::jobs_of_output(self, output).await)
    }

    async fn jobs_to_finish(&self) -> Result<Vec<Job>> {
        self.heard(finish::jobs_to_finish(self).await)
    }

    async fn finish_job(&self, job: &JobId, now: Timestamp) -> Result<Job> {
        self.heard(retried!(finish::finish_job(self, job, now)))
    }

    async fn record_output_error(&self, job: &JobId, error: &str, now: Timestamp) -> Result<()> {
        self.heard(retried!(finish::record_output_error(self, job, error, now)))
    }

    async fn columns(&self, job: &JobId) -> Result<Vec<String>> {
        self.heard(read::columns(self, job).await)
    }

    async fn manifest_rows(&self, job: &JobId, from: u64, limit: u32) -> Result<Vec<ManifestRow>> {
        self.heard(read::manifest_rows(self, job, from, limit).await)
    }

    async fn objects(
        &self,
        output: &str,
        manifests: &[String],
    ) -> Result<BoxStream<'static, Result<Vec<Listed>>>> {
        self.heard(listing::objects(self, output, manifests).await)
    }

    async fn worker(&self, name: &str) -> Result<Option<OfWorker>> {
        self.heard(stories::worker(self, name).await)
    }

    async fn events(&self, of: &Subject, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        self.heard(stories::events(self, of, after, limit).await)
    }

    async fn newest(&self, of: &Subject, count: u64) -> Result<Newest> {
        self.heard(stories::newest(self, of, count).await)
    }

    async fn counts(&self, of: &Subject) -> Result<BTreeMap<String, u64>> {
        self.heard(stories::counts(self, of).await)
    }

    async fn yielded(&self, of: &Subject) -> Result<Yield> {
        self.heard(stories::yielded(self, of).await)
    }

    async fn logs(&self, job: &JobId, index: u64, after: u32, limit: u32) -> Result<Vec<AttemptLog>> {
        self.heard(stories::logs(self, job, index, after, limit).await)
    }

    async fn image_story(&self, job: &JobId, index: u64) -> Result<Option<ImageStory>> {
        self.heard(stories::image_story(self, job, index).await)
    }

    async fn query(&self, sql: &str, limit: Duration) -> Result<BoxStream<'static, Result<Answer>>> {
        self.heard(query::query(self, sql, limit).await)
    }

    async fn create_token(&self, token: &NewToken, now: Timestamp) -> Result<TokenRecord> {
        self.heard(tokens::create(self, token, now).await)
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.heard(tokens::all(self).await)
    }

    async fn tokens_by_id(&self, ids: &[String]) -> Result<Vec<TokenRecord>> {
        self.heard(tokens::by_id(self, ids).await)
    }

    async fn rotate_token(
        &self,
        id: &str,
        hash: &[u8],
        old_until: Timestamp,
        now: Timestamp,
    ) -> Result<TokenRecord> {
        self.heard(tokens::rotate(self, id, hash, old_until, now).await)
    }

    async fn revoke_token(&self, id: &str, now: Timestamp) -> Result<TokenRecord> {
        self.heard(tokens::revoke(self, id, now).await)
    }

    async fn tokens_used(&self, used: &[(String, Timestamp)]) -> Result<()> {
        self.heard(tokens::used(self, used).await)
    }

    async fn close(&self) {
        self.duties.close().await;
        self.pool.close().await;
        self.life.end().await;
    }
}
