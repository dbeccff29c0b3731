//! Content by its digest: written whole and checked, or not at all.
//!
//! An object becomes visible in one step, after its digest was found right: small ones by a single put, larger ones by
//! a multipart upload that is completed only then. Content whose digest nobody knew beforehand waits under `upload/`
//! and is renamed. Deliberately absent: who refers to it (`collect.rs`), and HTTP.

use super::s3;
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Bytes of a part of a large upload: the least that S3 takes. An upload holds two of them at most.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// A sender that is silent for so long has gone.
const CHUNK_WAIT: Duration = Duration::from_secs(60);
/// Where checked content is.
const CHECKED: &str = "sha256";
/// Where content is whose digest is not known yet.
const UPLOAD: &str = "upload";

/// Where objects are kept.
#[derive(Clone, Debug)]
pub enum Place {
    /// Files of this machine, seen by one package manager.
    Directory(PathBuf),
    /// Any S3 service, seen by all.
    S3(s3::Bucket),
}

/// What was stored. The answer to an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// `sha256:` and 64 digits.
    pub digest: String,
    /// `sha1:` and 40 digits.
    pub sha1: String,
    /// Bytes.
    pub length: u64,
}

/// Why content was not stored or found.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// More than is allowed.
    #[error("the content is larger than {max} bytes")]
    TooLarge {
        /// Allowed.
        max: u64,
    },
    /// The content is not what was announced.
    #[error("the content has the digest sha256:{found}, not sha256:{wanted}")]
    Mismatch {
        /// Announced.
        wanted: String,
        /// Arrived.
        found: String,
    },
    /// The sender broke off.
    #[error("the content did not arrive: {0}")]
    Broken(String),
    /// No such object.
    #[error("there is no content sha256:{0}")]
    Missing(String),
    /// The object store failed: disk full, service away.
    #[error("the object store failed: {0}")]
    Store(String),
}

impl From<object_store::Error> for ObjectError {
    fn from(mistake: object_store::Error) -> Self {
        Self::Store(mistake.to_string())
    }
}

/// Part of an object, on its way out.
pub struct Reading {
    /// Of the whole object.
    pub length: u64,
    /// The bytes asked for.
    pub range: Range<u64>,
    /// They come.
    pub bytes: BoxStream<'static, Result<Bytes, object_store::Error>>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its path in the store.
    pub path: Path,
    /// Its digest; none = an upload that was never finished.
    pub sha256: Option<String>,
    /// When it was written, milliseconds since 1970.
    pub modified_ms: u64,
}

/// All objects. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    directory: Option<PathBuf>,
}

impl Objects {
    /// Opens the place; a directory is created.
    pub fn open(place: &Place) -> Result<Self, ObjectError> {
        match place {
            Place::Directory(directory) => {
                let made = std::fs::create_dir_all(directory);
                made.map_err(|e| ObjectError::Store(format!("{}: {e}", directory.display())))?;
                let store = LocalFileSystem::new_with_prefix(directory)?.with_fsync(true);
                Ok(Self { store: Arc::new(store), directory: Some(directory.clone()) })
            }
            Place::S3(bucket) => {
                Ok(Self { store: Arc::new(s3::connect(bucket)?), directory: None })
            }
        }
    }

