//! What an instance manager keeps on disk, so that being killed costs nothing: who it is, its instances, their ends.
//!
//! `im.id`, `lock`, `records/<instance>.json`, `records/<instance>.seq` (lines that were published), `ended.jsonl`.
//! Written without fsync: after a loss of power the processes are gone as well. Deliberately absent: packages.

use crate::life::Phase;
use crate::settings::StartError;
use crate::shim::{read_json, write_json};
use crate::spec::Spec;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use wire::health::{ENDED_MAX, Ended, Legs};
use wire::job::Job;
use wire::placement::StartPackage;
use wire::{ImId, InstanceId};

/// Lines of `ended.jsonl` after which it is written anew.
const ENDED_LINES_MAX: usize = 4 * ENDED_MAX;

/// One instance as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Which.
    pub instance: InstanceId,
    /// The record that it runs.
    pub job: Job,
    /// What is laid out.
    pub packages: Vec<StartPackage>,
    /// When it was asked for.
    pub created_ms: u64,
    /// Ports of the record with what they became.
    pub ports: Vec<(u16, u16)>,
    /// Where its life stood.
    pub phase: Phase,
    /// Why it was asked to end.
    pub asked: Option<String>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Since when it serves.
    pub running_since_ms: Option<u64>,
    /// How long its start took.
    pub legs: Legs,
    /// What was begun.
    pub spec: Option<Spec>,
}

/// The state directory.
#[derive(Debug)]
pub struct Keep {
    records: PathBuf,
    ended: PathBuf,
    /// Lines in `ended`, and its newest.
    ends: Mutex<(usize, VecDeque<Ended>)>,
    _lock: File,
}

impl Keep {
    /// Opens or makes the directory; tells who the instance manager is.
    pub fn open(directory: &Path, fresh: ImId) -> Result<(Self, ImId), StartError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |why: io::Error| StartError::State { path, why }
        };
        let records = directory.join("records");
        fs::create_dir_all(&records).map_err(failed(&records))?;
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(failed(&path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StartError::InUse(directory.display().to_string()));
        }
        let path = directory.join("im.id");
        let known = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let id = known.unwrap_or(fresh);
        if known.is_none() {
            fs::write(&path, format!("{id}\n")).map_err(failed(&path))?;
        }
        let ended = directory.join("ended.jsonl");
        let text = fs::read_to_string(&ended).unwrap_or_default();
        // A line that was cut short by a full disk is no line.
        let ends: Vec<Ended> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let newest = ends.iter().rev().take(ENDED_MAX).cloned().collect();
        let ends = Mutex::new((text.lines().count(), newest));
        Ok((Self { records, ended, ends, _lock: lock }, id))
    }

    /// All instances that were kept; what cannot be read is told and left.
    #[must_use]
    pub fn instances(&self) -> Vec<Kept> {
        let Ok(entries) = fs::read_dir(&self.records) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
        // The file system's order is nobody's: the same records are found in the same order.
        paths.sort_unstable();
        paths
            .into_iter()
            .filter_map(|path| match read_json(&path) {
                Ok(kept) => Some(kept),
                Err(why) => {
                    tracing::error!(path = %path.display(), %why, "a record cannot be read");
                    None
                }
            })
            .collect()
    }

    /// Keeps one.
    pub fn put(&self, kept: &Kept) -> io::Result<()> {
        write_json(&self.path(kept.instance, "json"), kept, false)
    }

    /// Forgets one.
    pub fn remove(&self, instance: InstanceId) {
        for kind in ["json", "seq"] {
            fs::remove_file(self.path(instance, kind)).ok();
        }
    }

    /// Numbers of the last lines that were published, by stream.
    #[must_use]
    pub fn published(&self, instance: InstanceId) -> [u64; 2] {
        let text = fs::read_to_string(self.path(instance, "seq")).unwrap_or_default();
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
    }

    /// Keeps them; one write of a fixed length, so that it is never half.
    pub fn put_published(&self, instance: InstanceId, [out, err]: [u64; 2]) -> io::Result<()> {
        let path = self.path(instance, "seq");
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.write_all(format!("{out:020} {err:020}\n").as_bytes())
    }

    /// Ends, newest first.
    #[must_use]
    pub fn ended(&self) -> VecDeque<Ended> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Keeps an end.
    pub fn put_ended(&self, end: &Ended) -> io::Result<()> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, newest) = &mut *ends;
        newest.push_front(end.clone());
        newest.truncate(ENDED_MAX);
        if *lines >= ENDED_LINES_MAX {
            let text: String = newest.iter().rev().map(line_of).collect();
            let fresh = self.ended.with_extension("new");
            fs::write(&fresh, text)?;
            *lines = newest.len();
            return fs::rename(&fresh, &self.ended);
        }
        *lines += 1;
        let mut file = OpenOptions::new().create(true).append(true).open(&self.ended)?;
        file.write_all(line_of(end).as_bytes())
    }

    fn path(&self, instance: InstanceId, kind: &str) -> PathBuf {
        self.records.join(format!("{instance}.{kind}"))
    }
}

fn line_of(end: &Ended) -> String {
    serde_json::to_string(end).map(|line| line + "\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use wire::JobId;

    fn end(id: u128) -> Ended {
        Ended {
            id: InstanceId(Uuid::from_u128(id)),
            job: JobId(Uuid::nil()),
            job_version: 1,
            at_ms: 2,
            ran_ms: 3,
            failed: true,
            asked: false,
            exit_code: Some(9),
            reason: "x\ny".to_owned(),
        }
    }

    /// Goal: who it is, what runs and what ended survive; two cannot have one directory; the file of ends stays small.
    #[test]
    fn what_is_kept_comes_back() {
        let directory = std::env::temp_dir().join(format!("runtime-keep-{}", Uuid::new_v4()));
        let me = ImId(Uuid::from_u128(7));
        let (keep, id) = Keep::open(&directory, me).unwrap();
        assert_eq!(id, me);
        assert!(matches!(Keep::open(&directory, me), Err(StartError::InUse(_))));
        let instance = InstanceId(Uuid::from_u128(1));
        let kept = Kept {
            instance,
            job: Job::named("job::/a::b".parse().unwrap()),
            packages: Vec::new(),
            created_ms: 1,
            ports: vec![(0, 20_000)],
            phase: Phase::Draining { spawned: true },
            asked: Some("x".into()),
            failure: None,
            running_since_ms: Some(4),
            legs: Legs::default(),
            spec: None,
        };
        keep.put(&kept).unwrap();
        keep.put_published(instance, [3, u64::MAX]).unwrap();
        (0..2_000).for_each(|id| keep.put_ended(&end(id)).unwrap());
        drop(keep);
        let (keep, id) = Keep::open(&directory, ImId(Uuid::from_u128(8))).unwrap();
        assert_eq!((id, keep.instances()), (me, vec![kept]));
        assert_eq!(keep.published(instance), [3, u64::MAX]);
        let ended: Vec<_> = keep.ended().iter().map(|end| end.id.0.as_u128()).collect();
        assert_eq!(ended, (2_000 - ENDED_MAX as u128..2_000).rev().collect::<Vec<_>>());
        let lines = fs::read_to_string(directory.join("ended.jsonl")).unwrap().lines().count();
        assert!(lines <= ENDED_LINES_MAX, "{lines}");
        keep.remove(instance);
        assert_eq!((keep.instances(), keep.published(instance)), (vec![], [0, 0]));
        fs::remove_dir_all(&directory).unwrap();
    }
}
