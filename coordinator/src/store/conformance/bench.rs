//! A store with a clock of its own and the steps that most behaviours share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::domain::blame::{Caps, ErrorClass};
use crate::domain::form::{Form, ImageFormat};
use crate::domain::id::{JobId, SessionId};
use crate::domain::schedule::{Needs, Plan, Worker};
use crate::domain::settings::{BinMode, DecodeMode, Settings};
use crate::domain::spec::{JobSpec, Row};
use crate::domain::submission::Submission;
use crate::store::records::*;
use crate::store::{Error, Result, Store};

pub(crate) const LEASE: Duration = Duration::from_secs(60);
pub(crate) const CAPS: Caps = Caps { errors: 3, workers: 2, losses: 2 };

/// The answers to a query that has begun: on a busy machine that alone may take longer than its limit.
pub(crate) async fn begun(
    store: &dyn Store,
    sql: &str,
    limit: Duration,
) -> BoxStream<'static, Result<Answer>> {
    loop {
        match store.query(sql, limit).await {
            Err(Error::TimedOut(_) | Error::Crowded) => {}
            answers => break answers.unwrap(),
        }
    }
}

pub(crate) struct Bench {
    pub store: Arc<dyn Store>,
    pub now: Timestamp,
}

pub(crate) fn spec(token: &str) -> JobSpec {
    JobSpec {
        client_token: token.to_owned(),
        name: format!("job {token}"),
        owner: "ann".to_owned(),
        model: "sana-tiny".to_owned(),
        output: format!("/out/{token}"),
        settings: Settings {
            width: 64,
            height: 64,
            steps: 4,
            guidance: 4.5,
            bin: BinMode::Auto,
            decode: DecodeMode::Exact,
        },
        negative_prompt: "blurry".to_owned(),
        seed: 100,
        images_per_prompt: 1,
        name_template: String::new(),
        priority: 0,
        needs: Needs::default(),
        after: Vec::new(),
        deadline: None,
        form: Form::default(),
        append: false,
        webhook: None,
    }
}

pub(crate) fn row(line: u64) -> Row {
    Row { prompt: format!("prompt {line}"), line, ..Row::default() }
}

pub(crate) fn done(image: &LeasedImage) -> ImageReport {
    ImageReport {
        index: image.index,
        outcome: Outcome::Done {
            object: image.object.clone(),
            bytes: 1000 + image.index,
            sha256: format!("{:064x}", image.index),
            recipe: r#"{"weights_sha256":"abc","dtype":"f32"}"#.to_owned(),
            quality: Some(Quality { entropy: 7.5, clipped: 0.25 }),
        },
        device: "cpu".to_owned(),
        render_seconds: 2.0,
        decode_seconds: 0.5,
        log: String::new(),
    }
}

pub(crate) fn error(image: &LeasedImage, class: ErrorClass) -> ImageReport {
    let outcome = Outcome::Failed { class, message: format!("{class} went wrong") };
    ImageReport { outcome, render_seconds: 1.0, decode_seconds: 0.0, ..done(image) }
}

pub(crate) fn finished() -> Release {
    Release { reason: ReleaseReason::Finished, message: String::new() }
}

pub(crate) fn drain() -> Release {
    Release { reason: ReleaseReason::Drain, message: "bye".to_owned() }
}

/// Somebody who changes jobs.
pub(crate) fn by_bob() -> By {
    By { actor: "bob".to_owned(), reason: "because".to_owned() }
}

/// The answer to a call with one part.
pub(crate) fn only<T>(answers: Vec<Result<T>>) -> Result<T> {
    let [answer] =
        <[_; 1]>::try_from(answers).unwrap_or_else(|answers| panic!("{} answers to one", answers.len()));
    answer
}

