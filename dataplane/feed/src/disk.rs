//! The last good table in a file, so that a router serves before, and without, the control plane.
//!
//! ```text
//!  {"format":1,"sha256":"…","bytes":n}\n   head
//!  {"head":…,"jobs":[…],"ims":[…]}         body, whose digest the head names
//! ```
//!
//! Written beside and renamed, so that the name always leads to a whole table; a file that is damaged or of another format
//! is left alone and told, never half believed. Deliberately absent: when to write (`saver`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wire::JobId;
use wire::announce::EndpointsAll;
use wire::routing::JobRoutes;

use crate::join::SharedRoutes;

/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 1;
/// Larger files are not read: no table of ours is.
pub const FILE_BYTES_MAX: u64 = 4 << 30;

/// What is read back.
#[derive(Debug, Default, Deserialize)]
pub struct Saved {
    /// Every write of a job up to here is in it.
    pub head: u64,
    /// When digests last agreed, milliseconds since 1970.
    pub verified_ms: Option<u64>,
    /// Jobs with routes.
    pub jobs: Vec<JobRoutes>,
    /// Jobs that a later write took away: what was written before it is not news.
    #[serde(default)]
    pub gone: Vec<(JobId, u64)>,
    /// Endpoints as they were served.
    pub ims: Vec<EndpointsAll>,
}

/// What is written.
#[derive(Debug)]
pub struct Saving {
    /// See [`Saved::head`].
    pub head: u64,
    /// See [`Saved::verified_ms`].
    pub verified_ms: Option<u64>,
    /// See [`Saved::jobs`].
    pub jobs: Vec<SharedRoutes>,
    /// See [`Saved::gone`].
    pub gone: Vec<(JobId, u64)>,
    /// See [`Saved::ims`].
    pub ims: Vec<EndpointsAll>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    sha256: String,
    bytes: u64,
}

/// Why a file was not taken, or not written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is larger than any table.
    #[error("{path}: {bytes} bytes are more than {FILE_BYTES_MAX}")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The head is missing, or of another format.
    #[error("{path} is not a table of format {FORMAT}")]
    Format {
        /// Which file.
        path: PathBuf,
    },
    /// The body is not what the head says.
    #[error("{path} is damaged: its digest is {found}, but its head says {said}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Of the body.
        found: String,
        /// In the head.
        said: String,
    },
    /// The body is whole, but not understood.
    #[error("{path} was not understood: {error}")]
    Body {
        /// Which file.
        path: PathBuf,
        /// The parser's words.
        error: serde_json::Error,
    },
}

/// The table in the file; none when there is no file. Blocks.
pub fn load(path: &Path) -> Result<Option<Saved>, DiskError> {
    let told = |error| DiskError::Io { path: path.to_owned(), error };
    let bytes = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    if bytes > FILE_BYTES_MAX {
        return Err(DiskError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = fs::read(path).map_err(told)?;
    let format = || DiskError::Format { path: path.to_owned() };
    let end = text.iter().position(|&byte| byte == b'\n').ok_or_else(format)?;
    let (head, body) = (&text[..end], &text[end + 1..]);
    let head: Head = serde_json::from_slice(head).map_err(|_| format())?;
    if head.format != FORMAT {
        return Err(format());
    }
    let found = hex::encode(Sha256::digest(body));
    if found != head.sha256 || body.len() as u64 != head.bytes {
        return Err(DiskError::Damaged { path: path.to_owned(), found, said: head.sha256 });
    }
    serde_json::from_slice(body)
        .map(Some)
        .map_err(|error| DiskError::Body { path: path.to_owned(), error })
}

/// Put the table into the file, whole or not at all. Blocks.
pub fn save(path: &Path, saving: &Saving) -> Result<(), DiskError> {
    #[derive(Serialize)]
    struct Body<'a> {
        head: u64,
        verified_ms: Option<u64>,
        jobs: Vec<&'a JobRoutes>,
        gone: &'a [(JobId, u64)],
        ims: &'a [EndpointsAll],
    }
    let body = Body {
        head: saving.head,
        verified_ms: saving.verified_ms,
        jobs: saving.jobs.iter().map(|routes| &**routes).collect(),
        gone: &saving.gone,
        ims: &saving.ims,
    };
    let body = serde_json::to_vec(&body)
        .map_err(|error| DiskError::Body { path: path.to_owned(), error })?;
    let sha256 = hex::encode(Sha256::digest(&body));
    let head = Head { format: FORMAT, sha256, bytes: body.len() as u64 };
    let mut head = serde_json::to_vec(&head)
        .map_err(|error| DiskError::Body { path: path.to_owned(), error })?;
    head.push(b'\n');
    let write = || -> io::Result<()> {
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&head)?;
        file.write_all(&body)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|error| DiskError::Io { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("feed-disk-{name}-{}", std::process::id()))
    }

    /// Goal: what is written is read back; what is damaged anywhere is not believed.
    #[test]
    fn a_damaged_file_is_never_believed() {
        let path = file("damaged");
        let job: JobRoutes = serde_json::from_str(
            r#"{"job":"00000000-0000-0000-0000-000000000001","fqn":"job::/a::b","revision":7,"client_acl":"","routes":[]}"#,
        )
        .unwrap();
        let saving = Saving {
            head: 9,
            verified_ms: Some(1),
            jobs: vec![job.clone().into()],
            gone: vec![(job.job, 10)],
            ims: vec![],
        };
        assert!(load(&path).unwrap().is_none());
        save(&path, &saving).unwrap();
        let saved = load(&path).unwrap().unwrap();
        assert_eq!((saved.head, saved.verified_ms, &saved.jobs[..]), (9, Some(1), &[job][..]));
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(load(&path).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&path).is_err(), "cut at {at}");
        }
        fs::remove_file(&path).unwrap();
    }
}
