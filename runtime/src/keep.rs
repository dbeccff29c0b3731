//! What an instance manager keeps on disk, so that being killed costs nothing: who it is, its instances, their ends.
//!
//! `im.id`, `epoch` (start of the newest process), `lock`, `records/<instance>.json`, `records/<instance>.seq` (lines that
//! were published), `ended.jsonl`. But for `epoch` written without fsync: after a loss of power the processes are gone as
//! well. Environments of jobs are in there, so all of it is its owner's alone. A record that cannot be read is set aside
//! once, as `records/<instance>.unreadable`.
//! Deliberately absent: packages.

use crate::life::Phase;
use crate::settings::StartError;
use crate::shim::{private_dir, read_json, write_json};
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

/// A start further in the future than this is no clock that was set back but a damaged file.
const EPOCH_AHEAD_MS: u64 = 366 * 86_400_000;
/// A write that failed is tried again after this time, with so many bytes: the record of an instance with all it may hold.
const RETRY_MS: u64 = 1_000;
const PROBE_BYTES: usize = 64 * 1024;
/// Records that cannot be read and are kept for whoever wants to know why; of more, the oldest go.
const UNREADABLE_MAX: usize = 16;
/// Ending of their names.
const UNREADABLE: &str = "unreadable";

/// Numbers of the last lines that were published, by stream.
pub type Published = [u64; 3];

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
    epoch: PathBuf,
    records: PathBuf,
    ended: PathBuf,
    /// Lines in `ended`, and its newest.
    ends: Mutex<(usize, VecDeque<Ended>)>,
    /// When a write that failed may be tried again; none = the last one went well.
    retry_ms: Mutex<Option<u64>>,
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
        private_dir(&records).map_err(failed(&records))?;
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
        let epoch = directory.join("epoch");
        let retry_ms = Mutex::new(None);
        Ok((Self { epoch, records, ended, ends, retry_ms, _lock: lock }, id))
    }

    /// When the process that starts now began, for everybody who puts its words in order: later than every process before
    /// it on this directory, also when the clock was set back meanwhile.
    #[must_use]
    pub fn begin_life(&self, now_ms: u64) -> u64 {
        let before = fs::read_to_string(&self.epoch).ok().and_then(|text| text.trim().parse().ok());
        let before = before.filter(|before: &u64| before.saturating_sub(now_ms) < EPOCH_AHEAD_MS);
        let epoch = before.map_or(now_ms, |before| now_ms.max(before + 1));
        if epoch > now_ms {
            tracing::warn!(
                behind_ms = epoch - now_ms,
                "the clock is behind that of the process before"
            );
        }
        if let Err(why) = write_json(&self.epoch, &epoch, true) {
            tracing::warn!(path = %self.epoch.display(), %why, "the start of this process was not kept");
        }
        epoch
    }

    /// All instances that were kept; what cannot be read is told and set aside.
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
                    self.set_aside(&path, &why);
                    None
                }
            })
            .collect()
    }

    /// Told once: the next start does not find it any more.
    fn set_aside(&self, path: &Path, why: &io::Error) {
        let aside = path.with_extension(UNREADABLE);
        if let Err(not_moved) = fs::rename(path, &aside) {
            tracing::error!(path = %path.display(), %why, %not_moved, "the record of an instance cannot be read");
            return;
        }
        fs::remove_file(path.with_extension("seq")).ok();
        tracing::error!(
            path = %aside.display(),
            %why,
            "the record of an instance cannot be read and is set aside; what is left of the instance is stopped, its job \
             gets another one; try: look at the file, then remove it"
        );
        let Ok(entries) = fs::read_dir(&self.records) else { return };
        let mut all: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|kind| kind == UNREADABLE))
            .map(|path| (fs::metadata(&path).and_then(|about| about.modified()).ok(), path))
            .collect();
        all.sort_unstable();
        let beyond = all.len().saturating_sub(UNREADABLE_MAX);
        for (_, path) in all.into_iter().take(beyond) {
            fs::remove_file(path).ok();
        }
    }

    /// Keeps one.
    pub fn put(&self, kept: &Kept) -> io::Result<()> {
        write_json(&self.path(kept.instance, "json"), kept, false)
    }

    /// Whether a further instance could be kept. After a write that failed, one is tried once in a while.
    pub fn has_room(&self, now_ms: u64) -> bool {
        let mut retry_ms = self.retry_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = *retry_ms else { return true };
        if now_ms < at {
            return false;
        }
        let probe = self.records.join("probe");
        let written = fs::write(&probe, [0; PROBE_BYTES]);
        fs::remove_file(&probe).ok();
        *retry_ms = written.is_err().then_some(now_ms + RETRY_MS);
        if written.is_ok() {
            tracing::info!(
                "the state directory can be written again: instances are offered a place"
            );
        }
        written.is_ok()
    }

    /// A write failed: nothing is offered until one goes well.
    pub fn note_full(&self, why: &io::Error, now_ms: u64) {
        let mut retry_ms = self.retry_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if retry_ms.replace(now_ms + RETRY_MS).is_none() {
            tracing::error!(
                directory = %self.records.display(),
                %why,
                "the state directory cannot be written: no further instance is offered a place; those that run go on"
            );
        }
    }

    /// Forgets one.
    pub fn remove(&self, instance: InstanceId) {
        for kind in ["json", "seq"] {
            fs::remove_file(self.path(instance, kind)).ok();
        }
    }

    /// Numbers of the last lines that were published, by stream.
    #[must_use]
    pub fn published(&self, instance: InstanceId) -> Published {
        let text = fs::read_to_string(self.path(instance, "seq")).unwrap_or_default();
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        std::array::from_fn(|_| numbers.next().unwrap_or(0))
    }

    /// Keeps them; one write of a fixed length, so that it is never half.
    pub fn put_published(
        &self,
        instance: InstanceId,
        [out, err, notes]: Published,
    ) -> io::Result<()> {
        let path = self.path(instance, "seq");
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.write_all(format!("{out:020} {err:020} {notes:020}\n").as_bytes())
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

    /// Goal: a write that fails leaves nothing half written beside its place.
    #[test]
    fn a_failed_write_leaves_nothing() {
        let directory = std::env::temp_dir().join(format!("runtime-failed-{}", Uuid::new_v4()));
        let place = directory.join("x.json");
        fs::create_dir_all(place.join("in the way")).unwrap();
        assert!(write_json(&place, &1, false).is_err());
        assert!(!directory.join("x.new").exists());
        fs::remove_dir_all(&directory).unwrap();
    }

    /// Goal: a process is later than all before it on its directory, whatever the clock says, and follows the clock when
    /// that is right.
    #[test]
    fn a_life_begins_after_every_other() {
        let directory = std::env::temp_dir().join(format!("runtime-epoch-{}", Uuid::new_v4()));
        let lives = [1_000, 5_000, 4_000, 4_000, 9_000].map(|now_ms| {
            let (keep, _) = Keep::open(&directory, ImId(Uuid::nil())).unwrap();
            keep.begin_life(now_ms)
        });
        assert_eq!(lives, [1_000, 5_000, 5_001, 5_002, 9_000]);
        for damaged in ["", "x", "18446744073709551615"] {
            fs::write(directory.join("epoch"), damaged).unwrap();
            let (keep, _) = Keep::open(&directory, ImId(Uuid::nil())).unwrap();
            assert_eq!(keep.begin_life(9_500), 9_500, "{damaged:?}");
        }
        fs::remove_dir_all(&directory).unwrap();
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
        keep.put_published(instance, [3, u64::MAX, 1]).unwrap();
        (0..2_000).for_each(|id| keep.put_ended(&end(id)).unwrap());
        drop(keep);
        let (keep, id) = Keep::open(&directory, ImId(Uuid::from_u128(8))).unwrap();
        assert_eq!((id, keep.instances()), (me, vec![kept]));
        assert_eq!(keep.published(instance), [3, u64::MAX, 1]);
        let ended: Vec<_> = keep.ended().iter().map(|end| end.id.0.as_u128()).collect();
        assert_eq!(ended, (2_000 - ENDED_MAX as u128..2_000).rev().collect::<Vec<_>>());
        let lines = fs::read_to_string(directory.join("ended.jsonl")).unwrap().lines().count();
        assert!(lines <= ENDED_LINES_MAX, "{lines}");
        keep.remove(instance);
        assert_eq!((keep.instances(), keep.published(instance)), (vec![], [0, 0, 0]));
        fs::remove_dir_all(&directory).unwrap();
    }

    /// Goal: a record that cannot be read is set aside once, under a name that tells, and these do not pile up; the
    /// others are found; nobody else may read them.
    #[test]
    fn what_cannot_be_read_is_set_aside() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("runtime-aside-{}", Uuid::new_v4()));
        let (keep, _) = Keep::open(&directory, ImId(Uuid::nil())).unwrap();
        let named = |kind: &str| {
            let entries = fs::read_dir(directory.join("records")).unwrap();
            let kinds = entries.map(|entry| entry.unwrap().path());
            kinds.filter(|path| path.extension().is_some_and(|is| is == kind)).count()
        };
        let instance = |n| InstanceId(Uuid::from_u128(n));
        keep.put_published(instance(1), [1, 1, 1]).unwrap();
        for n in 1..=UNREADABLE_MAX as u128 + 5 {
            fs::write(keep.path(instance(n), "json"), "{\"instance\":").unwrap();
        }
        assert_eq!(keep.instances(), vec![]);
        assert_eq!((named("json"), named("seq")), (0, 0));
        assert_eq!(named(UNREADABLE), UNREADABLE_MAX);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory.join("records")), 0o700);
        write_json(&keep.path(instance(1), "json"), &1, false).unwrap();
        assert_eq!(mode(&keep.path(instance(1), "json")), 0o600);
        fs::remove_dir_all(&directory).unwrap();
    }
}
