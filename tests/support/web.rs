//! A web server with a few files, over real sockets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Serves files until it is dropped.
pub struct WebServer {
    address: String,
    site: Arc<Site>,
    thread: Option<JoinHandle<()>>,
}

struct Site {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The first answer breaks off in the middle.
    breaks: AtomicBool,
    stop: AtomicBool,
    /// Path of each request, with the bytes that it asks for.
    requests: Mutex<Vec<String>>,
}

impl WebServer {
    /// Serves these files, each under its name.
    pub fn new<const N: usize>(files: [(&str, Vec<u8>); N]) -> Self {
        Self::start(files, false)
    }

    /// The same, but the first answer breaks off in the middle.
    pub fn that_breaks<const N: usize>(files: [(&str, Vec<u8>); N]) -> Self {
        Self::start(files, true)
    }

    fn start<const N: usize>(files: [(&str, Vec<u8>); N], breaks: bool) -> Self {
        let files: BTreeMap<_, _> =
            files.into_iter().map(|(name, bytes)| (format!("/{name}"), bytes)).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let site = Arc::new(Site {
            files: Mutex::new(files),
            breaks: AtomicBool::new(breaks),
            stop: AtomicBool::new(false),
            requests: Mutex::new(Vec::new()),
        });
        let served = Arc::clone(&site);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if served.stop.load(Ordering::SeqCst) {
                    break;
                }
                // A client may leave in the middle of an answer.
                let _ = served.answer(stream.unwrap());
            }
        });
        Self { address, site, thread: Some(thread) }
    }

    /// Serves one more file, or another one under a name.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.site.files.lock().unwrap().insert(format!("/{name}"), bytes.to_vec());
    }

    /// The URL of a file.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// What was asked for so far, such as `/a.csv` or `/a.csv bytes=100-199`.
    pub fn requests(&self) -> Vec<String> {
        self.site.requests.lock().unwrap().clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.site.stop.store(true, Ordering::SeqCst);
        // Wakes the server; it may have ended by itself.
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Site {
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(&stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut range = None;
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = Some(value.trim().to_owned());
            }
        }
        let asked = range.as_ref().map_or(path.clone(), |range| format!("{path} {range}"));
        self.requests.lock().unwrap().push(asked);
        let file = path.split('?').next().unwrap_or_default();
        let mut stream = &stream;
        let Some(bytes) = self.files.lock().unwrap().get(file).cloned() else {
            return stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let all = 0..bytes.len();
        let part = range.as_deref().map(|range| {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            first.parse().unwrap()..last.parse().map_or(bytes.len(), |last: usize| last + 1)
        });
        let status = match &part {
            Some(part) => format!(
                "206 Partial Content\r\nContent-Range: bytes {}-{}/{}",
                part.start,
                part.end - 1,
                bytes.len()
            ),
            None => "200 OK".to_owned(),
        };
        let part = part.unwrap_or(all);
        let body = &bytes[part];
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nETag: \"1\"\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        let broken = self.breaks.swap(false, Ordering::SeqCst);
        stream.write_all(if broken { &body[..length / 2] } else { body })
    }
}
