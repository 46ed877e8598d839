//! Ends jobs whose images all have their result: first the manifest, then the state. A crash in between does it
//! all again.

use std::sync::Arc;

use super::manifest;
use super::rounds::{Named, Rounds};
use crate::farm::Farm;
use crate::store;
use crate::store::records::{Duty, Job};

impl Named for Job {
    fn name(&self) -> &str {
        self.id.as_str()
    }

    /// The files tell of all jobs of an output.
    fn place(&self) -> &str {
        &self.output
    }
}

/// Jobs on their way to their end.
struct Finisher {
    farm: Arc<Farm>,
    jobs: Rounds<Job, Result<Option<Job>, manifest::Error>>,
}

pub(super) async fn run(farm: Arc<Farm>) {
    Finisher { farm, jobs: Rounds::new() }.run().await;
}

impl Finisher {
    async fn run(&mut self) {
        let farm = Arc::clone(&self.farm);
        loop {
            if let Err(error) = self.start().await {
                tracing::warn!(%error, "look for jobs to finish");
            }
            tokio::select! {
                () = farm.stop.cancelled() => return,
                Some((job, ended)) = self.jobs.next() => {
                    self.ended(job, ended.map_err(manifest::Error::from).flatten()).await;
                }
                () = farm.live.until_complete() => {}
                () = tokio::time::sleep(farm.options.sweep_interval) => {}
            }
        }
    }

    async fn start(&mut self) -> store::Result<()> {
        let found = self.farm.store.jobs_to_finish().await?;
        self.jobs.start(found, |job| finish(Arc::clone(&self.farm), job));
        Ok(())
    }

    async fn ended(&mut self, job: Job, finished: Result<Option<Job>, manifest::Error>) {
        match finished {
            Ok(None) => self.jobs.leave_to_others(&job),
            Ok(Some(job)) => {
                self.jobs.done(&job);
                tracing::info!(job = %job.id, state = %job.state, done = job.done, failed = job.failed, "job ended");
                self.farm.live.job_changed();
                // For the jobs that waited for it.
                self.farm.live.shards_ready();
                self.farm.live.job_settled();
            }
            Err(error) => self.note_trouble(&job, &error).await,
        }
    }

    async fn note_trouble(&mut self, job: &Job, error: &manifest::Error) {
        let wait = self.jobs.failed(job);
        tracing::error!(job = %job.id, output = job.output, %error, retry_seconds = wait.as_secs(), "finish job");
        if matches!(error, manifest::Error::Store(_)) {
            // The database is in trouble, not the output.
            return;
        }
        let text = error.to_string();
        if job.output_error.as_ref() == Some(&text) {
            // Once per trouble, not once per attempt.
            return;
        }
        match self.farm.store.record_output_error(&job.id, &text, self.farm.store.clock()).await {
            Ok(()) => self.farm.live.job_changed(),
            Err(error) => tracing::warn!(job = %job.id, %error, "record output error"),
        }
    }
}

/// Writes the files of a job's output and ends the job; none when another coordinator is at that output.
async fn finish(farm: Arc<Farm>, job: Job) -> Result<Option<Job>, manifest::Error> {
    let Some(_turn) = farm.store.turn(&Duty::Finish(job.output.clone())).await? else { return Ok(None) };
    // The other one may have ended it just now.
    if farm.store.job(job.id.as_str()).await?.state.has_ended() {
        return Ok(None);
    }
    manifest::write(farm.store.as_ref(), &job, &farm.options.scratch).await?;
    Ok(Some(farm.store.finish_job(&job.id, farm.store.clock()).await?))
}

#[cfg(test)]
mod tests {
    use super::super::rounds::AT_ONCE;
    use super::*;
    use crate::domain::id::JobId;
    use crate::domain::state::JobState;
    use crate::options::Options;
    use crate::store::Store;
    use crate::store::conformance::{Bench, row, spec};
    use crate::store::sqlite::SqliteStore;

    #[tokio::test]
    async fn what_a_killed_worker_left_half_written_is_gone_when_its_job_ends() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("farm.db");
        let store = Arc::new(SqliteStore::open(&database).await.unwrap());
        let bench = Bench::new(store.clone());
        let out = folder.path().join("out");
        let wanted = Job { output: out.display().to_string(), ..bench_job(&bench).await };
        std::fs::create_dir(&out).unwrap();
        let left = out.join(".sanafarm-0123456789abcdef0123456789abcdef.part");
        std::fs::write(&left, "half a picture").unwrap();
        std::fs::write(out.join("notes.part"), "somebody's").unwrap();
        manifest::write(store.as_ref(), &wanted, &folder.path().join("scratch")).await.unwrap();
        assert!(!left.exists() && out.join("notes.part").exists() && out.join("manifest.parquet").exists());
    }

    /// A job of one picture, rendered.
    async fn bench_job(bench: &Bench) -> Job {
        let id = bench.submit_rows(spec("a"), std::iter::once(row(1)), 32).await;
        bench.render_all(&bench.session("w").await).await;
        bench.store.job(id.as_str()).await.unwrap()
    }

    #[tokio::test]
    async fn a_job_ends_beside_others_whose_output_is_stuck() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("farm.db");
        let store = Arc::new(SqliteStore::open(&database).await.unwrap());
        let bench = Bench::new(store.clone());
        let mut wanted = spec("a");
        wanted.output = folder.path().join("out").display().to_string();
        let rows = std::iter::once(row(1));
        let id = bench.submit_rows(wanted, rows, 32).await;
        bench.render_all(&bench.session("w").await).await;
        let farm = Arc::new(Farm::new(store.clone(), Options::file(database)));
        let mut changes = farm.live.watch_jobs();
        let mut finisher = Finisher { farm, jobs: Rounds::new() };
        let whole = store.job(id.as_str()).await.unwrap();
        let stuck = |number: usize| {
            let name = format!("stuck {number}");
            Job { id: JobId::from(name.clone()), output: name, ..whole.clone() }
        };
        finisher.jobs.start((1..AT_ONCE).map(stuck).collect(), |_| std::future::pending());
        tokio::select! {
            () = finisher.run() => panic!("the farm runs on"),
            changed = changes.changed() => changed.unwrap(),
        }
        let job = store.job(id.as_str()).await.unwrap();
        assert_eq!((job.state, job.output_error), (JobState::Succeeded, None));
    }
}
