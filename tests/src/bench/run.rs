//! The phases of a measurement: submit, work, rest, look.

use std::thread::sleep;
use std::time::{Duration, Instant};

use sanafarm_proto::v1::Job;
use sanafarm_test_servers::{Postgres, postgres};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::args::BenchArgs;
use crate::database::{Database, is_url};
use crate::error::Error;
use crate::farm::{Coordinators, CoordinatorsPlan, Workers, WorkersPlan};
use crate::figures::{Figures, quantile};
use crate::submit::{self, Client};
use crate::usage::{Cost, Shares};
use crate::workers::{ENGINE, Engine, Session, SharedTally, Tally, now_micros};

/// What an image takes, as the synthetic engine says, when it takes no time.
const TOLD_SECONDS: f64 = 1.0;
/// From the end of the job until the farm counts as at rest.
const SETTLE: Duration = Duration::from_secs(1);
/// A server process that rests tells its transactions after ten seconds; one that works does so every second.
const TELL: Duration = Duration::from_secs(11);
/// How long transactions at rest are counted.
const COUNT: Duration = Duration::from_secs(3);

/// Does the whole measurement; what it started has ended afterwards.
pub fn measure(args: &BenchArgs) -> Result<Figures, Error> {
    let folder = tempfile::tempdir().map_err(Error::io("make a temporary folder"))?;
    let server = args.database.is_none().then(|| Postgres::start_with(as_installed()));
    let name = match (&args.database, &server) {
        (Some(name), _) => name.clone(),
        (None, Some(server)) => server.database("farm"),
        (None, None) => return Err(Error::Farm("there is no database".to_owned())),
    };
    if args.coordinators > 1 && !is_url(&name) {
        let text = "a SQLite file serves one coordinator; name a PostgreSQL database for more";
        return Err(Error::Farm(text.to_owned()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(Error::io("start the async runtime"))?;
    let told_seconds = if args.image_seconds > 0.0 { args.image_seconds } else { TOLD_SECONDS };
    let coordinators = Coordinators::start(&CoordinatorsPlan {
        count: args.coordinators,
        database: &name,
        redis: args.redis.as_deref(),
        folder: folder.path(),
        // Half an image more than wanted, so that rounding goes to the wanted number.
        shard_seconds: told_seconds * (f64::from(args.shard_images) + 0.5),
    })?;
    let (client, database) = runtime.block_on(async {
        let mut client = Client::connect(coordinators.first()).await?;
        client.insist_on_no_open_job().await?;
        Ok::<_, Error>((client, Database::open(&name).await?))
    })?;
    let mut bench = Bench { args, told_seconds, folder, runtime, coordinators, client, database, server };
    let figures = bench.measure()?;
    bench.coordinators.processes.end()?;
    Ok(figures)
}

/// A server as it is after its installation: what is committed outlives a crash of the machine.
fn as_installed() -> postgres::Options {
    postgres::Options {
        durable: true,
        settings: vec!["shared_buffers=128MB".to_owned()],
        ..Default::default()
    }
}

/// A farm with its database.
struct Bench<'a> {
    args: &'a BenchArgs,
    told_seconds: f64,
    folder: TempDir,
    runtime: Runtime,
    coordinators: Coordinators,
    client: Client,
    database: Database,
    server: Option<Postgres>,
}

/// How the job came in.
struct Submission {
    job: Job,
    took: Duration,
    shares: Shares,
}

/// How the job was done.
struct Work {
    began_micros: u64,
    shares: Shares,
    finish: Duration,
    ended: Instant,
}

/// How the farm rests.
#[derive(Default)]
struct Rest {
    coordinators: Option<f64>,
    server: Option<f64>,
    /// Transactions of the job.
    job: Option<f64>,
    /// Transactions a second.
    transactions: Option<f64>,
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<Figures, Error> {
        let model = submit::model();
        self.warm_up(&model)?;
        let transactions = self.transactions()?;
        let submission = self.submit(&model)?;
        let plan = WorkersPlan {
            count: self.args.workers,
            of_process: self.args.process_workers,
            image_seconds: self.args.image_seconds,
            told_seconds: self.told_seconds,
            ramp_seconds: self.args.ramp_seconds,
        };
        let mut workers = Workers::start(plan, &self.coordinators)?;
        let work = self.work(&mut workers, &submission.job)?;
        let rest = self.rest(&work, transactions)?;
        let processes = workers.processes.count();
        let tally = workers.end()?;
        let figures = self.figures(&submission, &work, &rest, tally)?;
        let Submission { job, .. } = submission;
        let shard_images_leased = self.runtime.block_on(self.database.verify(&job.job_id, job.images))?;
        Ok(Figures { worker_processes: processes, shard_images_leased, ..figures })
    }

    /// A job of one image, so that all parts have run once and the speed of the synthetic engine is known: shards
    /// are cut by it.
    fn warm_up(&mut self, model: &str) -> Result<(), Error> {
        let spec = submit::spec(model, &self.folder.path().join("warm-up"), Uuid::new_v4().to_string());
        let (client, address) = (&mut self.client, self.coordinators.first());
        let engine = Engine::new(0.0, self.told_seconds);
        self.runtime.block_on(async {
            let (job, _) = client.submit(spec, 1).await?;
            let session = Session::open(address, 0, SharedTally::default()).await?;
            let lease = session.lease().await?;
            let (Some(settings), Some(key)) = (lease.settings, lease.r#ref) else {
                return Err(Error::Farm("the coordinator sent half a lease".to_owned()));
            };
            let results = lease.images.into_iter().map(|image| engine.result(&lease.model, &settings, image));
            session.report(key, results.collect()).await?;
            session.close().await?;
            client.follow(&job.job_id, |_| Ok(())).await.map(drop)
        })
    }

    fn submit(&mut self, model: &str) -> Result<Submission, Error> {
        let spec = submit::spec(model, &self.folder.path().join("out"), Uuid::new_v4().to_string());
        let before = Cost::now(&self.coordinators, None, self.server.as_ref());
        let (job, took) = self.runtime.block_on(self.client.submit(spec, self.args.images))?;
        let after = Cost::now(&self.coordinators, None, self.server.as_ref());
        Ok(Submission { job, took, shares: before.shares_until(&after) })
    }

    /// Lets the workers begin and follows the job to its end.
    fn work(&mut self, workers: &mut Workers, job: &Job) -> Result<Work, Error> {
        let Self { coordinators, server, client, .. } = self;
        let (began_micros, before) = (now_micros(), Cost::now(coordinators, Some(workers), server.as_ref()));
        workers.go()?;
        let mut complete = None;
        let followed = client.follow(&job.job_id, |job| {
            if complete.is_none() && job.is_some_and(|job| job.done + job.failed == job.images) {
                complete = Some(Cost::now(coordinators, Some(workers), server.as_ref()));
            }
            coordinators.processes.check()?;
            workers.processes.check()
        });
        self.runtime.block_on(followed)?;
        let ended = Instant::now();
        let missing = || Error::Farm("the job ended before it was complete".to_owned());
        let complete = complete.ok_or_else(missing)?;
        Ok(Work { began_micros, shares: before.shares_until(&complete), finish: ended - complete.at, ended })
    }

    /// Watches the farm at rest, and counts the transactions since there were `before`.
    fn rest(&self, work: &Work, before: Option<i64>) -> Result<Rest, Error> {
        if self.args.idle_seconds == 0.0 {
            return Ok(Rest::default());
        }
        sleep_until(work.ended + SETTLE);
        let start = Cost::now(&self.coordinators, None, self.server.as_ref());
        sleep(Duration::from_secs_f64(self.args.idle_seconds));
        let shares = start.shares_until(&Cost::now(&self.coordinators, None, self.server.as_ref()));
        let rest = Rest { coordinators: shares.coordinators, server: shares.server, ..Rest::default() };
        let Some(before) = before else { return Ok(rest) };
        sleep_until(work.ended + TELL);
        let (first_at, first) = (Instant::now(), self.transactions()?);
        sleep(COUNT);
        let (second_at, second) = (Instant::now(), self.transactions()?);
        let (Some(first), Some(second)) = (first, second) else { return Ok(rest) };
        let at_rest = (second - first) as f64 / (second_at - first_at).as_secs_f64();
        let of_job = (first - before) as f64 - at_rest * (first_at - work.ended).as_secs_f64();
        Ok(Rest { job: Some(of_job), transactions: Some(at_rest), ..rest })
    }

    fn transactions(&self) -> Result<Option<i64>, Error> {
        self.runtime.block_on(self.database.transactions())
    }

    fn figures(
        &self,
        submission: &Submission,
        work: &Work,
        rest: &Rest,
        mut tally: Tally,
    ) -> Result<Figures, Error> {
        let args = self.args;
        let images = args.images as f64;
        let submit_seconds = submission.took.as_secs_f64();
        let commit_seconds = tally.last_accepted.saturating_sub(work.began_micros) as f64 / 1e6;
        tally.claims.sort_unstable();
        let claim_ms = |part| quantile(&tally.claims, part) as f64 / 1e3;
        let (database, database_settings) = self.runtime.block_on(async {
            Ok::<_, Error>((self.database.version().await?, self.database.settings().await?))
        })?;
        Ok(Figures {
            engine: ENGINE,
            images: args.images,
            workers: args.workers,
            connections: args.workers,
            worker_processes: 0,
            coordinators: args.coordinators,
            shard_images: args.shard_images,
            shard_images_leased: 0,
            image_seconds: args.image_seconds,
            ramp_seconds: args.ramp_seconds,
            database,
            redis: args.redis.is_some(),
            own_database: self.server.is_some(),
            database_settings,
            machine_cores: std::thread::available_parallelism().map_or(1, usize::from),
            submit_seconds,
            submit_prompts_per_s: images / submit_seconds,
            submit_coordinator_cpu_share: submission.shares.coordinators,
            submit_database_cpu_share: submission.shares.server,
            commit_seconds,
            committed_images_per_s: images / commit_seconds,
            claims: tally.claims.len(),
            taken_over: tally.taken_over,
            claim_ms_p50: claim_ms(0.5),
            claim_ms_p99: claim_ms(0.99),
            claim_ms_max: claim_ms(1.0),
            reports: tally.reports,
            renewals: tally.renewals,
            retries: tally.retries,
            known_results: tally.known,
            gone_leases: tally.gone,
            coordinator_cpu_share: work.shares.coordinators,
            worker_cpu_share: work.shares.workers,
            database_cpu_share: work.shares.server,
            coordinator_rss_bytes: self.coordinators.processes.peak_memory(),
            finish_seconds: work.finish.as_secs_f64(),
            db_transactions_per_image: rest.job.map(|count| count / images),
            idle_seconds: args.idle_seconds,
            idle_coordinator_cpu_share: rest.coordinators,
            idle_database_cpu_share: rest.server,
            idle_transactions_per_s: rest.transactions,
        })
    }
}

fn sleep_until(time: Instant) {
    sleep(time.saturating_duration_since(Instant::now()));
}
