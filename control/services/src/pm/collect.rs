//! Garbage: content that no package refers to, and uploads that were never finished.
//!
//! Deliberately absent: counting of references. Every round reads all packages anew; it deletes nothing when it could
//! not read one of them.

use super::objects::{Object, ObjectError, Objects};
use object_store::path::Path;
use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::time::Duration;
use store::{Store, StoreError};
use wire::Package;

/// Keys of packages.
const PACKAGES: &str = "packages/";

/// Why a round deleted less than it could.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// References could not be read.
    #[error("packages cannot be read: {0}")]
    Store(#[from] StoreError),
    /// One record is not what it should be: its references are unknown.
    #[error("{key} was not understood: {why}")]
    Package {
        /// Which.
        key: String,
        /// The parser's words.
        why: String,
    },
    /// The objects could not be listed or removed.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// What goes: neither referred to nor younger than `age_ms`. Something that is not ours stays.
#[must_use]
pub fn plan(
    objects: &[Object],
    referred: &BTreeSet<String>,
    now_ms: u64,
    age_ms: u64,
) -> Vec<Path> {
    let old = |object: &&Object| now_ms.saturating_sub(object.modified_ms) > age_ms;
    let garbage = |object: &&Object| match &object.sha256 {
        Some(sha256) => !referred.contains(sha256),
        None => object.path.as_ref().starts_with("upload/"),
    };
    objects.iter().filter(old).filter(garbage).map(|object| object.path.clone()).collect()
}

/// One round; how many objects went.
pub(super) async fn collect(
    objects: &Objects,
    store: &Store,
    now_ms: u64,
    age: Duration,
) -> Result<usize, CollectError> {
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    // Objects first: what is referred to while we read was uploaded before, and is found among the references.
    let all = objects.list().await?;
    let referred = referred(store).await?;
    let mut gone = 0;
    for path in plan(&all, &referred, now_ms, age_ms) {
        // Uploaded again since: somebody is about to refer to it.
        let modified = objects.modified_ms(&path).await?;
        if modified.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) > age_ms) {
            objects.remove(&path).await?;
            gone += 1;
        }
    }
    if let Some(directory) = objects.directory().cloned() {
        let swept = tokio::task::spawn_blocking(move || sweep_staged(&directory, now_ms, age_ms));
        gone += swept.await.unwrap_or(0);
    }
    Ok(gone)
}

async fn referred(store: &Store) -> Result<BTreeSet<String>, CollectError> {
    let (mut referred, mut pages) = (BTreeSet::new(), store.pages(PACKAGES));
    while let Some(page) = pages.next().await? {
        for record in &page.records {
            let package: Package = serde_json::from_slice(&record.value).map_err(|mistake| {
                CollectError::Package { key: record.key.clone(), why: mistake.to_string() }
            })?;
            let digests = package.resources.into_iter().map(|resource| resource.digest);
            referred.extend(digests.filter_map(|d| d.strip_prefix("sha256:").map(str::to_owned)));
        }
    }
    Ok(referred)
}

/// Removes what a killed process left half written in a directory: `<name>#<number>`, which no listing shows.
fn sweep_staged(directory: &FilePath, now_ms: u64, age_ms: u64) -> usize {
    let folders = |at: &FilePath| -> Vec<_> {
        let entries = std::fs::read_dir(at).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let staged = |file: &std::path::PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.rsplit_once('#').is_some_and(|(_, number)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let old = |file: &std::path::PathBuf| {
        let modified = file.metadata().and_then(|meta| meta.modified()).ok();
        let since = modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let at_ms = since.map_or(u64::MAX, |s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX));
        now_ms.saturating_sub(at_ms) > age_ms
    };
    let shards = folders(&directory.join("sha256")).into_iter().flat_map(|shard| folders(&shard));
    let uploads = folders(&directory.join("upload"));
    let doomed = shards.chain(uploads).filter(staged).filter(old);
    doomed.filter(|file| std::fs::remove_file(file).is_ok()).count()
}
