//! This program, run again: it is told and tells one line at a time, and ends when it is told no more.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;

use crate::error::Error;

/// A running part of the farm; killed when it is dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    /// Closed to end it.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program with these arguments.
    pub fn start(name: String, args: Vec<OsString>) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::io("find this program"))?;
        let started = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = started.map_err(Error::io(format!("start {name}")))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::Child(format!("{name} was started without its pipes")));
        };
        Ok(Self { name, process, input: Some(input), output: BufReader::new(output) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the next line that it tells.
    pub fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        match read.map_err(Error::io(format!("listen to {}", self.name)))? {
            0 => Err(Error::Child(format!("{} ended early", self.name))),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) -> Result<(), Error> {
        let Some(input) = &mut self.input else { return Ok(()) };
        writeln!(input, "{line}").map_err(Error::io(format!("talk to {}", self.name)))
    }

    /// Insists that it still runs.
    pub fn check(&mut self) -> Result<(), Error> {
        let status = self.process.try_wait().map_err(Error::io(format!("look at {}", self.name)))?;
        match status {
            None => Ok(()),
            Some(status) => Err(Error::Child(format!("{} ended early: {status}", self.name))),
        }
    }

    /// Tells it no more and waits for its last line, which is JSON, and for its good end.
    pub fn end_with<T: DeserializeOwned>(mut self) -> Result<T, Error> {
        drop(self.input.take());
        let line = self.line()?;
        let told = serde_json::from_str(&line)
            .map_err(|error| Error::Child(format!("{} told no figures: {error}", self.name)))?;
        self.end()?;
        Ok(told)
    }

    /// Tells it no more and waits for its good end.
    pub fn end(mut self) -> Result<(), Error> {
        drop(self.input.take());
        let status = self.process.wait().map_err(Error::io(format!("wait for {}", self.name)))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::Child(format!("{} ended badly: {status}", self.name)))
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells the process that started this one a line.
pub fn answer(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(Error::io("answer the benchmark"))
}

/// The lines that this process is told, from a thread of its own; none after the last.
pub fn told() -> tokio::sync::mpsc::Receiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
