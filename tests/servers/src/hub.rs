//! A hub of models over real sockets, as far as a download sees it: the listing of a revision, files with their redirects
//! and ranges, tokens, and answers that go wrong.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::json;
use sha2::{Digest, Sha256};

/// Serves models until it is dropped.
#[derive(Debug)]
pub struct Hub {
    address: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the next answer with a file's bytes is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks after so many bytes.
    CutAfter(usize),
    /// Nothing more comes after so many bytes until [`Hub::release`].
    HoldAfter(usize),
    /// One byte is another.
    Altered,
    /// The whole file is sent, whatever range was asked for.
    IgnoreRange,
    /// An error with this status.
    Status(u16),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    released: bool,
    token: Option<String>,
    /// By `owner/name`, then by branch or commit.
    revisions: BTreeMap<String, BTreeMap<String, String>>,
    /// By `owner/name@commit`.
    files: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    requests: Vec<String>,
}

/// The part of a request that matters here.
struct Request {
    path: String,
    range: Option<usize>,
    token: Option<String>,
}

impl Hub {
    /// An empty hub on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("this machine has ports to give");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared::default());
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.state().stop {
                    break;
                }
                let served = Arc::clone(&served);
                // A client may leave in the middle of an answer.
                std::thread::spawn(move || stream.and_then(|stream| served.answer(&stream)));
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// What `HF_ENDPOINT` is to name.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes all files below a folder as the commit that a branch of `owner/name` is at from now on.
    pub fn publish(&self, repository: &str, branch: &str, commit: &str, folder: &Path) {
        let mut files = BTreeMap::new();
        collect(folder, "", &mut files);
        self.publish_files(repository, branch, commit, files);
    }

    /// The same with files that lie nowhere.
    pub fn publish_files(
        &self,
        repository: &str,
        branch: &str,
        commit: &str,
        files: BTreeMap<String, Vec<u8>>,
    ) {
        let mut state = self.shared.state();
        let revisions = state.revisions.entry(repository.to_owned()).or_default();
        for revision in [branch, commit] {
            revisions.insert(revision.to_owned(), commit.to_owned());
        }
        state.files.insert(format!("{repository}@{commit}"), files);
    }

    /// From now on nobody gets anything without this token.
    pub fn require_token(&self, token: &str) {
        self.shared.state().token = Some(token.to_owned());
    }

    /// The next answers with the bytes of this file, one after the other; then all is well again.
    pub fn spoil<const N: usize>(&self, file: &str, faults: [Fault; N]) {
        self.shared.state().faults.insert(file.to_owned(), faults.into());
    }

