//! A private PostgreSQL server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::folder::{Folder, lock, open_to_all, shared};
use crate::port::Port;
use crate::process::{Server, read_log};

/// What to do when there is none on this machine.
const MISSING: &str = "these tests need a PostgreSQL server, version 15 or later: install the package postgresql \
    (Debian, Ubuntu: apt-get install postgresql), or put the folder with initdb and postgres into PATH";

/// How a server is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Commits wait for the disk, as in real life. Otherwise they outlive a crash of the server, but not one of the
    /// machine.
    pub durable: bool,
    /// Connections may be encrypted, with a certificate for 127.0.0.1.
    pub tls: bool,
    /// Settings of `postgresql.conf`, as `name=value`.
    pub settings: Vec<String>,
}

/// A running PostgreSQL server with a superuser `postgres` and no password. Stops when dropped.
#[derive(Debug)]
pub struct Postgres {
    tools: Tools,
    folder: Folder,
    port: Port,
    options: Options,
    server: Option<Server>,
}

impl Postgres {
    /// Starts a server that does not wait for the disk.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a server.
    pub fn start_with(options: Options) -> Self {
        let tools = Tools::find();
        let folder = Folder::new();
        copy(&tools.cluster(), folder.path());
        let mut postgres = Self { tools, folder, port: Port::take(), options, server: None };
        if postgres.options.tls {
            postgres.make_certificate();
        }
        postgres.restart();
        postgres
    }

    /// The certificate of a server with TLS, which signed itself.
    pub fn certificate(&self) -> PathBuf {
        self.data().join("server.crt")
    }

    fn make_certificate(&self) {
        let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 \
            -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout server.key -out server.crt";
        let command = self.tools.as_user("openssl");
        let made = Command::new(&command[0])
            .args(&command[1..])
            .args(request.split_whitespace())
            .current_dir(self.data())
            .output();
        text(made, "openssl");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn try_start(&mut self) -> bool {
        let data = self.data();
        // Left by a server that was killed: whose id it holds may be somebody else's by now.
        let _ = fs::remove_file(data.join("postmaster.pid"));
        let mut command = self.tools.command("postgres");
        command.extend([
            "-D".to_owned(),
            data.display().to_string(),
            "-p".to_owned(),
            self.port.number().to_string(),
        ]);
        let mut set = |setting: &str| command.extend(["-c".to_owned(), setting.to_owned()]);
        set("listen_addresses=127.0.0.1");
        set("unix_socket_directories=");
        set("shared_buffers=16MB");
        if !self.options.durable {
            set("fsync=off");
            set("full_page_writes=off");
        }
        if self.options.tls {
            set("ssl=on");
        }
        self.options.settings.iter().for_each(|setting| set(setting));
        let mut server = Server::start(&command, "QUIT", &self.log());
        // The last line of this file says what the server does.
        let ready = server.until(|| {
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            state.lines().nth(7).is_some_and(|state| state.trim() == "ready")
        });
        if ready {
            self.server = Some(server);
        }
        ready
    }

    /// The process that starts all its others.
    pub fn id(&self) -> u32 {
        self.server().id()
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port.number())
    }

    /// Makes an empty database; its URL.
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.url(name)
    }

    /// Makes a database that is like another one, to which nobody may be connected; its URL.
    pub fn database_like(&self, name: &str, other: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE \"{other}\""));
        self.url(name)
    }

    /// Runs SQL in a database; its rows, a line each, with `|` between values.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.tools.bin.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"])
            .args(["--dbname", &self.url(database), "--command", sql])
            .output();
        text(output, "psql").trim_end().to_owned()
    }

    /// Writes a backup of a database into a file, while it is in use.
    pub fn dump(&self, database: &str, file: &Path) {
        let made = Command::new(self.tools.bin.join("pg_dump"))
            .args(["--format=custom", "--file"])
            .arg(file)
            .args(["--dbname", &self.url(database)])
            .output();
        text(made, "pg_dump");
    }

    /// Puts what a backup holds in the place of a database. Whoever is connected to it is cut off.
    pub fn restore(&self, database: &str, file: &Path) {
        self.sql("postgres", &format!("DROP DATABASE \"{database}\" WITH (FORCE)"));
        let url = self.database(database);
        let restored = Command::new(self.tools.bin.join("pg_restore"))
            .args(["--exit-on-error", "--dbname", &url])
            .arg(file)
            .output();
        text(restored, "pg_restore");
    }

    /// Stops it as an administrator would: connections are ended. It keeps its data and its port.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal("INT");
            server.wait();
        }
    }

    /// Stops it as a crash would.
    pub fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal("QUIT");
            server.wait();
        }
    }

    /// Starts it again, with its data and at its port.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.try_start(), "postgres does not start:\n{}", read_log(&self.log()));
    }

    /// Its first process answers nobody until it is thawed; connections that there are go on.
    pub fn freeze(&self) {
        self.server().signal("STOP");
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        self.server().signal("CONT");
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server was stopped")
    }
}

