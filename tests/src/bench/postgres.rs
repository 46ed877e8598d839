//! A PostgreSQL server of the benchmark's own, with the settings that it has after its installation: durable.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::Error;

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has started.
const PAUSE: Duration = Duration::from_millis(50);

/// A running server; stopped and deleted when it is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// Makes a database cluster and serves it on a free port of this machine.
    pub fn start() -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("farm-bench-postgres-").tempdir();
        let folder = folder.map_err(Error::io("make a temporary folder"))?;
        let user = user(folder.path())?;
        let data = folder.path().join("data");
        let made = command("initdb", user)
            .args(["--auth=trust", "--username=postgres", "--pgdata"])
            .arg(&data)
            .stdin(Stdio::null())
            .output();
        let made = made.map_err(Error::io("run initdb; install PostgreSQL or name a --database"))?;
        if !made.status.success() {
            return Err(Error::Child(format!("initdb failed: {}", String::from_utf8_lossy(&made.stderr))));
        }
        let port = free_port().map_err(Error::io("find a free port"))?;
        let log = folder.path().join("log");
        let log_file = File::create(&log).map_err(Error::io("make the log of the server"))?;
        let process = command("postgres", user)
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-p", &port.to_string(), "-k"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn();
        let mut server = Self { process: process.map_err(Error::io("start postgres"))?, port, folder };
        server.wait(&log)?;
        Ok(server)
    }

    /// URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The process that started all its others.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it takes connections.
    fn wait(&mut self, log: &Path) -> Result<(), Error> {
        let start = Instant::now();
        let status = self.folder.path().join("data/postmaster.pid");
        // The last line of that file says how far it is.
        let ready = || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            text.lines().last().is_some_and(|line| line.trim() == "ready")
        };
        while !ready() {
            let ended = self.process.try_wait().map_err(Error::io("look at postgres"))?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                return Err(Error::Child(format!("postgres did not start: {log}")));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT: a fast shutdown. What fails here leaves a process that the user sees.
        let signalled = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        if signalled.is_ok_and(|status| status.success()) {
            let _ = self.process.wait();
        }
        let _ = self.process.kill();
    }
}

/// A program of the server, run by a user that it accepts.
fn command(name: &str, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program(name));
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid).current_dir("/");
    }
    command
}

/// The newest one that Debian installed, or the one that the path finds.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().filter_map(Result::ok);
    let newest = versions
        .map(|version| version.path())
        .filter(|folder| folder.join("bin").join(name).exists())
        .max_by_key(|folder| folder.file_name().and_then(OsStr::to_str)?.parse::<u32>().ok());
    newest.map_or_else(|| name.into(), |folder| folder.join("bin").join(name))
}

/// The server refuses to run as root: the folder then goes to the user `postgres`, who runs it.
fn user(folder: &Path) -> Result<Option<(u32, u32)>, Error> {
    let owner = std::fs::metadata(folder).map_err(Error::io("look at the temporary folder"))?;
    if owner.uid() != 0 {
        return Ok(None);
    }
    let number = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
    };
    let (Some(uid), Some(gid)) = (number("-u"), number("-g")) else {
        let text = "PostgreSQL does not run as root and there is no user postgres; run as another user";
        return Err(Error::Child(text.to_owned()));
    };
    chown(folder, Some(uid), Some(gid)).map_err(Error::io("give the temporary folder to postgres"))?;
    Ok(Some((uid, gid)))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