    /// Over any object store, for tests.
    #[cfg(test)]
    pub(super) fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, directory: None }
    }

    /// The directory, if it is one.
    pub(super) fn directory(&self) -> Option<&PathBuf> {
        self.directory.as_ref()
    }

    /// Stores what arrives, if it is at most `max` bytes and has the digest `wanted` (where given).
    pub async fn store<E: std::fmt::Display>(
        &self,
        wanted: Option<&str>,
        content: impl Stream<Item = Result<Bytes, E>> + Send,
        max: u64,
    ) -> Result<Stored, ObjectError> {
        let mut content = pin!(content);
        let mut sum = Sum::default();
        let mut part = BytesMut::new();
        let mut upload: Option<Upload> = None;
        loop {
            let next = tokio::time::timeout(CHUNK_WAIT, content.next());
            let next = next.await.map_err(|_| ObjectError::Broken("nothing came".to_owned()))?;
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(|mistake| ObjectError::Broken(mistake.to_string()))?;
            sum.add(&chunk);
            if sum.length > max {
                return Err(ObjectError::TooLarge { max });
            }
            part.extend_from_slice(&chunk);
            while part.len() >= PART_BYTES {
                let full = part.split_to(PART_BYTES).freeze();
                let upload = match &mut upload {
                    Some(upload) => upload,
                    None => upload.insert(self.begin(wanted).await?),
                };
                upload.put(full).await?;
            }
        }
        let stored = sum.stored();
        let found = stored.digest.trim_start_matches("sha256:");
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(ObjectError::Mismatch {
                wanted: wanted.to_owned(),
                found: found.to_owned(),
            });
        }
        match upload {
            None => self.store.put(&checked(found), part.freeze().into()).await.map(drop)?,
            Some(upload) => {
                let at = upload.complete(part.freeze()).await?;
                if at != checked(found) {
                    self.store.rename(&at, &checked(found)).await?;
                }
            }
        }
        Ok(stored)
    }

    async fn begin(&self, wanted: Option<&str>) -> Result<Upload, ObjectError> {
        let path = match wanted {
            Some(wanted) => checked(wanted),
            None => Path::from_iter([UPLOAD, &Uuid::new_v4().simple().to_string()]),
        };
        let inner = self.store.put_multipart(&path).await?;
        Ok(Upload { path, inner: Some(inner), under_way: None })
    }

    /// Length of an object.
    pub async fn length(&self, sha256: &str) -> Result<u64, ObjectError> {
        let meta = self.store.head(&checked(sha256)).await;
        meta.map(|meta| meta.size).map_err(|mistake| missing(sha256, mistake))
    }

    /// Part of an object, or all of it.
    pub async fn read(
        &self,
        sha256: &str,
        range: Option<Range<u64>>,
    ) -> Result<Reading, ObjectError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let got = self.store.get_opts(&checked(sha256), options).await;
        let got = got.map_err(|mistake| missing(sha256, mistake))?;
        let (length, range) = (got.meta.size, got.range.clone());
        Ok(Reading { length, range, bytes: got.into_stream() })
    }

    /// All objects, also uploads that were never finished.
    pub(super) async fn list(&self) -> Result<Vec<Object>, ObjectError> {
        let listing = self.store.list(None).map_ok(|meta| Object {
            sha256: sha256_of(&meta.location),
            modified_ms: u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0),
            path: meta.location,
        });
        Ok(listing.try_collect().await?)
    }

    /// When an object was last written; none = it is gone.
    pub(super) async fn modified_ms(&self, path: &Path) -> Result<Option<u64>, ObjectError> {
        match self.store.head(path).await {
            Ok(meta) => Ok(u64::try_from(meta.last_modified.timestamp_millis()).ok()),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(mistake) => Err(mistake.into()),
        }
    }

    /// Removes an object.
    pub(super) async fn remove(&self, path: &Path) -> Result<(), ObjectError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(mistake) => Err(mistake.into()),
        }
    }
}

/// Whether a text is 64 hexadecimal digits in lower case.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn checked(sha256: &str) -> Path {
    debug_assert!(is_sha256(sha256));
    Path::from_iter([CHECKED, &sha256[..2], sha256])
}

fn sha256_of(path: &Path) -> Option<String> {
    let name = path.filename().filter(|name| is_sha256(name))?;
    (*path == checked(name)).then(|| name.to_owned())
}

fn missing(sha256: &str, mistake: object_store::Error) -> ObjectError {
    match mistake {
        object_store::Error::NotFound { .. } => ObjectError::Missing(sha256.to_owned()),
        mistake => mistake.into(),
    }
}

/// A large upload. Dropped without [`Upload::complete`], it leaves nothing.
struct Upload {
    path: Path,
    inner: Option<Box<dyn MultipartUpload>>,
    /// One part travels while the next one is collected.
    under_way: Option<JoinHandle<object_store::Result<()>>>,
}

impl Upload {
    async fn put(&mut self, part: Bytes) -> Result<(), ObjectError> {
        self.settle().await?;
        let inner = self.inner.as_mut().expect("parts come before the end");
        self.under_way = Some(tokio::spawn(inner.put_part(PutPayload::from(part))));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), ObjectError> {
        if let Some(part) = self.under_way.as_mut() {
            let done = part.await;
            self.under_way = None;
            done.map_err(|mistake| ObjectError::Store(mistake.to_string()))??;
        }
        Ok(())
    }

    async fn complete(mut self, last: Bytes) -> Result<Path, ObjectError> {
        if !last.is_empty() {
            self.put(last).await?;
        }
        self.settle().await?;
        let inner = self.inner.as_mut().expect("the end comes once");
        inner.complete().await?;
        self.inner = None;
        Ok(self.path.clone())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut inner), under_way) = (self.inner.take(), self.under_way.take()) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Some(part) = under_way {
                drop(part.await);
            }
            if let Err(mistake) = inner.abort().await {
                tracing::warn!(%mistake, "a broken upload was left in the object store");
            }
        });
    }
}

/// Length and digests of what has passed.
#[derive(Default)]
struct Sum {
    length: u64,
    sha256: Sha256,
    sha1: Sha1,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.sha256.update(bytes);
        self.sha1.update(bytes);
    }

    fn stored(self) -> Stored {
        Stored {
            digest: format!("sha256:{}", hex(&self.sha256.finalize())),
            sha1: format!("sha1:{}", hex(&self.sha1.finalize())),
            length: self.length,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
