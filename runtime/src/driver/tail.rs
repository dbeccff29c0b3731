//! Reads the log segments that a shim writes, from a place on.
//!
//! A segment is finished when the next one is there; what was written to it meanwhile is read first. Deliberately
//! absent: waiting for more (`process`).

use super::{Batch, Position};
use crate::record::{Parsed, Record};
use crate::shim::{segment_name, segments};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that one call reads at most.
const BATCH_BYTES_MAX: u64 = 512 * 1024;

/// Lines from `from` on.
pub(super) fn read(directory: &Path, from: Position) -> Batch {
    let all = segments(directory);
    let Some(&segment) = all.iter().find(|number| **number >= from.segment) else {
        return Batch { position: from, ..Batch::default() };
    };
    // The one that we stood in is gone: the lines in between are lost, and their numbers show it.
    let offset = if segment == from.segment { from.offset } else { 0 };
    // Looked at before reading: when a successor is there now, what we read is all there will ever be.
    let successor = all.iter().copied().find(|number| *number > segment);
    let Some(bytes) = chunk(&directory.join(segment_name(segment)), offset) else {
        return Batch { position: from, more: successor.is_some(), ..Batch::default() };
    };
    let (records, used, broken) = parse(&bytes);
    let full = bytes.len() as u64 == BATCH_BYTES_MAX;
    let stuck = records.is_empty() && !full || broken;
    match successor {
        Some(next) if stuck || used == 0 => {
            Batch { records, position: Position { segment: next, offset: 0 }, more: true }
        }
        _ => {
            let position = Position { segment, offset: offset + used };
            Batch { more: full || successor.is_some(), records, position }
        }
    }
}

fn chunk(path: &Path, offset: u64) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut bytes = Vec::new();
    file.take(BATCH_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whole records, the bytes that they took, and whether something else follows them.
fn parse(bytes: &[u8]) -> (Vec<Record>, u64, bool) {
    let (mut records, mut used) = (Vec::new(), 0);
    loop {
        match Record::parse(&bytes[used..]) {
            Parsed::Record(record, length) => {
                records.push(record);
                used += length;
            }
            Parsed::Short => return (records, used as u64, false),
            Parsed::Broken => return (records, used as u64, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wire::logs::LogStream;

    fn record(seq: u64, bytes: usize) -> Vec<u8> {
        let text = vec![b'x'; bytes];
        let mut out = Vec::new();
        Record { stream: LogStream::Stdout, seq, at_ms: 1, text }.encode(&mut out);
        out
    }

    fn everything(directory: &Path, mut position: Position) -> (Vec<u64>, Position) {
        let mut seqs = Vec::new();
        for _ in 0..100 {
            let batch = read(directory, position);
            position = batch.position;
            seqs.extend(batch.records.iter().map(|record| record.seq));
            if !batch.more {
                return (seqs, position);
            }
        }
        panic!("never at the end");
    }

    /// Goal: half records wait, segments follow each other, a segment that was lost or broken is stepped over.
    #[test]
    fn segments_follow_each_other() {
        let name = format!("runtime-tail-{}", uuid::Uuid::new_v4());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let write = |number: u64, bytes: &[u8]| {
            fs::write(directory.join(segment_name(number)), bytes).unwrap()
        };
        let begin = Position::default();
        assert_eq!(everything(&directory, begin), (vec![], begin));

        let (one, two) = (record(1, 5), record(2, 3));
        write(1, &[one.as_slice(), &two[..7]].concat());
        let (seqs, place) = everything(&directory, begin);
        assert_eq!((seqs, place.offset), (vec![1], one.len() as u64));
        write(1, &[one.as_slice(), &two].concat());
        write(2, &record(3, 0));
        assert_eq!(everything(&directory, place).0, [2, 3]);

        write(2, &[record(3, 0), vec![0; 30]].concat());
        write(3, &record(9, 1));
        fs::remove_file(directory.join(segment_name(1))).unwrap();
        let (seqs, place) = everything(&directory, place);
        assert_eq!((seqs, place.segment), (vec![3, 9], 3));

        let many: Vec<u8> = (10..400).flat_map(|seq| record(seq, 8_000)).collect();
        write(4, &many);
        let (seqs, end) = everything(&directory, place);
        assert_eq!(seqs, (10..400).collect::<Vec<_>>());
        assert_eq!(everything(&directory, end), (vec![], end));
        fs::remove_dir_all(&directory).unwrap();
    }
}
