//! A folder of its own for each test, the binary in it, and witnesses that do not trust the binary.

pub mod books;
pub mod cluster;
pub mod database;
pub mod gate;
pub mod hand;
pub mod http;
pub mod https;
pub mod pictures;
pub mod receiver;
pub mod web;
pub mod wire;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes; reached only when something hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder in which commands are run.
pub struct Sandbox {
    folder: TempDir,
    environment: Vec<(String, String)>,
}

/// How a command ended. Paths of the sandbox read `[DIR]`.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    /// Every command in it has these variables.
    pub fn with_environment(self, environment: &[(String, String)]) -> Self {
        Self { environment: environment.to_vec(), ..self }
    }

    /// A path in the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The database of the default data folder.
    pub fn database(&self) -> PathBuf {
        self.path(".sanafarm/sanafarm.db")
    }

    /// The binary in the sandbox, free of what the tester's environment says.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sanafarm"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.to_string_lossy().starts_with("SANAFARM_")) {
            command.env_remove(name);
        }
        for name in ["HF_ENDPOINT", "HF_TOKEN", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        self.ended(self.command(args).output().unwrap())
    }

    /// Runs a command that was made by [`Sandbox::command`] to its end.
    pub fn run_command(&self, mut command: Command) -> Ended {
        self.ended(command.output().unwrap())
    }

    /// Runs a command to its end; no file that it writes can grow beyond that many bytes.
    pub fn with_largest_file(&self, bytes: u64, args: &[&str]) -> Ended {
        self.ended(self.limited(bytes, self.command(args)).output().unwrap())
    }

    /// The same command, with no file that can grow beyond that many bytes.
    pub fn limited(&self, bytes: u64, plain: Command) -> Command {
        // The shell counts in blocks of 512 bytes. Without the trap, the first such write would kill it.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes / 512);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
        shell.current_dir(self.folder.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    /// Runs a command to its end with `input` on standard input.
    pub fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        self.ended(child.wait_with_output().unwrap())
    }

    /// Starts a command and leaves it running.
    pub fn start(&self, args: &[&str]) -> Running {
        self.start_command(self.command(args))
    }

    /// The same, for a command that was made by [`Sandbox::command`].
    pub fn start_command(&self, mut command: Command) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.path("running.log")).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        Running { child }
    }

    /// What all started commands wrote to standard error.
    pub fn running_log(&self) -> String {
        std::fs::read_to_string(self.path("running.log")).unwrap()
    }

    /// How a command made by [`Sandbox::command`] ended.
    pub fn ended(&self, output: std::process::Output) -> Ended {
        let folder = self.folder.path().to_str().unwrap();
        let mask = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(folder, "[DIR]");
        Ended { code: output.status.code(), stdout: mask(output.stdout), stderr: mask(output.stderr) }
    }
}

impl Ended {
    /// Insists on success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The JSON object on the last line of standard output.
    #[track_caller]
    pub fn last_json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_else(|| panic!("no output; {}", self.stderr));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }

    /// One JSON object a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A process that is killed when the test is done with it.
pub struct Running {
    child: Child,
}

impl Running {
    /// The next line of standard output; to be called once.
    pub fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// It does nothing more until it is thawed; its connections stay open.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").arg("-c").arg(sent).status().unwrap().success());
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end.
    pub fn wait(mut self) -> ExitStatus {
        wait_until("the process to end", || self.has_ended());
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Names of all files below a folder, relative to it, in order.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The bundled model as it lies in the repository.
pub fn bundled_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/sana-tiny")
}

/// Copies a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    for name in files_below(from) {
        let target = to.join(&name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&name), target).unwrap();
    }
}
