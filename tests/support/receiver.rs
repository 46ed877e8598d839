//! A receiver of webhooks, over real sockets, that answers as a test wants.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What a call is answered with.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// A status with its word, and a text.
    Status(&'static str, &'static str),
    /// A redirect to this path.
    Elsewhere(&'static str),
    /// Nothing, while the caller waits.
    Silence,
}

/// A call that came in.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    /// By names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// Listens until the test's process ends.
pub struct Receiver {
    address: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Receiver {
    /// Answers the first calls so, and all that follow with 204.
    pub fn new(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (answers, heard) = (answers.to_vec(), Arc::clone(&calls));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(call) = read(&stream) else { continue };
                let count = {
                    let mut calls = heard.lock().unwrap();
                    calls.push(call);
                    calls.len()
                };
                let answer = answers.get(count - 1).copied().unwrap_or(Answer::Status("204 No Content", ""));
                // A caller that hangs up is no trouble.
                std::thread::spawn(move || _ = reply(stream, answer));
            }
        });
        Self { address, calls }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Call> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().map(|_| line.trim_end().to_owned())
    };
    let path = line()?.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Call { path, headers, body: String::from_utf8(body).ok()? })
}

fn reply(mut stream: TcpStream, answer: Answer) -> std::io::Result<()> {
    let (status, more, text) = match answer {
        Answer::Status(status, text) => (status, String::new(), text),
        Answer::Elsewhere(path) => ("302 Found", format!("Location: {path}\r\n"), ""),
        // Until the other side has had enough.
        Answer::Silence => return stream.read(&mut [0]).map(|_| ()),
    };
    let length = text.len();
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}

/// A check of a signature that shares nothing with the farm.
const CHECK: &str = "import base64, hashlib, hmac, sys
secret, id, time, wanted = sys.argv[1:]
key = base64.b64decode(secret.removeprefix('whsec_'))
signed = f'{id}.{time}.'.encode() + sys.stdin.buffer.read()
mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
sys.exit(not any(hmac.compare_digest('v1,' + mac, one) for one in wanted.split(' ')))
";

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    /// Whether one of its signatures is this secret's.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let [id, time, signature] =
            ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| self.header(name));
        let mut python = Command::new("python3")
            .args(["-c", CHECK, secret, id, time, signature])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(self.body.as_bytes()).unwrap();
        python.wait().unwrap().success()
    }
}
