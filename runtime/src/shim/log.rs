//! Log files of one instance: numbered segments, of which the newest two are kept.
//!
//! Deliberately absent: reading them (`driver::tail`).

use crate::record::Record;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes after which a segment is followed by the next.
pub const SEGMENT_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Bytes that are written at once at most.
const BATCH_BYTES_MAX: usize = 256 * 1024;
const PREFIX: &str = "log.";

/// Name of a segment.
#[must_use]
pub fn segment_name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

/// Numbers of the segments that are there, in order.
#[must_use]
pub fn segments(directory: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut numbers: Vec<u64> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The writer. A disk that takes nothing costs lines, never the instance: its pipes are read on.
#[derive(Debug)]
pub(super) struct LogFiles {
    directory: PathBuf,
    number: u64,
    file: Option<File>,
    length: u64,
    batch: Vec<u8>,
}

impl LogFiles {
    pub(super) fn new(directory: &Path) -> Self {
        let mut files = Self {
            directory: directory.to_owned(),
            number: 0,
            file: None,
            length: 0,
            batch: Vec::new(),
        };
        files.next_segment();
        files
    }

    /// Takes a line in; on disk at the next [`LogFiles::flush`].
    pub(super) fn push(&mut self, record: &Record) {
        record.encode(&mut self.batch);
        if self.batch.len() >= BATCH_BYTES_MAX {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.file.is_none() || self.length >= SEGMENT_BYTES_MAX {
            self.next_segment();
        }
        if let Some(file) = &mut self.file {
            if file.write_all(&self.batch).is_ok() {
                self.length += self.batch.len() as u64;
            } else if file.set_len(self.length).is_err() {
                // Half a record may lie at its end: readers skip to the next segment.
                self.file = None;
            }
        }
        self.batch.clear();
    }

    fn next_segment(&mut self) {
        let next = self.number + 1;
        let path = self.directory.join(segment_name(next));
        self.file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok();
        if self.file.is_none() {
            return;
        }
        self.length = 0;
        if self.number > 1 {
            drop(fs::remove_file(self.directory.join(segment_name(self.number - 1))));
        }
        self.number = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::logs::LogStream;

    /// Goal: however much is written, two segments stay and the newest line is in them.
    #[test]
    fn two_segments_stay() {
        let name = format!("runtime-log-{}", uuid::Uuid::new_v4());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let mut files = LogFiles::new(&directory);
        for seq in 0..2_000 {
            let text = vec![b'x'; 8_000];
            files.push(&Record { stream: LogStream::Stdout, seq, at_ms: 0, text });
        }
        files.flush();
        let kept = segments(&directory);
        assert_eq!(kept.len(), 2, "{kept:?}");
        let bytes: u64 = kept
            .iter()
            .map(|n| fs::metadata(directory.join(segment_name(*n))).unwrap().len())
            .sum();
        assert!(bytes <= 2 * (SEGMENT_BYTES_MAX + 2 * BATCH_BYTES_MAX as u64), "{bytes}");
        let last = fs::read(directory.join(segment_name(kept[1]))).unwrap();
        let tail = &last[last.len() - 8_020..];
        assert!(
            matches!(Record::parse(tail), crate::record::Parsed::Record(r, _) if r.seq == 1_999)
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
