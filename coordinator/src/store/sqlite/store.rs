//! The trait, call by call: each is one duty's.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::{Result, Store};
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

use super::{
    SqliteStore, archives, change, demand, finish, lease, listing, overview, presence, query, read, refusals,
    report, session, signing, speeds, stories, submit, sweep, tail, tokens, waiting, webhooks,
};

#[async_trait]
impl Store for SqliteStore {
    fn clock(&self) -> Timestamp {
        Timestamp::now()
    }

    /// The machine does.
    async fn set_clock(&self) -> Result<()> {
        Ok(())
    }

    async fn begin_job(&self, spec: &JobSpec, now: Timestamp) -> Result<Begun> {
        self.written(submit::begin_job(self, spec, now).await)
    }

    async fn add_batch(&self, job: &JobId, batch: &Batch, now: Timestamp) -> Result<()> {
        self.written(submit::add_batch(self, job, batch, now).await)
    }

    async fn seal_job(&self, job: &JobId, batch: &Batch, now: Timestamp) -> Result<Job> {
        self.written(submit::seal_job(self, job, batch, now).await)
    }

    async fn abandon_job(&self, job: &JobId) -> Result<()> {
        self.written(submit::abandon_job(self, job).await)
    }

    async fn purge(&self) -> Result<bool> {
        self.written(submit::purge(self).await)
    }

    async fn speeds(&self, model: &str) -> Result<Vec<Speed>> {
        speeds::speeds(self, model).await
    }

    async fn job_of(&self, owner: Option<&str>, id: &str) -> Result<Job> {
        read::job(self, owner, id).await
    }

    async fn refusals(&self, now: Timestamp) -> Result<Vec<Refusal>> {
        refusals::refusals(self, now).await
    }

    async fn jobs(&self, owner: Option<&str>, states: &[JobState], limit: u32) -> Result<Vec<Job>> {
        read::jobs(self, owner, states, limit).await
    }

    async fn images(&self, job: &JobId, states: &[ImageState], from: u64, limit: u32) -> Result<Vec<Image>> {
        read::images(self, job, states, from, limit).await
    }

    async fn backlog(&self, job: &JobId, now: Timestamp) -> Result<Backlog> {
        presence::backlog(self, job, now).await
    }

    async fn reach(&self) -> Result<()> {
        overview::reach(self).await
    }

    fn connections(&self) -> Connections {
        overview::connections(self)
    }

    async fn overview(&self, now: Timestamp) -> Result<Overview> {
        overview::overview(self, now).await
    }

    async fn sessions(&self) -> Result<Vec<Presence>> {
        presence::sessions(self).await
    }

    async fn change_job(&self, job: &JobId, change: &Change, by: &By, now: Timestamp) -> Result<Changed> {
        self.written(change::change_job(self, job, change, by, now).await)
    }

    async fn hold_owner(&self, owner: &str, held: bool, by: &By, now: Timestamp) -> Result<()> {
        self.written(change::hold_owner(self, owner, held, by, now).await)
    }

    async fn weigh_owner(&self, owner: &str, weight: f64, by: &By, now: Timestamp) -> Result<()> {
        self.written(change::weigh_owner(self, owner, weight, by, now).await)
    }

    async fn open_session(&self, session: &NewSession, now: Timestamp) -> Result<SessionId> {
        self.written(session::open_session(self, session, now).await)
    }

    async fn close_session(&self, session: &SessionId, reason: &str, now: Timestamp) -> Result<()> {
        self.written(session::close_session(self, session, reason, now).await)
    }

    async fn session(&self, session: &SessionId) -> Result<NewSession> {
        session::session(self, session).await
    }

    async fn open_jobs(&self, now: Timestamp) -> Result<Vec<OpenJob>> {
        lease::open_jobs(self, now).await
    }

