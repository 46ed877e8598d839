//! A whole farm whose processes are killed, one after the other, until every picture is there.

use std::path::Path;
use std::time::Instant;

use sanafarm_test_servers::Redis;

use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, Coordinator};
use crate::support::{Running, wait_until};

/// Two coordinators, PostgreSQL, Redis and four workers.
struct Farm {
    cluster: Cluster,
    redis: Redis,
    coordinators: Vec<Coordinator>,
    workers: Vec<Running>,
}

/// One of its processes.
#[derive(Clone, Copy, Debug)]
enum Process {
    Coordinator(usize),
    Worker(usize),
    Redis,
    Postgres,
}

/// Who is killed, in turn; what a kill meets is up to the moment.
const TURNS: [Process; 14] = [
    Process::Worker(0),
    Process::Coordinator(0),
    Process::Worker(1),
    Process::Redis,
    Process::Worker(2),
    Process::Coordinator(1),
    Process::Worker(3),
    Process::Postgres,
    Process::Worker(0),
    Process::Worker(1),
    Process::Coordinator(0),
    Process::Worker(2),
    Process::Worker(3),
    Process::Coordinator(1),
];
const NAMES: [&str; 4] = ["one", "two", "three", "four"];

impl Farm {
    fn start() -> Self {
        let (cluster, redis) = (Cluster::new(), Redis::start());
        let coordinators: Vec<_> = (0..2).map(|_| cluster.coordinator(&["--redis", &redis.url()])).collect();
        let mut farm = Self { cluster, redis, coordinators, workers: Vec::new() };
        farm.workers = (0..NAMES.len()).map(|number| farm.worker(number)).collect();
        farm
    }

    fn worker(&self, number: usize) -> Running {
        self.cluster.worker(&self.coordinators[number % 2].address, NAMES[number])
    }

    /// Kills a process and starts it again.
    fn kill(&mut self, process: Process) {
        match process {
            Process::Coordinator(number) => {
                let Coordinator { process, address } = self.coordinators.remove(number);
                process.kill();
                let again = self.cluster.coordinator_at(&address, &["--redis", &self.redis.url()]);
                self.coordinators.insert(number, again);
            }
            Process::Worker(number) => {
                self.workers.remove(number).kill();
                let again = self.worker(number);
                self.workers.insert(number, again);
            }
            Process::Redis => {
                self.redis.kill();
                self.redis.restart();
            }
            Process::Postgres => {
                self.cluster.postgres.kill();
                self.cluster.postgres.restart();
            }
        }
    }

    fn ended(&self) -> bool {
        self.cluster.number("select count(*) from jobs where finished_at is null") == 0
    }
}

/// Submits a list and kills a process whenever so many more images have their results, until all have. How many were
/// killed. A clock would have it kill on a slow machine before anything is done.
fn survive(list: &str, images: usize, size: &str, every: usize) -> usize {
    let mut farm = Farm::start();
    farm.cluster.sandbox.write("list.tsv", list);
    let submit = ["submit", "list.tsv", "--size", size, "--steps", "2", "--output", "out"];
    let address = farm.coordinators[0].address.clone();
    let submitted =
        farm.cluster.sandbox.run(&[submit.as_slice(), &["--coordinator", &address]].concat()).ok();
    let job = submitted.stdout.trim_end();
    let (start, mut kills) = (Instant::now(), 0);
    for process in TURNS.into_iter().cycle() {
        let results = || farm.cluster.number("select count(*) from results");
        let before = results();
        wait_until("more images", || results() >= before + every || farm.ended());
        if farm.ended() {
            break;
        }
        let done = results();
        eprintln!("{:>5.1} s, {done} images: {process:?} is killed", start.elapsed().as_secs_f64());
        farm.kill(process);
        kills += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    farm.cluster.watch(&farm.coordinators[1].address, job);
    assert_whole(&farm.cluster, job, images);
    let once = farm.cluster.sql(
        "select count(*), count(distinct image_index), count(distinct object) from audit_images where state = 'done'",
    );
    assert_eq!(once, format!("{images}|{images}|{images}"));
    let outcomes = farm.cluster.sql("select outcome, count(*) from audit_attempts group by 1 order by 1");
    eprintln!("{images} images in {seconds:.0} s, {kills} kills; attempts: {}", outcomes.replace('\n', ", "));
    kills
}

/// A header and this many prompts.
fn parti_prompts(images: usize) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/PartiPrompts.tsv");
    let text = std::fs::read_to_string(file).unwrap();
    text.split_inclusive('\n').take(1 + images).collect()
}

#[test]
fn every_image_is_there_once_while_processes_are_killed() {
    const IMAGES: usize = 200;
    let kills = survive(&parti_prompts(IMAGES), IMAGES, "256x256", 12);
    assert!(kills >= 5, "too few were killed to tell anything: {kills}");
}

/// The whole list takes minutes: `tests/run --run-ignored only -E 'test(chaos)'`.
#[test]
#[ignore = "takes minutes"]
fn all_parti_prompts_are_there_once_while_processes_are_killed() {
    let kills = survive(&parti_prompts(1632), 1632, "256x256", 30);
    assert!(kills >= 20, "too few were killed to tell anything: {kills}");
}
