//! One deadline for each connection slot, found by a linear scan.
//!
//! A scan of 100,000 slots reads 400 KB in order, about 15 µs every [`SCAN_EVERY_MS`]: cheaper than any wheel that
//! must be touched per request. Setting a deadline is one store. A deadline is late by at most one scan period.
//! Deliberately absent: what a deadline means; the connection's state tells when it passes.

use engine::Now;

/// Time between two scans, in milliseconds: the most that a deadline can be late.
pub(crate) const SCAN_EVERY_MS: u32 = 50;

const NONE: u32 = u32::MAX;

/// See the module head. Times are milliseconds of the engine's clock, good for 49 days of one connection's wait:
/// the clock wraps, and comparisons are relative.
#[derive(Default)]
pub(crate) struct Deadlines {
    at_ms: Vec<u32>,
    set: usize,
    scanned_ms: u32,
}

impl Deadlines {
    /// Let the slot's deadline pass in `after_ms` from `now`, in place of any other. Zero means none.
    pub(crate) fn set(&mut self, slot: u32, now: Now, after_ms: u32) {
        if after_ms == 0 {
            return self.clear(slot);
        }
        let slot = slot as usize;
        if slot >= self.at_ms.len() {
            self.at_ms.resize(slot + 1, NONE);
        }
        let mut at = ms(now).wrapping_add(after_ms.min(u32::MAX / 4));
        if at == NONE {
            at = 0;
        }
        self.set += usize::from(self.at_ms[slot] == NONE);
        self.at_ms[slot] = at;
    }

    /// No deadline for this slot.
    pub(crate) fn clear(&mut self, slot: u32) {
        if let Some(at) = self.at_ms.get_mut(slot as usize) {
            self.set -= usize::from(*at != NONE);
            *at = NONE;
        }
    }

    /// Milliseconds until the next scan is due; `None` when nothing waits.
    pub(crate) fn next_scan_ms(&self, now: Now) -> Option<u32> {
        let since = ms(now).wrapping_sub(self.scanned_ms);
        (self.set > 0).then(|| SCAN_EVERY_MS.saturating_sub(since))
    }

    /// Collect the slots whose deadline has passed, and clear these. Does nothing before a scan is due.
    pub(crate) fn scan(&mut self, now: Now, passed: &mut Vec<u32>) {
        let now_ms = ms(now);
        if self.set == 0 || now_ms.wrapping_sub(self.scanned_ms) < SCAN_EVERY_MS {
            return;
        }
        self.scanned_ms = now_ms;
        for (slot, at) in (0_u32..).zip(&mut self.at_ms) {
            if *at != NONE && now_ms.wrapping_sub(*at) < u32::MAX / 2 {
                *at = NONE;
                self.set -= 1;
                passed.push(slot);
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "wraps on purpose; see the type")]
const fn ms(now: Now) -> u32 {
    (now.0 / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Now {
        Now(ms * 1_000_000)
    }

    #[test]
    fn passes_once_and_not_before_its_time() {
        let mut deadlines = Deadlines::default();
        let mut passed = Vec::new();
        deadlines.set(3, at(0), 100);
        deadlines.set(5, at(0), 1_000);
        deadlines.scan(at(99), &mut passed);
        assert!(passed.is_empty());
        deadlines.scan(at(150), &mut passed);
        assert_eq!(passed, [3]);
        deadlines.scan(at(250), &mut passed);
        assert_eq!(passed, [3]);
        assert_eq!(deadlines.next_scan_ms(at(250)), Some(SCAN_EVERY_MS));
        deadlines.clear(5);
        assert_eq!(deadlines.next_scan_ms(at(250)), None);
    }

    #[test]
    fn the_clock_may_wrap() {
        let mut deadlines = Deadlines::default();
        let mut passed = Vec::new();
        let late = u64::from(u32::MAX) - 20;
        deadlines.scan(at(late), &mut passed);
        deadlines.set(0, at(late), 100);
        deadlines.scan(at(late + 60), &mut passed);
        assert!(passed.is_empty());
        deadlines.scan(at(late + 120), &mut passed);
        assert_eq!(passed, [0]);
    }
}
