//! A private Redis server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::folder::Folder;
use crate::port::Port;
use crate::process::{Server, read_log};

/// What to do when there is none on this machine.
const MISSING: &str = "these tests need a Redis server: install the package redis-server (Debian, Ubuntu: apt-get \
    install redis-server), or put the folder with redis-server into PATH";

/// A running Redis server that keeps nothing. Stops when dropped.
#[derive(Debug)]
pub struct Redis {
    folder: Folder,
    port: Port,
    server: Option<Server>,
}

impl Redis {
    /// Starts a server.
    pub fn start() -> Self {
        if Command::new("redis-server").arg("--version").output().is_err() {
            panic!("{MISSING}");
        }
        let mut redis = Self { folder: Folder::new(), port: Port::take(), server: None };
        redis.restart();
        redis
    }

    fn log(&self) -> String {
        read_log(&self.folder.path().join("log"))
    }

    fn try_start(&mut self) -> bool {
        let port = self.port.number().to_string();
        let folder = self.folder.path().display().to_string();
        let command = [
            "redis-server",
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            &folder,
        ];
        let command = command.map(str::to_owned);
        let mut server = Server::start(&command, "KILL", &self.folder.path().join("log"));
        let ready = server.until(|| self.says("PING").is_some_and(|answer| answer.starts_with("+PONG")));
        if ready {
            self.server = Some(server);
        }
        ready
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }

    /// What it answers to a command without spaces in its words; none when it does not.
    pub fn says(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port.number())).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Forgets everything.
    pub fn flush(&self) {
        let answer = self.says("FLUSHALL");
        assert!(answer.as_ref().is_some_and(|answer| answer.starts_with("+OK")), "flush redis: {answer:?}");
    }

    /// Stops it as a crash would. It keeps its port.
    pub fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal("KILL");
            server.wait();
        }
    }

    /// Starts it again, empty, at its port.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.try_start(), "redis does not start:\n{}", self.log());
    }

    /// It answers nobody until it is thawed; connections stay open.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_forgets_when_told_and_when_killed() {
        let mut redis = Redis::start();
        assert_eq!(redis.says("SET x 1").as_deref(), Some("+OK\r\n+OK\r\n"));
        redis.freeze();
        redis.thaw();
        assert!(redis.says("GET x").is_some_and(|answer| answer.starts_with("$1\r\n1")));
        redis.flush();
        assert!(redis.says("GET x").is_some_and(|answer| answer.starts_with("$-1")));
        redis.says("SET x 1");
        redis.restart();
        assert!(redis.says("GET x").is_some_and(|answer| answer.starts_with("$-1")));
        redis.kill();
        assert_eq!(redis.says("PING"), None);
    }
}
