//! The small files by which a shim and an instance manager know of each other.
//!
//! Each is written whole and renamed, so that a reader sees all of it or none. Deliberately absent: logs (`log`).

use crate::proc::Stat;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a shim is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// All of the environment.
    pub environment: BTreeMap<String, String>,
    /// Where it begins.
    pub directory: PathBuf,
}

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The shim; also the session of the instance.
    pub shim_pid: i32,
    /// Its start, in ticks since boot.
    pub shim_start: u64,
    /// The process of the instance; also its process group.
    pub pid: i32,
    /// Its start.
    pub start: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

impl Started {
    /// This process as the shim of a child.
    #[must_use]
    pub fn new(child: u32) -> Self {
        let number = |pid: u32| i32::try_from(pid).unwrap_or(0);
        let start = |pid: i32| Stat::of(pid).map_or(0, |stat| stat.start);
        let (shim_pid, pid) = (number(std::process::id()), number(child));
        let (shim_start, start) = (start(shim_pid), start(pid));
        Self { shim_pid, shim_start, pid, start, at_ms: now_ms() }
    }
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Status, 128 + signal when a signal ended it.
    pub code: Option<i32>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// The machine's time; a shim has no other.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Makes a directory, and those above it that are missing, for its owner alone; one that is there stays as it is.
pub fn private_dir(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Reads one.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

/// Writes one that only its owner may read, because environments hold secrets; `durable` also over a loss of power.
pub fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let fresh = path.with_extension("new");
    let written = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&fresh, path)
    };
    // A full disk takes the name and not the bytes.
    written().inspect_err(|_| drop(fs::remove_file(&fresh)))?;
    if durable && let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
