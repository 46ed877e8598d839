//! One object to read, named by a URL.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use url::Url;

use crate::remote::{Remote, Scheme, for_people, hide};
use crate::{Error, Reading, Settings};

/// An object to read.
#[derive(Clone, Debug)]
pub struct Input {
    url: Url,
    path: ObjectPath,
    scheme: Scheme,
    /// The URL for people: without a password or a signature.
    place: String,
    file_name: String,
    /// What errors of the store may repeat and nobody should read.
    secret: Option<String>,
}

impl Input {
    /// Takes `s3://`, `gs://`, `az://`, `https://`, `http://` and `file://`; credentials come from the usual
    /// environment variables of each. Asks nobody anything yet.
    pub fn open(text: &str) -> Result<Self, Error> {
        let url = Url::parse(text).map_err(|error| Error::Invalid(format!("not a URL: {error}")))?;
        let scheme = Scheme::of(&url).ok_or_else(|| {
            let known = "s3, gs, az, https, http and file";
            Error::Invalid(format!("URLs of `{}` cannot be read; those of {known} can", url.scheme()))
        })?;
        let file_name = percent_decoded(url.path().rsplit('/').next().unwrap_or_default());
        if file_name.is_empty() {
            return Err(Error::Invalid("the URL names no object".to_owned()));
        }
        let path = match scheme {
            // The whole URL is kept, with its query: it may be signed.
            Scheme::Http => ObjectPath::default(),
            Scheme::File | Scheme::S3 | Scheme::Gcs | Scheme::Azure => ObjectPath::from_url_path(url.path())
                .map_err(|error| Error::Invalid(format!("the URL names no object: {error}")))?,
        };
        let (place, secret) = for_people(url.clone());
        Ok(Self { url, path, scheme, place, file_name, secret })
    }

    /// The URL, without a password or a signature in it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The last part of the object's name.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Asks for the object. A connection that breaks is taken up again where it broke, when the server can.
    pub async fn read(&self) -> Result<Reading, Error> {
        self.read_with(&Settings::default()).await
    }

    /// As [`Input::read`], with settings beside those of the environment.
    pub async fn read_with(&self, settings: &Settings) -> Result<Reading, Error> {
        let remote = Remote::open(self.scheme, &self.url, settings).map_err(|error| self.error(&error))?;
        let got = remote.store.get(&self.path).await.map_err(|error| self.error(&error))?;
        let (input, bytes) = (self.clone(), got.meta.size);
        Ok(Reading::new(bytes, got.into_stream().map_err(move |error| input.error(&error))))
    }

    /// On one line and without secrets.
    fn error(&self, error: &object_store::Error) -> Error {
        let error = Error::from_store(&format!("read {}", self.place), error);
        error.map(|text| hide(&text, self.secret.as_deref()))
    }

    /// What to try when it could not be read.
    pub fn advice(&self) -> &'static str {
        match self.scheme {
            Scheme::File => "check that the file is there and can be read",
            Scheme::Http => "check the URL, and that this machine may read it",
            Scheme::S3 => {
                "check bucket, key and region; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the \
                 region from AWS_REGION, a server of your own from AWS_ENDPOINT_URL (with AWS_ALLOW_HTTP=true for \
                 http); for a public bucket set AWS_SKIP_SIGNATURE=true"
            }
            Scheme::Gcs => {
                "check bucket and name; credentials come from GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, \
                 for a public bucket set GOOGLE_SKIP_SIGNATURE=true"
            }
            Scheme::Azure => {
                "check container and name; the account comes from AZURE_STORAGE_ACCOUNT_NAME, credentials from \
                 AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY"
            }
        }
    }
}

/// What stands for a slash or a parent folder in a name stays as it is written.
fn percent_decoded(name: &str) -> String {
    match ObjectPath::from_url_path(name) {
        Ok(path) if !path.as_ref().contains('/') => path.as_ref().to_owned(),
        Ok(_) | Err(_) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        let input = Input::open("https://me:word@host/a/list%20one.csv.gz?X-Amz-Signature=abc").unwrap();
        assert_eq!(input.place(), "https://me@host/a/list%20one.csv.gz");
        assert_eq!(input.file_name(), "list one.csv.gz");
        assert_eq!(input.secret.as_deref(), Some("X-Amz-Signature=abc"));
        // A name is never a path.
        assert_eq!(Input::open("s3://bucket/a/b%2Fc.csv").unwrap().file_name(), "b%2Fc.csv");
        assert_eq!(
            Input::open("s3://bucket/%2E%2E%2Fc.csv").map(|input| input.file_name().to_owned()).ok(),
            None
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_at_once() {
        let refused = |url| Input::open(url).unwrap_err().to_string();
        assert_eq!(
            refused("ftp://host/a.csv"),
            "URLs of `ftp` cannot be read; those of s3, gs, az, https, http and file can"
        );
        assert_eq!(refused("s3://bucket/"), "the URL names no object");
        assert_eq!(refused("://a"), "not a URL: relative URL without a base");
    }

    #[tokio::test]
    async fn a_file_is_read_in_order_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my list.txt");
        let content: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let url = Url::from_file_path(&path).unwrap();
        let mut reading = Input::open(url.as_str()).unwrap().read().await.unwrap();
        let mut read = Vec::new();
        while let Some(chunk) = reading.next().await.unwrap() {
            read.extend_from_slice(&chunk);
        }
        assert!(read == content);
        std::fs::remove_file(&path).unwrap();
        let missing = Input::open(url.as_str()).unwrap().read().await.err().unwrap();
        assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
        assert!(missing.to_string().starts_with(&format!("read {url}: ")), "{missing}");
    }
}
