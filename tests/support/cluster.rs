//! A farm of real processes on a PostgreSQL database of its own.

use std::sync::Mutex;

use sanafarm_test_servers::postgres::Options;
use sanafarm_test_servers::{Port, Postgres};
use serde_json::Value;

use super::{Running, Sandbox, wait_until};

/// Name of the database.
const DATABASE: &str = "farm";

/// Of a coordinator whose leases outlive the test, however slow the machine is.
pub const LONG_LEASES: [&str; 2] = ["--lease-seconds", "3600"];

/// A database for any number of coordinators, and the folder that they and their workers are run in.
pub struct Cluster {
    pub sandbox: Sandbox,
    pub postgres: Postgres,
    url: String,
    /// Where its coordinators listen, and those that take the place of killed ones.
    ports: Mutex<Vec<Port>>,
}

/// A coordinator that runs.
pub struct Coordinator {
    pub process: Running,
    pub address: String,
}

impl Cluster {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// On a server that is run so.
    pub fn with(options: Options) -> Self {
        let (sandbox, postgres) = (Sandbox::new(), Postgres::start_with(options));
        let url = postgres.database(DATABASE);
        Self { sandbox, postgres, url, ports: Mutex::default() }
    }

    /// A coordinator on a free port. Unless `more` tells of leases, a lost worker is noticed soon.
    pub fn coordinator(&self, more: &[&str]) -> Coordinator {
        self.coordinator_at(&self.free_address(), more)
    }

    /// A coordinator at this address, such as that of one which was killed.
    pub fn coordinator_at(&self, address: &str, more: &[&str]) -> Coordinator {
        self.start(address, more, |_| ())
    }

    /// A coordinator on a free port with something else about its process.
    pub fn coordinator_with(
        &self,
        more: &[&str],
        set: impl FnOnce(&mut std::process::Command),
    ) -> Coordinator {
        self.start(&self.free_address(), more, set)
    }

    fn free_address(&self) -> String {
        let port = Port::take();
        let address = format!("127.0.0.1:{}", port.number());
        self.ports.lock().unwrap().push(port);
        address
    }

    fn start(
        &self,
        address: &str,
        more: &[&str],
        set: impl FnOnce(&mut std::process::Command),
    ) -> Coordinator {
        let args = ["coordinator", "--listen", address, "--database", self.url.as_str()];
        let leases = if more.contains(&"--lease-seconds") { &[][..] } else { &["--lease-seconds", "5"] };
        let mut command = self.sandbox.command(&[&args, leases, more].concat());
        set(&mut command);
        let mut process = self.sandbox.start_command(command);
        let line = process.first_line();
        let address = line.strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("`{line}`\n{}", self.sandbox.running_log()));
        Coordinator { process, address: address.to_owned() }
    }

    /// A worker of that name.
    pub fn worker(&self, address: &str, name: &str) -> Running {
        crate::farm::worker(&self.sandbox, address, name)
    }

    /// Waits until so many workers are connected.
    #[track_caller]
    pub fn wait_for_workers(&self, workers: usize) {
        let open = "select count(*) from sessions where closed_at is null";
        wait_until("the workers", || self.number(open) == workers);
    }

    /// Submits a job of that many images with a folder of its own; its id.
    #[track_caller]
    pub fn submit(&self, address: &str, images: usize, size: &str, steps: &str) -> String {
        self.sandbox.write("list.txt", prompts(images));
        let output = format!("out-{images}-{size}");
        let what = ["submit", "list.txt", "--size", size, "--steps", steps, "--output", &output];
        let ended = self.sandbox.run(&[&what[..], &["--coordinator", address]].concat()).ok();
        ended.stdout.trim_end().to_owned()
    }

    /// Follows a job until it has succeeded; what was told of it last.
    #[track_caller]
    pub fn watch(&self, address: &str, job: &str) -> Value {
        let watched = self.sandbox.run(&["watch", job, "--coordinator", address, "--json"]);
        assert_eq!(watched.code, Some(0), "{}\n{}", watched.stderr, self.sandbox.running_log());
        watched.last_json()
    }

    /// Writes a backup of the database into a file of the sandbox.
    pub fn back_up(&self, file: &str) {
        self.postgres.dump(DATABASE, &self.sandbox.path(file));
    }

    /// Puts a backup in the place of the database. No coordinator may run, but the server may not know yet of those that were killed.
    pub fn restore(&self, file: &str) {
        self.postgres.restore(DATABASE, &self.sandbox.path(file));
    }

    /// Rows of the database, a line each, with `|` between values.
    pub fn sql(&self, sql: &str) -> String {
        self.postgres.sql(DATABASE, sql)
    }

    /// A number of the database.
    #[track_caller]
    pub fn number(&self, sql: &str) -> usize {
        let told = self.sql(sql);
        told.parse().unwrap_or_else(|_| panic!("`{told}` is no number: {sql}"))
    }

    /// Waits until so many pictures are committed.
    #[track_caller]
    pub fn wait_for_pictures(&self, pictures: usize) {
        wait_until("some pictures", || self.number("select count(*) from results") >= pictures);
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A prompt list.
pub fn prompts(images: usize) -> String {
    (0..images).map(|number| format!("large red dots on blue {number}\n")).collect()
}
