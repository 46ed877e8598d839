//! A server's process, which never outlives the test's.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a server, tells its id, and ends it when nothing more can be read from the test. In a process group of its
/// own, so that a Ctrl-C for the test is none for the server.
const KEEPER: &str = r#"
end=$1; log=$2; shift 2
"$@" </dev/null >>"$log" 2>&1 &
server=$!
echo $server
exec 3<&0
(cat <&3 >/dev/null; kill -CONT $server; kill -$end $server; sleep 5; kill -KILL $server) 2>/dev/null &
watcher=$!
wait $server
kill $watcher 2>/dev/null
"#;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Server {
    keeper: Child,
    /// Open as long as the server may live.
    alive: Option<ChildStdin>,
    id: u32,
}

impl Server {
    /// Starts `command`, which the signal `end` ends. Its output goes to the end of the file `log`.
    pub fn start(command: &[String], end: &str, log: &Path) -> Self {
        let mut keeper = Command::new("sh")
            .arg("-c")
            .arg(KEEPER)
            .arg("keeper")
            .arg(end)
            .arg(log)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("start a shell for {}: {error}", command[0]));
        let alive = keeper.stdin.take();
        let mut line = String::new();
        let told = keeper.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let id = line.trim().parse();
        match (told, id) {
            (Some(Ok(_)), Ok(id)) => Self { keeper, alive, id },
            (told, _) => panic!("start {}: the shell said {line:?} ({told:?})", command[0]),
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits until `ready` says so; false when the server ended instead.
    pub fn until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if ready() {
                return true;
            }
            if self.has_ended() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn has_ended(&mut self) -> bool {
        self.keeper.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.id.to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "send {signal} to server {}", self.id);
    }

    /// Waits for its end, which a signal has brought about.
    pub fn wait(mut self) {
        assert!(self.until_ended(), "server {} does not end", self.id);
    }

    fn until_ended(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.has_ended() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its keeper does the rest.
        self.alive = None;
        self.until_ended();
    }
}

/// What a server wrote, for the message of a test that fails.
pub fn read_log(log: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        let _ = file.read_to_string(&mut text);
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn a_server_ends_with_the_process_that_started_it() {
        let folder = Folder::new();
        let command = ["sleep", "600"].map(str::to_owned);
        let mut server = Server::start(&command, "TERM", &folder.path().join("log"));
        let of_server = format!("/proc/{}", server.id);
        assert!(Path::new(&of_server).exists());
        server.signal("STOP");
        // What the system does with the pipes of a process that is killed.
        server.alive = None;
        assert!(server.until_ended());
        assert!(!Path::new(&of_server).exists());
    }
}