    /// Lets go on what [`Fault::HoldAfter`] holds.
    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.released.notify_all();
    }

    /// What was asked for so far: `list owner/name REVISION`, and `FILE` or `FILE FIRST-BYTE` where bytes were.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.released.notify_all();
        // Wakes the server; it may have ended by itself.
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        let request = read_request(stream)?;
        let segments: Vec<String> = request.path.split('/').skip(1).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        // Where the bytes of large files lie needs no token: its address is the secret.
        let is_signed = segments.first() == Some(&"cdn");
        if !is_signed
            && self.state().token.as_ref().is_some_and(|token| request.token.as_ref() != Some(token))
        {
            return refuse(stream, "401 Unauthorized", "RepoNotFound", "Invalid username or password.");
        }
        match segments.as_slice() {
            ["api", "models", owner, name, "revision", revision] => {
                self.list(stream, &format!("{owner}/{name}"), revision)
            }
            [owner, name, "resolve", commit, path @ ..] => {
                self.resolve(stream, &request, &format!("{owner}/{name}@{commit}"), &path.join("/"))
            }
            ["cdn", owner, name, commit, path @ ..] => {
                self.send(stream, &request, &format!("{owner}/{name}@{commit}"), &path.join("/"))
            }
            _ => refuse(stream, "404 Not Found", "", "Not found"),
        }
    }

    fn list(&self, stream: &TcpStream, repository: &str, revision: &str) -> io::Result<()> {
        let mut state = self.state();
        state.requests.push(format!("list {repository} {revision}"));
        let Some(revisions) = state.revisions.get(repository) else {
            return refuse(stream, "404 Not Found", "RepoNotFound", "Repository not found");
        };
        let Some(commit) = revisions.get(revision) else {
            return refuse(stream, "404 Not Found", "RevisionNotFound", "Invalid rev id");
        };
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let size = bytes.len();
            if is_large(name) {
                let lfs = json!({ "sha256": sha256(bytes), "size": size, "pointerSize": 134 });
                json!({ "rfilename": name, "size": size, "blobId": "0", "lfs": lfs })
            } else {
                json!({ "rfilename": name, "size": size, "blobId": "0" })
            }
        };
        let files = state.files.get(&format!("{repository}@{commit}")).into_iter().flatten();
        let siblings: Vec<_> = files.map(sibling).collect();
        let body = json!({ "id": repository, "sha": commit, "siblings": siblings }).to_string();
        respond(stream, "200 OK", &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// Small files are sent, for large ones another address is told.
    fn resolve(&self, stream: &TcpStream, request: &Request, model: &str, path: &str) -> io::Result<()> {
        if !is_large(path) {
            return self.send(stream, request, model, path);
        }
        let place = format!("/cdn/{}/{path}?signature=secret", model.replace('@', "/"));
        respond(stream, "302 Found", &[("Location", &place)], b"")
    }

    fn send(&self, stream: &TcpStream, request: &Request, model: &str, path: &str) -> io::Result<()> {
        let (bytes, fault) = {
            let mut state = self.state();
            state.requests.push(request.range.map_or(path.to_owned(), |first| format!("{path} {first}")));
            let Some(bytes) = state.files.get(model).and_then(|files| files.get(path)).cloned() else {
                return refuse(stream, "404 Not Found", "EntryNotFound", "Entry not found");
            };
            (bytes, state.faults.get_mut(path).and_then(VecDeque::pop_front))
        };
        let first = request.range.filter(|_| fault != Some(Fault::IgnoreRange));
        let Some(mut body) = bytes.get(first.unwrap_or(0)..).map(<[u8]>::to_vec) else {
            return refuse(stream, "416 Range Not Satisfiable", "", "");
        };
        if fault == Some(Fault::Altered)
            && let Some(byte) = body.last_mut()
        {
            *byte ^= 1;
        }
        if let Some(Fault::Status(status)) = fault {
            return refuse(stream, &format!("{status} Spoilt"), "", "spoilt by the test");
        }
        let range = first.map(|first| format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len()));
        let (status, headers) = match &range {
            Some(range) => ("206 Partial Content", vec![("Content-Range", range.as_str())]),
            None => ("200 OK", vec![]),
        };
        head(stream, status, &headers, body.len())?;
        let mut stream = stream;
        match fault {
            Some(Fault::CutAfter(count)) => stream.write_all(&body[..count.min(body.len())]),
            Some(Fault::HoldAfter(count)) => {
                let (now, later) = body.split_at(count.min(body.len()));
                stream.write_all(now)?;
                let held = self.released.wait_while(self.state(), |state| !state.released && !state.stop);
                drop(held);
                stream.write_all(later)
            }
            Some(Fault::Altered | Fault::IgnoreRange | Fault::Status(_)) | None => stream.write_all(&body),
        }
    }
}

/// Whether the hub keeps a file apart, under its checksum.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with("tokenizer.json")
}

fn read_request(stream: &TcpStream) -> io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let line = lines.next().transpose()?.unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let mut request =
        Request { path: target.split('?').next().unwrap_or_default().to_owned(), range: None, token: None };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let first = value.trim().strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                request.range = first.and_then(|first| first.parse().ok());
            }
            "authorization" => request.token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Ok(request)
}

fn refuse(stream: &TcpStream, status: &str, code: &str, message: &str) -> io::Result<()> {
    respond(stream, status, &[("X-Error-Code", code), ("X-Error-Message", message)], b"")
}

fn respond(mut stream: &TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
    head(stream, status, headers, body.len())?;
    stream.write_all(body)
}

fn head(mut stream: &TcpStream, status: &str, headers: &[(&str, &str)], length: usize) -> io::Result<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")
}

/// With `%2F` and the like as what they stand for.
fn decoded(segment: &str) -> String {
    let mut parts = segment.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(letter) => text.extend([&char::from(letter).to_string(), &part[2..]]),
            None => text.extend(["%", part]),
        }
    }
    text
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    for entry in entries.map_while(Result::ok) {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else if let Ok(bytes) = std::fs::read(entry.path()) {
            files.insert(name, bytes);
        }
    }
}