/// The programs of PostgreSQL.
#[derive(Debug)]
struct Tools {
    bin: PathBuf,
    /// Runs the server when the test runs as root: it refuses to.
    user: Option<&'static str>,
}

impl Tools {
    /// In PATH, or else where Debian puts them, the newest first.
    fn find() -> Self {
        let is_here =
            |bin: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|tool| bin.join(tool).is_file());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
            .collect();
        versions.sort_by(|(a, _), (b, _)| b.cmp(a));
        let mut bins = std::env::split_paths(&path).chain(versions.into_iter().map(|(_, bin)| bin));
        let bin = bins.find(is_here).unwrap_or_else(|| panic!("{MISSING}"));
        let root = text(Command::new("id").arg("-u").output(), "id").trim() == "0";
        Self { bin, user: root.then_some("postgres") }
    }

    /// One of the programs, as the user that runs the server.
    fn command(&self, tool: &str) -> Vec<String> {
        self.as_user(&self.bin.join(tool).display().to_string())
    }

    /// Any program, as that user.
    fn as_user(&self, program: &str) -> Vec<String> {
        let user = self.user.iter().flat_map(|user| {
            let options = ["setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={user}")];
            options.into_iter().chain(["--clear-groups".to_owned()])
        });
        user.chain([program.to_owned()]).collect()
    }

    /// The data folder of a new server, made once for all tests on this machine.
    fn cluster(&self) -> PathBuf {
        let version = text(Command::new(self.bin.join("postgres")).arg("--version").output(), "postgres");
        let version: String = version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
        let place = shared().join(format!("new-{version}"));
        let only_one = lock(&shared().join(format!("new-{version}.lock")));
        only_one.lock().unwrap_or_else(|error| panic!("lock {}: {error}", place.display()));
        let made = place.join("made");
        if !made.exists() {
            let _ = fs::remove_dir_all(&place);
            fs::create_dir(&place).unwrap_or_else(|error| panic!("make {}: {error}", place.display()));
            open_to_all(&place);
            if let Some(user) = self.user {
                text(Command::new("chown").arg(user).arg(&place).output(), "chown");
            }
            let data = place.join("data");
            let command = self.command("initdb");
            let options =
                ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"];
            let made_it = Command::new(&command[0])
                .args(&command[1..])
                .args(options)
                .arg("--pgdata")
                .arg(&data)
                .current_dir("/")
                .output();
            text(made_it, "initdb");
            fs::write(&made, "").unwrap_or_else(|error| panic!("write {}: {error}", made.display()));
        }
        place.join("data")
    }
}

/// A copy with its owners, into a folder.
fn copy(from: &Path, to: &Path) {
    text(Command::new("cp").arg("-a").arg(from).arg(to).output(), "cp");
}

/// What a program said; its complaint ends the test.
fn text(output: std::io::Result<Output>, program: &str) -> String {
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => panic!("{program}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("run {program}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_data_through_stops_and_crashes() {
        let mut postgres = Postgres::start();
        let url = postgres.database("farm");
        postgres.sql("farm", "CREATE TABLE t (x integer); INSERT INTO t VALUES (1)");
        postgres.kill();
        postgres.restart();
        assert_eq!(postgres.sql("farm", "SELECT x, 'a' FROM t"), "1|a");
        postgres.restart();
        assert_eq!(url, postgres.url("farm"));
        postgres.database_like("other", "farm");
        assert_eq!(postgres.sql("other", "SELECT count(*) FROM t"), "1");
        let folder = postgres.folder.path().to_owned();
        drop(postgres);
        assert!(!folder.exists());
    }
}
