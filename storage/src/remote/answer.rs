//! What went wrong between us and a store, read from an error of `object_store`, which keeps status and document to itself.

use std::error::Error as StdError;

use object_store::client::HttpError;
use url::Url;

use super::client::WrongRegion;
use crate::Error;

/// What a server said instead of yes.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    status: u16,
    /// Such as `NoSuchBucket`, where it sent a document.
    code: Option<String>,
    message: Option<String>,
}

impl Answer {
    /// Reads the document of an answer, which need not be one.
    pub(crate) fn new(status: u16, document: &str) -> Self {
        Self { status, code: element(document, "Code"), message: element(document, "Message") }
    }

    /// From the text of an error.
    pub(crate) fn find(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("status code: ")?;
        let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
        Some(Self::new(digits.parse().ok()?, rest))
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether the whole bucket is missing.
    pub(crate) fn no_bucket(&self) -> bool {
        matches!(self.code(), "NoSuchBucket" | "ContainerNotFound")
    }

    fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_default()
    }

    /// As an error; `doing` says what was tried.
    pub(crate) fn into_error(self, doing: &str) -> Error {
        let said = self.text();
        let text = |hint: &str| {
            if hint.is_empty() { format!("{doing}: {said}") } else { format!("{doing}: {said} ({hint})") }
        };
        match (self.status, self.code()) {
            (507, _) | (_, "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull") => {
                Error::Full(text(""))
            }
            (_, "NoSuchBucket" | "ContainerNotFound") => Error::NotFound(text(
                "there is no such bucket: check its name and AWS_ENDPOINT_URL or the account",
            )),
            // An upload that ended, or that the server forgot: the next try makes a new one.
            (_, "NoSuchUpload") => Error::Unavailable(text("")),
            (301 | 307, _)
            | (
                _,
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
            ) => Error::Invalid(text(
                "the bucket may be in another region: check AWS_REGION and AWS_ENDPOINT_URL",
            )),
            // Also what was signed long before its last try: the next one is signed anew.
            (_, "RequestTimeTooSkewed") => Error::Unavailable(text("check this machine's clock")),
            (401 | 403, _)
            | (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch") => {
                Error::Denied(text("check the credentials and what they allow"))
            }
            (404, _) => Error::NotFound(text("")),
            // What came damaged or half, or while others wrote there.
            (
                _,
                "BadDigest"
                | "InvalidDigest"
                | "IncompleteBody"
                | "RequestTimeout"
                | "XAmzContentSHA256Mismatch"
                | "ConditionalRequestConflict"
                | "OperationAborted",
            )
            | (408 | 409 | 429, _) => Error::Unavailable(text("")),
            (400..=499 | 501, _) => Error::Invalid(text("")),
            _ => Error::Unavailable(text("")),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("the server answers {}", self.status);
        for (part, before) in [(&self.code, " "), (&self.message, ": ")] {
            if let Some(part) = part {
                text.push_str(before);
                text.push_str(part.trim_end_matches('.'));
            }
        }
        text
    }
}

/// What an element of a small document holds. Its names are those of S3, GCS and Azure alike.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&apos;", "'"), ("&amp;", "&")];
    Some(
        entities
            .into_iter()
            .fold(text.trim().to_owned(), |text, (entity, letter)| text.replace(entity, letter)),
    )
}

/// Why a call came to nothing.
pub(crate) struct Failure<'a> {
    error: &'a object_store::Error,
    text: String,
}

impl<'a> Failure<'a> {
    /// None when no network was in it.
    pub(crate) fn of(error: &'a object_store::Error) -> Option<Self> {
        let text = error.to_string();
        let is_remote = text.contains("Error performing ") || cause::<HttpError>(error).is_some();
        is_remote.then_some(Self { error, text })
    }

    /// What the server said, when it said anything.
    pub(crate) fn answer(&self) -> Option<Answer> {
        Answer::find(&self.text)
    }

