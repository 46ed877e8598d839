//! A whole farm whose processes are killed, one every few seconds, until every picture is there.

use std::path::Path;
use std::time::{Duration, Instant};

use sanafarm_test_servers::process::free_port;
use sanafarm_test_servers::{Postgres, Redis};

use crate::support::{Running, Sandbox, wait_until};

/// One of the farm's own processes, which is started again whenever it was killed.
struct Member {
    name: &'static str,
    args: Vec<String>,
    running: Option<Running>,
}

impl Member {
    fn start(sandbox: &Sandbox, name: &'static str, args: &[&str]) -> Self {
        let mut member =
            Self { name, args: args.iter().map(|text| (*text).to_owned()).collect(), running: None };
        member.start_again(sandbox);
        member
    }

    fn start_again(&mut self, sandbox: &Sandbox) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.running = Some(sandbox.start(&args));
    }

    fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
        }
    }
}

/// Two coordinators, PostgreSQL, Redis and four workers.
struct Farm {
    sandbox: Sandbox,
    postgres: Postgres,
    redis: Redis,
    members: Vec<Member>,
    addresses: [String; 2],
}

impl Farm {
    fn start() -> Self {
        let (sandbox, postgres, redis) = (Sandbox::new(), Postgres::start(), Redis::start());
        let (database, hints) = (postgres.database("farm"), redis.url());
        // They come back to the place where the others know them.
        let addresses = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        let mut members = Vec::new();
        for (name, address) in ["coordinator 1", "coordinator 2"].into_iter().zip(&addresses) {
            let lease = ["--lease-seconds", "10"];
            let args = ["coordinator", "--listen", address, "--database", &database, "--redis", &hints];
            members.push(Member::start(&sandbox, name, &[args.as_slice(), &lease].concat()));
        }
        for (number, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
            let args = ["worker", "--coordinator", &addresses[number % 2], "--name", name];
            members.push(Member::start(&sandbox, name, &args));
        }
        Self { sandbox, postgres, redis, members, addresses }
    }

    fn sql(&self, sql: &str) -> String {
        self.postgres.sql("farm", sql).trim().to_owned()
    }

    fn done(&self) -> usize {
        self.sql("select coalesce(sum(done + failed), 0) from audit_jobs").parse().unwrap()
    }

    fn ended(&self) -> bool {
        self.sql("select count(*) from audit_jobs where finished_at is null") == "0"
    }
}

/// Submits a list and kills processes in turn, one every `pause`, until every image has its result. How often a process
/// was killed.
fn survive(list: &Path, images: usize, size: &str, pause: Duration) -> usize {
    let mut farm = Farm::start();
    let [first, second] = farm.addresses.clone();
    wait_until("both coordinators", || {
        [&first, &second]
            .iter()
            .all(|address| farm.sandbox.run(&["jobs", "--coordinator", address]).code == Some(0))
    });
    let list = list.to_str().unwrap();
    let submit = ["submit", list, "--size", size, "--steps", "2", "--output", "out", "--coordinator", &first];
    let job = farm.sandbox.run(&submit).ok().stdout.trim_end().to_owned();
    let start = Instant::now();
    let mut kills = 0;
    // Workers come up twice as often as the others. A seed of its own would tell nothing more: what a kill meets is up to
    // the moment.
    let turns = [2, 0, 3, 6, 4, 1, 5, 7, 2, 3, 0, 4, 5, 1];
    for turn in turns.iter().cycle() {
        let until = Instant::now() + pause;
        while Instant::now() < until && !farm.ended() {
            std::thread::sleep(Duration::from_millis(50));
        }
        if farm.ended() {
            break;
        }
        let done = farm.done();
        match turn {
            6 => {
                eprintln!("{:>5.0} s, {done} images: redis is killed", start.elapsed().as_secs_f64());
                farm.redis.kill();
                farm.redis.restart();
            }
            7 => {
                eprintln!("{:>5.0} s, {done} images: postgres is killed", start.elapsed().as_secs_f64());
                farm.postgres.kill();
                farm.postgres.restart();
            }
            member => {
                let member = &mut farm.members[*member];
                eprintln!(
                    "{:>5.0} s, {done} images: {} is killed",
                    start.elapsed().as_secs_f64(),
                    member.name
                );
                member.kill();
                member.start_again(&farm.sandbox);
            }
        }
        kills += 1;
    }
    let watched = farm.sandbox.run(&["watch", &job, "--coordinator", &second, "--json"]).ok().last_json();
    assert_eq!(
        (watched["state"].as_str(), watched["done"].as_u64()),
        (Some("succeeded"), Some(images as u64))
    );
    crate::cluster::assert_whole(&farm.postgres, &farm.sandbox.path("out"), images);
    let attempts = farm.sql("select outcome, count(*) from audit_attempts group by outcome order by outcome");
    eprintln!(
        "{images} images in {:.0} s, {kills} kills; attempts: {}",
        start.elapsed().as_secs_f64(),
        attempts.replace('\n', ", ")
    );
    kills
}

fn parti_prompts() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/PartiPrompts.tsv")
}

#[test]
fn every_image_is_there_once_while_processes_are_killed() {
    const IMAGES: usize = 240;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("some.tsv");
    let text = std::fs::read_to_string(parti_prompts()).unwrap();
    let lines: Vec<&str> = text.lines().take(IMAGES + 1).collect();
    std::fs::write(&list, lines.join("\n")).unwrap();
    let kills = survive(&list, IMAGES, "128x128", Duration::from_millis(1500));
    assert!(kills >= 3, "too few were killed to tell anything: {kills}");
}

/// The whole list in 256x256 takes some minutes: `tests/run --run-ignored only -E 'test(chaos)'`.
#[test]
#[ignore = "takes minutes"]
fn all_parti_prompts_are_there_once_while_processes_are_killed() {
    let kills = survive(&parti_prompts(), 1632, "256x256", Duration::from_secs(4));
    assert!(kills >= 10, "too few were killed to tell anything: {kills}");
}
