//! The newest lines of one job, in memory.
//!
//! Pure. Deliberately absent: files; the lines of living instances are on disk with the process that writes them.

use std::collections::VecDeque;
use wire::logs::{LogLine, PAGE_BYTES_MAX, RING_LINES_MAX};

/// Bytes of text in one ring: long lines push out more of their elders.
pub const RING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a line costs beside its text.
const LINE_OVERHEAD_BYTES: usize = 220;

/// The newest lines, oldest first.
#[derive(Debug, Default)]
pub struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Ring {
    /// One more; the oldest go when there are too many.
    pub fn push(&mut self, line: LogLine) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > RING_LINES_MAX || self.bytes > RING_BYTES_MAX {
            let Some(old) = self.lines.pop_front() else { break };
            self.bytes -= old.text.len();
        }
    }

    /// The newest `count`, oldest first, as many as one page of the bus holds.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<LogLine> {
        let mut room = PAGE_BYTES_MAX;
        let mut page: Vec<_> = self
            .lines
            .iter()
            .rev()
            .take(count)
            .take_while(|line| {
                let cost = escaped_bytes(&line.text) + LINE_OVERHEAD_BYTES;
                let fits = cost <= room;
                room = room.saturating_sub(cost);
                fits
            })
            .cloned()
            .collect();
        page.reverse();
        page
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// When the newest line was written.
    #[must_use]
    pub fn newest_at_ms(&self) -> u64 {
        self.lines.back().map_or(0, |line| line.at_ms)
    }
}

/// Bytes of a text in JSON, at most.
fn escaped_bytes(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            0..=0x1f => 6,
            b'"' | b'\\' => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;
    use wire::JobId;
    use wire::logs::LogStream;

    fn line(seq: u64, text: String) -> LogLine {
        let (job, stream) = (JobId(Uuid::nil()), LogStream::Stdout);
        LogLine { job, instance: None, stream, seq, at_ms: seq, text }
    }

    /// Goal: 1,500 lines stay, the newest.
    #[test]
    fn the_newest_stay() {
        let mut ring = Ring::default();
        (1..=2_000).for_each(|seq| ring.push(line(seq, "x".into())));
        let seqs: Vec<_> = ring.newest(5_000).iter().map(|line| line.seq).collect();
        assert_eq!(seqs, (501..=2_000).collect::<Vec<_>>());
        assert_eq!(ring.newest(2).iter().map(|line| line.seq).collect::<Vec<_>>(), [1_999, 2_000]);
        assert!(ring.newest(0).is_empty());
    }

    proptest! {
        /// Goal: whatever is written, a page fits one message, and lines stay in order.
        #[test]
        fn pages_fit(texts in proptest::collection::vec(("[\u{1}\"a]{0,8}", 0_usize..1_000), 0..80), count in 0_usize..100) {
            let mut ring = Ring::default();
            for (seq, (unit, times)) in texts.iter().enumerate() {
                ring.push(line(seq as u64, unit.repeat(*times)));
            }
            let page = ring.newest(count);
            let bytes = serde_json::to_vec(&page).unwrap().len();
            prop_assert!(bytes <= PAGE_BYTES_MAX + 2, "{bytes}");
            prop_assert!(page.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
            prop_assert!(ring.bytes <= RING_BYTES_MAX);
        }
    }
}