    /// As an error; `doing` says what was tried.
    pub(crate) fn into_error(self, doing: &str) -> Error {
        let doing = match self.tries() {
            Some(tries) => format!("{doing}, {tries} times"),
            None => doing.to_owned(),
        };
        if let Some(wrong) = cause::<WrongRegion>(self.error) {
            return Error::Invalid(format!("{doing}: {wrong}"));
        }
        if self.asks_for_keys() {
            return Error::Denied(format!(
                "{doing}: no credentials: there are none in the environment, and this machine has none to give ({})",
                self.causes()
            ));
        }
        if let Some(answer) = self.answer() {
            return answer.into_error(&doing);
        }
        if self.text.contains("redirect without LOCATION") {
            return Answer::new(301, "").into_error(&doing);
        }
        let place = self.server().map_or_else(String::new, |server| format!("{server}: "));
        Error::Unavailable(format!("{doing}: {place}{}", self.causes()))
    }

    /// Whether it was the machine's own service for credentials that did not answer.
    fn asks_for_keys(&self) -> bool {
        ["/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/"]
            .iter()
            .any(|path| self.text.contains(path))
    }

    /// The server that was asked.
    fn server(&self) -> Option<String> {
        let (_, rest) = self.text.split_once("Error performing ")?;
        let url = Url::parse(rest.split_whitespace().nth(1)?).ok()?;
        Some(url.origin().ascii_serialization())
    }

    /// How often it was tried, when more than once.
    fn tries(&self) -> Option<u32> {
        let (_, rest) = self.text.split_once(", after ")?;
        let retries: u32 = rest.split_once(" retries")?.0.parse().ok()?;
        Some(retries + 1)
    }

    /// What lies below, from the HTTP client to the operating system.
    fn causes(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        let mut next = cause::<HttpError>(self.error).and_then(StdError::source);
        if next.is_none() {
            return self.answer().map_or_else(|| self.text.clone(), |answer| answer.text());
        }
        while let Some(error) = next {
            let text = error.to_string();
            // An error may tell its cause in its own text.
            if !error.is::<HttpError>() && !texts.iter().any(|said| said.contains(&text)) {
                texts.push(text);
            }
            next = error.source();
        }
        texts.join(": ")
    }
}

/// The first error of a kind below another one.
pub(crate) fn cause<T: StdError + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW_DOWN: &str = "Generic S3 error: Error performing PUT http://127.0.0.1:9000/b/a?x=1 in 3.2s, after 6 retries, \
        max_retries: 6, retry_timeout: 86400s  - Server returned non-2xx status code: 503 Service Unavailable: \
        <?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce &lt;your&gt; rate.</Message></Error>";

    #[test]
    fn what_a_server_said_is_read_from_the_text_of_the_error() {
        let error = object_store::Error::Generic {
            store: "S3",
            source: SLOW_DOWN["Generic S3 error: ".len()..].into(),
        };
        assert_eq!(
            Failure::of(&error).unwrap().into_error("write a in s3://b"),
            Error::Unavailable(
                "write a in s3://b, 7 times: the server answers 503 SlowDown: Reduce <your> rate".into()
            )
        );
    }

    #[test]
    fn answers_are_sorted_by_what_a_person_can_do() {
        let sort = |status, code: &str| {
            Answer::new(status, &format!("<Error><Code>{code}</Code></Error>")).into_error("write a")
        };
        assert!(matches!(sort(403, "AccessDenied"), Error::Denied(_)));
        assert!(matches!(sort(400, "ExpiredToken"), Error::Denied(_)));
        assert!(
            matches!(sort(404, "NoSuchBucket"), Error::NotFound(text) if text.contains("no such bucket"))
        );
        assert!(matches!(sort(404, "NoSuchUpload"), Error::Unavailable(_)));
        assert!(
            matches!(sort(301, "PermanentRedirect"), Error::Invalid(text) if text.contains("AWS_REGION"))
        );
        assert!(matches!(sort(400, "EntityTooLarge"), Error::Invalid(_)));
        assert!(matches!(sort(400, "BadDigest"), Error::Unavailable(_)));
        assert!(matches!(sort(507, "XMinioStorageFull"), Error::Full(_)));
        assert!(matches!(sort(500, "InternalError"), Error::Unavailable(_)));
        assert!(matches!(Answer::new(403, "no document").into_error("x"), Error::Denied(_)));
    }
}
