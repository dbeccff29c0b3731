//! The way from a core to the writer: one producer, one consumer, no lock.
//!
//! Deliberately absent: waiting. A full ring drops the record, and the core counts it.

use std::thread::Thread;

use super::Record;

/// Records that may wait for the writer, for each core: 4 MiB, touched only as far as it is used.
pub const RING_RECORDS: usize = 8_192;

/// A core's end.
pub struct LogSender {
    ring: rtrb::Producer<Record>,
    writer: Thread,
    sample: u32,
    skipped: u32,
}

/// The writer's end.
pub struct LogReceiver(rtrb::Consumer<Record>);

/// A ring from a core to the thread `writer`. One in `sample` exchanges that went well is wanted (0 and 1: all);
/// what went wrong is always wanted.
pub fn ring(records: usize, sample: u32, writer: Thread) -> (LogSender, LogReceiver) {
    let (producer, consumer) = rtrb::RingBuffer::new(records);
    let sample = sample.max(1);
    // The first exchange is a sample, so that a log is never mysteriously empty.
    let sender = LogSender { ring: producer, writer, sample, skipped: sample - 1 };
    (sender, LogReceiver(consumer))
}

impl LogSender {
    /// Ask before filling a record: `went_wrong` is a reason code, a status from 500, or no status at all.
    #[inline]
    pub fn wants(&mut self, went_wrong: bool) -> bool {
        if went_wrong {
            return true;
        }
        self.skipped += 1;
        let wanted = self.skipped >= self.sample;
        if wanted {
            self.skipped = 0;
        }
        wanted
    }

    /// Hand over a record. `false`: the ring was full, the record is lost, count it.
    #[inline]
    #[must_use = "a dropped record must be counted"]
    pub fn push(&mut self, record: Record) -> bool {
        if self.ring.push(record).is_err() {
            return false;
        }
        // The writer looks by itself many times a second; only a burst has to wake it.
        if self.ring.slots() == self.ring.buffer().capacity() / 2 {
            self.writer.unpark();
        }
        true
    }
}

impl LogReceiver {
    /// The oldest record.
    pub fn pop(&mut self) -> Option<Record> {
        self.0.pop().ok()
    }

    /// The core is gone and nothing is left.
    pub fn is_finished(&self) -> bool {
        self.0.is_abandoned() && self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(sample: u32) -> (LogSender, LogReceiver) {
        ring(4, sample, std::thread::current())
    }

    #[test]
    fn a_full_ring_drops_the_newest_and_says_so() {
        let (mut sender, mut receiver) = small(1);
        for status in 1..=4 {
            assert!(sender.push(Record { status, ..Record::default() }));
        }
        assert!(!sender.push(Record::default()));
        assert_eq!(receiver.pop().map(|record| record.status), Some(1));
        assert!(sender.push(Record::default()));
    }

    #[test]
    fn sampling_keeps_every_failure_and_one_in_n_successes() {
        let (mut sender, _receiver) = small(10);
        let wanted = (0..100).filter(|_| sender.wants(false)).count();
        assert_eq!(wanted, 10);
        assert!(sender.wants(true));
        let (mut sender, _receiver) = small(0);
        assert!((0..5).all(|_| sender.wants(false)));
        let (mut sender, _receiver) = small(1_000);
        assert!(sender.wants(false), "the first exchange is a sample");
    }

    #[test]
    fn a_receiver_ends_only_when_the_core_is_gone_and_the_ring_is_empty() {
        let (mut sender, mut receiver) = small(1);
        assert!(sender.push(Record::default()));
        drop(sender);
        assert!(!receiver.is_finished());
        receiver.pop();
        assert!(receiver.is_finished());
    }
}
