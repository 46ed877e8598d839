//! A private S3 server: s3s with its file system, in this process, over HTTP.
//!
//! It checks signatures as S3 does, which moto does not, and needs no Python; what it lacks is added in [`gate`], where faults
//! stand between the connection and the server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::runtime::Runtime;

use crate::folder::Folder;
use crate::port::Port;

mod fault;
mod gate;

pub use fault::{Fault, On};
use gate::Gate;

/// The keys of a server for a test.
const ACCESS_KEY: &str = "farm";
const SECRET_KEY: &str = "farm-secret-key";

/// A running S3 server. Stops when dropped.
#[derive(Debug)]
pub struct S3 {
    data: PathBuf,
    /// Holds the data of a test.
    folder: Option<Folder>,
    port: Port,
    service: S3Service,
    plan: Arc<Mutex<fault::Plan>>,
    runtime: Option<Runtime>,
}

impl S3 {
    /// Starts a server with an empty bucket `farm`, whose data goes with it.
    pub fn start() -> Self {
        let folder = Folder::new();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("the folder is new");
        let mut s3 = Self::serve(&data, (ACCESS_KEY, SECRET_KEY));
        s3.folder = Some(folder);
        s3.bucket("farm");
        s3
    }

    /// Serves a folder, whose own folders are the buckets, to whoever has the access key and the secret key.
    pub fn serve(data: &Path, (access, secret): (&str, &str)) -> Self {
        let files =
            FileSystem::new(data).unwrap_or_else(|error| panic!("serve {}: {error:?}", data.display()));
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(access, secret));
        let mut s3 = Self {
            data: data.to_owned(),
            folder: None,
            port: Port::take(),
            service: service.build(),
            plan: Arc::default(),
            runtime: None,
        };
        s3.restart();
        s3
    }

    /// Makes a bucket.
    pub fn bucket(&self, name: &str) {
        let path = self.data.join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
    }

    /// Where its requests go.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()))
    }

    /// The environment of a program that uses it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let names = [
            "AWS_ENDPOINT_URL",
            "AWS_ALLOW_HTTP",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_REGION",
        ];
        let values = [&self.endpoint(), "true", ACCESS_KEY, SECRET_KEY, "us-east-1"];
        names.into_iter().zip(values).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The file that holds an object, to look at or to alter.
    pub fn file(&self, bucket: &str, object: &str) -> PathBuf {
        self.data.join(bucket).join(object)
    }

    /// Uploads in parts that were neither finished nor aborted, and parts without an upload.
    pub fn uploads(&self) -> Vec<String> {
        let mut uploads = names(&self.data);
        uploads.retain(|name| name.starts_with(".upload"));
        uploads
    }

    /// Plans a fault for the next `times` requests that it fits. Of several that fit one request, the first planned
    /// happens.
    pub fn inject(&self, on: On, times: usize, fault: Fault) {
        self.plan().add(on, times, fault);
    }

    /// Forgets all faults that are planned.
    pub fn heal(&self) {
        self.plan().clear();
    }

    /// How many requests came that fit, with and without faults.
    pub fn seen(&self, on: &On) -> usize {
        self.plan().seen(on)
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.plan().connections
    }

    fn plan(&self) -> MutexGuard<'_, fault::Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops it as a crash would. It keeps its data and its port.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: the caller may be in an async runtime.
            runtime.shutdown_background();
        }
    }

    /// Starts it again, with its data and at its port.
    pub fn restart(&mut self) {
        self.kill();
        let start = || -> io::Result<(Runtime, TcpListener)> {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("s3")
                .enable_all()
                .build()?;
            let listener = listen(self.address())?;
            listener.set_nonblocking(true)?;
            Ok((runtime, listener))
        };
        let (runtime, listener) =
            start().unwrap_or_else(|error| panic!("serve at {}: {error}", self.address()));
        let gate = Gate::new(self.service.clone(), self.data.clone(), self.plan.clone());
        runtime.spawn(answer(listener, gate));
        self.runtime = Some(runtime);
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port of a server that was just killed is free in a moment.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let start = std::time::Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed().as_secs() < 10 => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            bound => return bound,
        }
    }
}

/// Serves until its runtime ends.
async fn answer(listener: TcpListener, gate: Gate) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the listener does not block");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        gate.connected();
        let gate = gate.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let gate = gate.clone();
                async move { gate.pass(request).await }
            });
            // Faults and clients that go away end connections with errors.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
