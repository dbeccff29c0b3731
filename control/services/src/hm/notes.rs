//! The record `job-health/<job>`: whether a job flaps, and the platform's last words about it.
//!
//! Whoever wins the compare-and-set of a note publishes it on the job's log channel, so that it is said once however
//! many services noticed. Deliberately absent: lines of the instances; their instance managers have those.

use bus::Bus;
use serde::{Deserialize, Serialize};
use store::{Expect, Store, StoreError, Write};
use wire::JobId;
use wire::logs::{LogLine, LogStream};
use wire::subject;

/// Notes that are kept for a job, oldest out first.
pub const NOTES_MAX: usize = 50;
/// Bytes of one note.
pub const NOTE_BYTES_MAX: usize = 2 * 1024;
/// Compare-and-sets that one change may lose before it gives up until the next look.
const RACES_MAX: usize = 8;
/// Keys of these records.
pub const PREFIX: &str = "job-health/";

/// What the services agree about a job beside its record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobNotes {
    /// Since when it fails again and again; none = it does not.
    pub flapping_since_ms: Option<u64>,
    /// Oldest first, at most [`NOTES_MAX`].
    pub notes: Vec<Note>,
}

/// One of the platform's own words about a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// 1, 2, 3 …
    pub seq: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Without `[system-error] `.
    pub text: String,
}

impl JobNotes {
    /// Adds a note with the next number.
    pub fn push(&mut self, at_ms: u64, mut text: String) {
        let seq = self.notes.last().map_or(1, |note| note.seq + 1);
        while text.len() > NOTE_BYTES_MAX {
            text.pop();
        }
        self.notes.push(Note { seq, at_ms, text });
        let surplus = self.notes.len().saturating_sub(NOTES_MAX);
        self.notes.drain(..surplus);
    }
}

impl Note {
    /// As a line of the job's log.
    #[must_use]
    pub fn line(&self, job: JobId) -> LogLine {
        LogLine {
            job,
            instance: None,
            stream: LogStream::SystemError,
            seq: self.seq,
            at_ms: self.at_ms,
            text: self.text.clone(),
        }
    }
}

/// Key of a job's record.
#[must_use]
pub fn key(job: JobId) -> String {
    format!("{PREFIX}{job}")
}

/// The record of a job; empty when there is none, or it cannot be read.
pub async fn read(store: &Store, job: JobId) -> Result<JobNotes, StoreError> {
    let record = store.get(&key(job)).await?;
    Ok(record.map(|record| parse(&record.value)).unwrap_or_default())
}

/// Reads a record's value; one that cannot be read is written anew at the next change.
#[must_use]
pub fn parse(value: &[u8]) -> JobNotes {
    serde_json::from_slice(value).unwrap_or_else(|mistake| {
        tracing::warn!(%mistake, "a record of notes was not understood");
        JobNotes::default()
    })
}

/// Changes the record by compare-and-set, and publishes the notes that this added. `edit` says whether there is
/// anything to change; it is asked again when somebody else wrote first. The record and its revision after the change;
/// none = nothing was changed.
pub async fn change(
    store: &Store,
    bus: &Bus,
    job: JobId,
    mut edit: impl FnMut(&mut JobNotes) -> bool + Send,
) -> Result<Option<(JobNotes, u64)>, StoreError> {
    let key = key(job);
    for race in 1.. {
        let record = store.get(&key).await?;
        let (mut notes, expect) = match &record {
            Some(record) => (parse(&record.value), Expect::Version(record.version)),
            None => (JobNotes::default(), Expect::Absent),
        };
        let known = notes.notes.last().map_or(0, |note| note.seq);
        if !edit(&mut notes) {
            return Ok(None);
        }
        let value = serde_json::to_vec(&notes).expect("notes are plain JSON").into();
        match store.commit(&[Write::Put { key: key.clone(), value, expect }]).await {
            Ok(revision) => {
                for note in notes.notes.iter().filter(|note| note.seq > known) {
                    // The record has it: a reader who missed the message finds it there.
                    if let Err(mistake) =
                        bus.publish(&subject::log_note(job), &note.line(job)).await
                    {
                        tracing::warn!(%job, %mistake, "a note was kept but not published");
                    }
                }
                return Ok(Some((notes, revision)));
            }
            Err(StoreError::Conflict { .. }) if race < RACES_MAX => {}
            Err(mistake) => return Err(mistake),
        }
    }
    Ok(None)
}

/// Says something about a job, in its own log and its record.
pub async fn say(store: &Store, bus: &Bus, job: JobId, text: &str) -> Result<(), StoreError> {
    let at_ms = bus.clock().unix_ms();
    let said = change(store, bus, job, |notes| {
        notes.push(at_ms, text.to_owned());
        true
    });
    said.await.map(drop)
}