    async fn lease_shards(
        &self,
        claims: &[Claim],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Option<Lease>>>> {
        self.written(lease::lease_shards(self, claims, duration, now).await)
    }

    async fn tails(&self, now: Timestamp) -> Result<Vec<Tail>> {
        tail::tails(self, now).await
    }

    async fn idle(&self, sessions: &[SessionId]) -> Result<Vec<SessionId>> {
        tail::idle(self, sessions).await
    }

    async fn take_over(
        &self,
        session: &SessionId,
        share: &Share,
        duration: Duration,
        now: Timestamp,
    ) -> Result<Option<Lease>> {
        self.written(tail::take_over(self, session, share, duration, now).await)
    }

    async fn renew_leases(
        &self,
        renewals: &[Renewal],
        duration: Duration,
        now: Timestamp,
    ) -> Result<Vec<Result<Renewed>>> {
        self.written(session::renew_leases(self, renewals, duration, now).await)
    }

    async fn drain(&self, of: &OfWorker, drain: Drain, by: &By, now: Timestamp) -> Result<Vec<SessionId>> {
        self.written(session::drain(self, of, drain, by, now).await)
    }

    async fn attempt_objects(&self, session: &SessionId, lease: &LeaseRef) -> Result<AttemptObjects> {
        signing::attempt_objects(self, session, lease).await
    }

    async fn release_lease(
        &self,
        session: &SessionId,
        lease: &LeaseRef,
        release: &Release,
        now: Timestamp,
    ) -> Result<()> {
        self.written(session::release_lease(self, session, lease, release, now).await)
    }

    async fn report_results(
        &self,
        reports: &[Report],
        caps: Caps,
        now: Timestamp,
    ) -> Result<Vec<Result<Reported>>> {
        self.written(report::report_results(self, reports, caps, now).await)
    }

    async fn recover(&self, lease_duration: Duration, now: Timestamp) -> Result<Recovered> {
        self.written(sweep::recover(self, lease_duration, now).await)
    }

    async fn turn(&self, _duty: &Duty) -> Result<Option<Turn>> {
        Ok(Some(Turn::alone()))
    }

    async fn expire_leases(&self, caps: Caps, now: Timestamp) -> Result<u64> {
        self.written(sweep::expire_leases(self, caps, now).await)
    }

    async fn close_silent_sessions(&self, before: Timestamp, now: Timestamp) -> Result<u64> {
        self.written(session::close_silent_sessions(self, before, now).await)
    }

    async fn call_off(&self, now: Timestamp) -> Result<Vec<CalledOff>> {
        self.written(waiting::call_off(self, now).await)
    }

    async fn next_deadline(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        waiting::next_deadline(self, now).await
    }

    async fn begin_webhooks(&self, limit: u32, until: Timestamp, now: Timestamp) -> Result<Vec<Delivery>> {
        self.written(webhooks::begin_webhooks(self, limit, until, now).await)
    }

    async fn end_webhook(&self, delivery: &Delivery, tried: &Tried, now: Timestamp) -> Result<()> {
        self.written(webhooks::end_webhook(self, delivery, tried, now).await)
    }

    async fn next_webhook(&self) -> Result<Option<Timestamp>> {
        webhooks::next_webhook(self).await
    }

    async fn demand(&self) -> Result<Vec<Demand>> {
        demand::demand(self).await
    }

    async fn outputs_to_publish(&self) -> Result<Vec<String>> {
        archives::outputs_to_publish(self).await
    }

    async fn number_archives(&self, output: &str, limit: u32) -> Result<Vec<Archive>> {
        self.written(archives::number_archives(self, output, limit).await)
    }

    async fn archive_published(&self, lease: &LeaseRef, now: Timestamp) -> Result<()> {
        self.written(archives::archive_published(self, lease, now).await)
    }

    async fn archives(&self, output: &str, from: u64, limit: u32) -> Result<Vec<Archive>> {
        archives::archives(self, output, from, limit).await
    }

    async fn archive_rows(&self, archive: &Archive) -> Result<Vec<ManifestRow>> {
        read::archive_rows(self, archive).await
    }

    async fn jobs_of_output(&self, output: &str) -> Result<Vec<Job>> {
        read::jobs_of_output(self, output).await
    }

    async fn jobs_to_finish(&self) -> Result<Vec<Job>> {
        finish::jobs_to_finish(self).await
    }

    async fn finish_job(&self, job: &JobId, now: Timestamp) -> Result<Job> {
        self.written(finish::finish_job(self, job, now).await)
    }

    async fn record_output_error(&self, job: &JobId, error: &str, now: Timestamp) -> Result<()> {
        self.written(finish::record_output_error(self, job, error, now).await)
    }

    async fn columns(&self, job: &JobId) -> Result<Vec<String>> {
        read::columns(self, job).await
    }

    async fn manifest_rows(&self, job: &JobId, from: u64, limit: u32) -> Result<Vec<ManifestRow>> {
        read::manifest_rows(self, job, from, limit).await
    }

    async fn objects(
        &self,
        output: &str,
        manifests: &[String],
    ) -> Result<BoxStream<'static, Result<Vec<Listed>>>> {
        listing::objects(self, output, manifests).await
    }

    async fn worker(&self, name: &str) -> Result<Option<OfWorker>> {
        stories::worker(self, name).await
    }

    async fn events(&self, of: &Subject, after: u64, limit: u32) -> Result<Vec<EventRecord>> {
        stories::events(self, of, after, limit).await
    }

    async fn newest(&self, of: &Subject, count: u64) -> Result<Newest> {
        stories::newest(self, of, count).await
    }

    async fn counts(&self, of: &Subject) -> Result<BTreeMap<String, u64>> {
        stories::counts(self, of).await
    }

    async fn yielded(&self, of: &Subject) -> Result<Yield> {
        stories::yielded(self, of).await
    }

    async fn logs(&self, job: &JobId, index: u64, after: u32, limit: u32) -> Result<Vec<AttemptLog>> {
        stories::logs(self, job, index, after, limit).await
    }

    async fn image_story(&self, job: &JobId, index: u64) -> Result<Option<ImageStory>> {
        stories::image_story(self, job, index).await
    }

    async fn query(&self, sql: &str, limit: Duration) -> Result<BoxStream<'static, Result<Answer>>> {
        query::query(self, sql, limit).await
    }

    async fn create_token(&self, token: &NewToken, now: Timestamp) -> Result<TokenRecord> {
        self.written(tokens::create(self, token, now).await)
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>> {
        tokens::all(self).await
    }

    async fn tokens_by_id(&self, ids: &[String]) -> Result<Vec<TokenRecord>> {
        tokens::by_id(self, ids).await
    }

    async fn rotate_token(
        &self,
        id: &str,
        hash: &[u8],
        old_until: Timestamp,
        now: Timestamp,
    ) -> Result<TokenRecord> {
        self.written(tokens::rotate(self, id, hash, old_until, now).await)
    }

    async fn revoke_token(&self, id: &str, now: Timestamp) -> Result<TokenRecord> {
        self.written(tokens::revoke(self, id, now).await)
    }

    async fn tokens_used(&self, used: &[(String, Timestamp)]) -> Result<()> {
        self.written(tokens::used(self, used).await)
    }

    async fn close(&self) {
        // The writer last: closing it folds the write-ahead log back into the file.
        self.reader.close().await;
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }
}
