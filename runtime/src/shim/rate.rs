//! How much an instance may log: a bucket of lines and a bucket of bytes, over both of its outputs together.
//!
//! What does not fit is dropped and counted, and the instance's log tells how much it was, at most once a second. The
//! instance is never made to wait for it: an application that stands still because its platform does not take its words
//! is an outage. Pure: time comes in. Deliberately absent: a limit for each job; nobody has asked for one.

/// What may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lines a second.
    pub lines_per_s: u64,
    /// Bytes a second, with ends of lines.
    pub bytes_per_s: u64,
    /// Seconds' worth that may come at once after silence.
    pub burst_s: u64,
}

/// For every instance. A start that tells everything fits the burst, which is as much as the files of an instance hold.
pub const LIMITS: Limits = Limits { lines_per_s: 10_000, bytes_per_s: 1 << 20, burst_s: 4 };
/// Of the burst, this part is for standard error alone: while the other output floods, a trace still gets through.
const RESERVED: u64 = 10;
/// Between two words about what was dropped.
const NOTICE_MS: u64 = 1_000;

/// Where one instance stands.
#[derive(Debug)]
pub struct Rate {
    limits: Limits,
    /// Thousandths of a line, so that a millisecond brings something.
    lines: u64,
    /// Thousandths of a byte.
    bytes: u64,
    at_ms: u64,
    dropped: u64,
    told_ms: Option<u64>,
}

impl Rate {
    /// A full bucket.
    #[must_use]
    pub const fn new(limits: Limits, now_ms: u64) -> Self {
        let full = limits.burst_s * 1_000;
        let (lines, bytes) = (limits.lines_per_s * full, limits.bytes_per_s * full);
        Self { limits, lines, bytes, at_ms: now_ms, dropped: 0, told_ms: None }
    }

    /// Time has passed.
    pub fn refill(&mut self, now_ms: u64) {
        let Limits { lines_per_s, bytes_per_s, burst_s } = self.limits;
        let passed_ms = now_ms.saturating_sub(self.at_ms).min(burst_s * 1_000);
        self.at_ms = self.at_ms.max(now_ms);
        let full = burst_s * 1_000;
        self.lines = (self.lines + passed_ms * lines_per_s).min(lines_per_s * full);
        self.bytes = (self.bytes + passed_ms * bytes_per_s).min(bytes_per_s * full);
    }

    /// Whether a line of so many bytes is kept; then it is paid for. `error` = it may have what is reserved.
    pub fn admit(&mut self, bytes: usize, error: bool) -> bool {
        let cost = (bytes as u64).saturating_mul(1_000);
        let Limits { lines_per_s, bytes_per_s, burst_s } = self.limits;
        let reserved = |per_s: u64| if error { 0 } else { per_s * burst_s * 1_000 / RESERVED };
        if self.lines < reserved(lines_per_s).saturating_add(1_000)
            || self.bytes < reserved(bytes_per_s).saturating_add(cost)
        {
            return false;
        }
        self.lines -= 1_000;
        self.bytes -= cost;
        true
    }

    /// So many were not kept.
    pub const fn drop_lines(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_add(lines);
    }

    /// Lines that were dropped and not yet told.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether something is to be told, now or later.
    #[must_use]
    pub const fn owes_notice(&self) -> bool {
        self.dropped > 0
    }

    /// The line that tells what was dropped since the last one, when it is time, or when it is the `last` chance.
    pub fn notice(&mut self, now_ms: u64, last: bool) -> Option<String> {
        let time = self.told_ms.is_none_or(|told| now_ms.saturating_sub(told) >= NOTICE_MS);
        if self.dropped == 0 || !(time || last) {
            return None;
        }
        self.told_ms = Some(now_ms);
        let Limits { lines_per_s, bytes_per_s, .. } = self.limits;
        let dropped = std::mem::take(&mut self.dropped);
        let lines = if dropped == 1 { "line" } else { "lines" };
        Some(format!(
            "app instance exceeded log rate limit ({lines_per_s} lines/sec, {bytes_per_s} bytes/sec), {dropped} {lines} dropped"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Limits = Limits { lines_per_s: 10, bytes_per_s: 100, burst_s: 2 };

    fn admitted(rate: &mut Rate, lines: usize, bytes: usize) -> usize {
        (0..lines).filter(|_| rate.admit(bytes, true)).count()
    }

    /// Goal: the burst passes, then the rate does; whichever of lines and bytes is spent first binds; time that runs
    /// backwards gives nothing.
    #[test]
    fn the_burst_then_the_rate() {
        let mut rate = Rate::new(SMALL, 5_000);
        assert_eq!(admitted(&mut rate, 100, 1), 20);
        rate.refill(5_099);
        assert_eq!(admitted(&mut rate, 100, 1), 0);
        rate.refill(5_100);
        rate.refill(4_000);
        assert_eq!(admitted(&mut rate, 100, 1), 1);
        rate.refill(100_000);
        assert_eq!(admitted(&mut rate, 100, 50), 4, "the bytes bind");
        rate.refill(100_500);
        assert_eq!(admitted(&mut rate, 100, 51), 0);
        assert_eq!(admitted(&mut rate, 100, 50), 1);
    }

    /// Goal: a flood leaves something for errors, and errors may have all.
    #[test]
    fn errors_have_a_reserve() {
        let mut rate = Rate::new(SMALL, 0);
        let flood = |rate: &mut Rate| (0..100).filter(|_| rate.admit(1, false)).count();
        assert_eq!((flood(&mut rate), admitted(&mut rate, 100, 1)), (18, 2));
        rate.refill(100);
        assert_eq!((flood(&mut rate), admitted(&mut rate, 100, 1)), (0, 1));
        rate.refill(10_000);
        assert_eq!((admitted(&mut rate, 100, 1), flood(&mut rate)), (20, 0));
    }

    /// Goal: what was dropped is told at once, then once a second, then at the end; each line once.
    #[test]
    fn drops_are_told_once_a_second() {
        let mut rate = Rate::new(SMALL, 0);
        assert_eq!(rate.notice(0, true), None);
        rate.drop_lines(1);
        let text =
            "app instance exceeded log rate limit (10 lines/sec, 100 bytes/sec), 1 line dropped";
        assert_eq!(rate.notice(10, false).as_deref(), Some(text));
        rate.drop_lines(7);
        assert!(rate.owes_notice());
        assert_eq!(rate.notice(1_009, false), None);
        rate.drop_lines(5);
        assert!(rate.notice(1_010, false).unwrap().ends_with(", 12 lines dropped"));
        rate.drop_lines(2);
        assert!(rate.notice(1_011, true).unwrap().ends_with(", 2 lines dropped"));
        assert!(!rate.owes_notice());
    }

    proptest! {
        /// Goal: over any time no more is kept than burst and rate allow, and nothing is refused that they allow surely.
        #[test]
        fn no_more_than_allowed(steps in proptest::collection::vec((0_u64..500, 0_usize..40, 1_usize..60), 1..60)) {
            let mut rate = Rate::new(SMALL, 0);
            let (mut now_ms, mut lines, mut bytes) = (0, 0, 0);
            for (pause_ms, count, size) in steps {
                now_ms += pause_ms;
                rate.refill(now_ms);
                let kept = admitted(&mut rate, count, size);
                lines += kept as u64;
                bytes += (kept * size) as u64;
                prop_assert!(lines <= 20 + now_ms / 100);
                prop_assert!(bytes <= 200 + now_ms / 10);
            }
            rate.refill(now_ms + 2_000);
            prop_assert_eq!(admitted(&mut rate, 30, 10), 20);
        }
    }
}
