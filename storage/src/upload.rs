//! Local files sent to an object store in parts.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::objects::{Objects, attributes};
use crate::reading::open_source;
use crate::{Error, Put};

/// Bytes of one part; object stores take parts of 5 MiB and more.
const PART_BYTES: u64 = 8 << 20;
/// Object stores take so many parts of an object.
const MAX_PARTS: u64 = 10_000;
/// Parts that are sent at once.
const PARALLEL: usize = 4;

impl Objects {
    pub(crate) async fn put_new_file(
        &self,
        name: &str,
        path: &ObjectPath,
        file: &Path,
    ) -> Result<Put, Error> {
        let (mut source, bytes) = open_source(file).await?;
        if bytes < PART_BYTES {
            return self.put_new(name, path, read_part(&mut source, PART_BYTES, file).await?).await;
        }
        // An upload in parts cannot be told to leave alone what is there.
        if self.size(name, path).await?.is_some() {
            return Ok(Put::Exists);
        }
        match self.upload(name, path, source, bytes, file).await {
            Ok(()) => Ok(Put::Created),
            Err(error) => match self.size(name, path).await {
                // It was finished and the answer lost: the name was free, and is of this attempt alone.
                Ok(Some(there)) if there == bytes => Ok(Put::Created),
                Ok(_) | Err(_) => Err(error),
            },
        }
    }

    pub(crate) async fn replace_file(&self, name: &str, path: &ObjectPath, file: &Path) -> Result<(), Error> {
        let (mut source, bytes) = open_source(file).await?;
        if bytes < PART_BYTES {
            return self.replace(name, path, read_part(&mut source, PART_BYTES, file).await?).await;
        }
        self.upload(name, path, source, bytes, file).await
    }

    async fn upload(
        &self,
        name: &str,
        path: &ObjectPath,
        source: File,
        bytes: u64,
        file: &Path,
    ) -> Result<(), Error> {
        let options = PutMultipartOptions { attributes: attributes(name), ..PutMultipartOptions::default() };
        let begun = self.store.put_multipart_opts(path, options).await;
        let mut upload = Upload(Some(begun.map_err(|error| self.error("write", name, &error))?));
        let sent = self.send_parts(&mut upload, name, source, bytes, file).await;
        match (sent, upload.0.take()) {
            (Ok(()), _) | (Err(_), None) => {}
            (Err(error), Some(mut upload)) => {
                return Err(match upload.abort().await {
                    Ok(()) => error,
                    // The first error is the one to tell.
                    Err(_) => error.map(|text| format!("{text}; parts of it may be left in the store")),
                });
            }
        }
        Ok(())
    }

    async fn send_parts(
        &self,
        upload: &mut Upload,
        name: &str,
        mut source: File,
        bytes: u64,
        file: &Path,
    ) -> Result<(), Error> {
        let Some(upload) = upload.0.as_mut() else { return Ok(()) };
        let mut flying = FuturesUnordered::new();
        let part_bytes = PART_BYTES.max(bytes.div_ceil(MAX_PARTS));
        let sent = async {
            loop {
                let part = read_part(&mut source, part_bytes, file).await?;
                if part.is_empty() {
                    break;
                }
                if flying.len() == PARALLEL {
                    flying.next().await.transpose().map_err(|error| self.error("write", name, &error))?;
                }
                flying.push(upload.put_part(PutPayload::from_bytes(part)));
            }
            while let Some(sent) = flying.next().await {
                sent.map_err(|error| self.error("write", name, &error))?;
            }
            Ok(())
        }
        .await;
        // A part that arrives after the end of its upload would stay for ever.
        while flying.next().await.is_some() {}
        sent?;
        upload.complete().await.map(drop).map_err(|error| self.error("write", name, &error))
    }
}

/// Uploads that nobody waits for any more and that are not aborted yet.
static ABORTING: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Waits until the uploads that were dropped in the middle are aborted, so long at most: for who ends the process in good
/// order. Whatever is left is the bucket's to expire.
pub async fn aborted(limit: Duration) {
    let mut left = ABORTING.subscribe();
    // Its sender is never dropped.
    let _ = tokio::time::timeout(limit, left.wait_for(|left| *left == 0)).await;
}

/// Counts one of them while it lives, however it ends.
struct Aborting;

impl Aborting {
    fn begin() -> Self {
        ABORTING.send_modify(|left| *left += 1);
        Self
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        ABORTING.send_modify(|left| *left -= 1);
    }
}

/// An upload that is aborted when nobody waits for its end any more.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Drop for Upload {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), runtime) {
            let counted = Aborting::begin();
            runtime.spawn(async move {
                // Whatever this leaves is the bucket's to expire.
                let _ = upload.abort().await;
                drop(counted);
            });
        }
    }
}

/// Up to so many bytes: fewer only at the end of the file.
async fn read_part(source: &mut File, bytes: u64, file: &Path) -> Result<Bytes, Error> {
    let mut part = Vec::new();
    let read = source.take(bytes).read_to_end(&mut part).await;
    read.map_err(|error| Error::from_io(&format!("read {}", file.display()), &error))?;
    Ok(part.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::Found;
    use crate::remote::{Remote, Scheme};

    #[tokio::test]
    async fn files_of_all_sizes_arrive_as_they_are() {
        let remote = Arc::new(Remote { store: Arc::new(InMemory::new()), signer: None });
        let objects = Objects::new(Scheme::S3, remote, "prefix".into(), "test://bucket".into(), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        for bytes in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 6 * PART_BYTES] {
            let content: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            std::fs::write(&file, &content).unwrap();
            objects.replace_file("manifest", &"manifest".into(), &file).await.unwrap();
            let (name, path) = (format!("{bytes}.tar"), format!("{bytes}.tar").into());
            assert_eq!(objects.put_new_file(&name, &path, &file).await.unwrap(), Put::Created);
            assert_eq!(objects.put_new_file(&name, &path, &file).await.unwrap(), Put::Exists);
            for path in [path, "manifest".into()] {
                let found = objects.get("it", &path, u64::MAX).await.unwrap();
                assert!(found == Found::Object(content.clone().into()), "{bytes}: {path}");
            }
        }
    }
}