impl Bench {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, now: "2026-11-23T02:47:00.123Z".parse().unwrap() }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time).unwrap();
    }

    /// Submits `images` rows in shards of `shard_images`.
    pub async fn submit(&self, token: &str, images: u64, shard_images: u64) -> JobId {
        self.submit_rows(spec(token), (1..=images).map(row), shard_images).await
    }

    pub async fn submit_rows(
        &self,
        spec: JobSpec,
        rows: impl Iterator<Item = Row>,
        shard_images: u64,
    ) -> JobId {
        self.try_submit(spec, rows, shard_images).await.unwrap()
    }

    /// A measured speed sets the wanted shard size.
    pub async fn try_submit(
        &self,
        spec: JobSpec,
        rows: impl Iterator<Item = Row>,
        shard_images: u64,
    ) -> Result<JobId> {
        let speed = crate::domain::speed::Speed {
            pixels: spec.settings.pixels(),
            steps: spec.settings.steps,
            format: ImageFormat::Png,
            seconds: 1.0,
            bytes: 0.0,
            images: 1,
        };
        let target = Duration::from_secs(shard_images);
        let mut submission = Submission::new(spec.clone(), target, vec![speed])?;
        let Begun::New(job, before) = self.store.begin_job(&spec, self.now).await? else {
            panic!("job {} is there already", spec.client_token);
        };
        submission.continue_after(before);
        let mut count = 0;
        for row in rows {
            submission.push(row)?;
            count += 1;
            if submission.is_full() {
                self.store.add_batch(&job, &submission.take_batch(), self.now).await?;
            }
        }
        let last = submission.seal(count)?;
        self.store.seal_job(&job, &last, self.now).await?;
        Ok(job)
    }

    pub async fn session(&self, worker: &str) -> SessionId {
        self.open(worker, false).await
    }

    pub async fn open(&self, worker: &str, embedded: bool) -> SessionId {
        let session = NewSession {
            worker: worker.to_owned(),
            version: "1".to_owned(),
            devices: Vec::new(),
            labels: BTreeMap::new(),
            embedded,
        };
        self.store.open_session(&session, self.now).await.unwrap()
    }

    pub async fn lease(&self, session: &SessionId) -> Option<Lease> {
        self.try_lease(session, None).await.unwrap()
    }

    /// A shard as the scheduler would choose it, of any job or of one.
    pub async fn try_lease(&self, session: &SessionId, job: Option<&JobId>) -> Result<Option<Lease>> {
        let mut open = self.store.open_jobs(self.now).await?;
        open.retain(|open| job.is_none_or(|job| open.id == *job));
        let (refusals, of) = (self.store.refusals(self.now).await?, self.store.session(session).await);
        let name = of.map(|of| of.worker).unwrap_or_default();
        let worker = Worker { name: &name, devices: &[], labels: &BTreeMap::new(), last: None };
        let refused = refusals.iter().map(|refusal| (refusal.job.as_str(), refusal.worker.as_str()));
        let choices = Plan::new(&open, self.now).without(refused).choices(&worker);
        let claim = Claim { session: session.clone(), choices };
        only(self.store.lease_shards(&[claim], LEASE, self.now).await?)
    }

    pub async fn report(&self, session: &SessionId, lease: &LeaseRef, results: &[ImageReport]) -> Reported {
        self.try_report(session, lease, results).await.unwrap()
    }

    pub async fn try_report(
        &self,
        session: &SessionId,
        lease: &LeaseRef,
        results: &[ImageReport],
    ) -> Result<Reported> {
        let results = results.to_vec();
        let report = Report { session: session.clone(), lease: lease.clone(), results, archive: None };
        only(self.store.report_results(&[report], CAPS, self.now).await?)
    }

    /// Reports a tar with its pictures.
    pub async fn report_tar(
        &self,
        session: &SessionId,
        lease: &LeaseRef,
        results: &[ImageReport],
        archive: NewArchive,
    ) -> Result<Reported> {
        let (session, lease, results) = (session.clone(), lease.clone(), results.to_vec());
        let report = Report { session, lease, results, archive: Some(archive) };
        only(self.store.report_results(&[report], CAPS, self.now).await?)
    }

    pub async fn release(&self, session: &SessionId, lease: &LeaseRef, release: &Release) {
        self.store.release_lease(session, lease, release, self.now).await.unwrap();
    }

    pub async fn renew(&self, session: &SessionId, lease: &LeaseRef, rendering: &[u64]) -> bool {
        !self.try_renew(session, lease, rendering).await.unwrap().is_empty()
    }

    pub async fn try_renew(
        &self,
        session: &SessionId,
        lease: &LeaseRef,
        rendering: &[u64],
    ) -> Result<Vec<Kept>> {
        let held = vec![HeldLease { lease: lease.clone(), rendering: rendering.to_vec() }];
        let renewal = Renewal { session: session.clone(), held, stats: None, leaving: None };
        Ok(only(self.store.renew_leases(&[renewal], LEASE, self.now).await?)?.kept)
    }

    /// The job after a change.
    pub async fn change(&self, job: &JobId, change: Change) -> Job {
        self.store.change_job(job, &change, &by_bob(), self.now).await.unwrap().job
    }

    /// Renders everything that is ready.
    pub async fn render_all(&self, session: &SessionId) {
        while let Some(lease) = self.lease(session).await {
            let results: Vec<_> = lease.images.iter().map(done).collect();
            self.report(session, &lease.lease, &results).await;
        }
    }

    pub async fn images(&self, job: &JobId) -> Vec<Image> {
        self.store.images(job, &[], 0, u32::MAX).await.unwrap()
    }

    /// The rows of an answer.
    pub async fn sql(&self, sql: &str) -> Vec<Vec<Cell>> {
        let answers: Vec<_> =
            self.store.query(sql, Duration::from_secs(600)).await.unwrap().try_collect().await.unwrap();
        let rows = answers.into_iter().filter_map(|answer| match answer {
            Answer::Columns(_) => None,
            Answer::Rows(rows) => Some(rows),
        });
        rows.flatten().collect()
    }

    /// The only value of an answer, as text.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.sql(sql).await;
        let [cells] = rows.as_slice() else { panic!("{} rows for {sql}", rows.len()) };
        let [cell] = cells.as_slice() else { panic!("{} cells for {sql}", cells.len()) };
        match cell {
            Cell::Null => "null".to_owned(),
            Cell::Integer(number) => number.to_string(),
            Cell::Real(number) => number.to_string(),
            Cell::Text(text) => text.clone(),
            Cell::Blob(bytes) => format!("{bytes:?}"),
        }
    }

    /// The counters of the job equal the rows that they count, and nothing is held twice.
    pub async fn check_invariants(&self) {
        let wrong = self
            .sql(
                "select job_id from audit_jobs as j where \
                 images <> (select count(*) from audit_images as i where i.job_id = j.job_id) or \
                 done <> (select count(*) from audit_images as i where i.job_id = j.job_id and state = 'done') or \
                 failed <> (select count(*) from audit_images as i where i.job_id = j.job_id and state = 'failed')",
            )
            .await;
        assert_eq!(wrong, Vec::<Vec<Cell>>::new(), "counters differ from counts");
        let twice = self
            .sql(
                "select shard_id from audit_attempts where outcome = 'held' group by shard_id having count(*) > 1",
            )
            .await;
        assert_eq!(twice, Vec::<Vec<Cell>>::new(), "a shard is held twice");
    }
}
