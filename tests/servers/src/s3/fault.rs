//! What is planned to go wrong.

use std::time::Duration;

/// Requests that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct On {
    /// Such as `PUT`; all when empty.
    method: String,
    /// What the path with its query contains, such as `/farm/a.png` or `partNumber=2`.
    part: String,
}

impl On {
    /// Requests with a method, or all when it is empty, whose path and query contain a text.
    pub fn new(method: &str, part: &str) -> Self {
        Self { method: method.into(), part: part.into() }
    }

    /// `PUT`.
    pub fn put(part: &str) -> Self {
        Self::new("PUT", part)
    }

    /// `GET`.
    pub fn get(part: &str) -> Self {
        Self::new("GET", part)
    }

    fn fits(&self, method: &str, path: &str) -> bool {
        (self.method.is_empty() || self.method == method) && path.contains(&self.part)
    }
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The server does nothing and answers with a status, an error code of S3 and headers.
    Answer(u16, &'static str, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the request's body.
    CutRequest(usize),
    /// A byte of the request's body is another one when it arrives.
    Damage,
    /// The request is carried out; the connection ends before the answer.
    LoseAnswer,
    /// The request is carried out; the answer stays away and the connection stays open.
    Silence,
    /// The connection ends after so many bytes of the answer's body.
    CutAnswer(usize),
    /// The answer's body comes a byte at a time, with so long between them.
    Drip(Duration),
    /// The request is carried out after so long.
    Delay(Duration),
}

impl Fault {
    /// `503 SlowDown`, with a wish in seconds.
    pub fn slow_down(seconds: u64) -> Self {
        Self::Answer(503, "SlowDown", vec![("retry-after", seconds.to_string())])
    }

    /// `500 InternalError`.
    pub fn internal() -> Self {
        Self::Answer(500, "InternalError", Vec::new())
    }

    /// `403 AccessDenied`.
    pub fn denied() -> Self {
        Self::Answer(403, "AccessDenied", Vec::new())
    }

    /// What S3 says to whoever asks in another region than the bucket's.
    pub fn moved(region: &str) -> Self {
        Self::Answer(301, "PermanentRedirect", vec![("x-amz-bucket-region", region.to_owned())])
    }
}

/// Faults to come, and requests that came.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<(On, usize, Fault)>,
    requests: Vec<(String, String)>,
    pub(super) connections: usize,
}

impl Plan {
    pub(super) fn add(&mut self, on: On, times: usize, fault: Fault) {
        self.faults.push((on, times, fault));
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    pub(super) fn seen(&self, on: &On) -> usize {
        self.requests.iter().filter(|(method, path)| on.fits(method, path)).count()
    }

    /// Takes note of a request; what is to go wrong with it.
    pub(super) fn take(&mut self, method: &str, path: &str) -> Option<Fault> {
        self.requests.push((method.to_owned(), path.to_owned()));
        let at = self.faults.iter().position(|(on, times, _)| *times > 0 && on.fits(method, path))?;
        let (_, times, fault) = &mut self.faults[at];
        *times -= 1;
        Some(fault.clone())
    }
}
