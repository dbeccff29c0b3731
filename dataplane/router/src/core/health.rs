//! Passive health of one instance, and the choice among the instances of a job. Pure.
//!
//! An instance that fails [`FAILURES_TO_EJECT`] times in a row is ejected for a while that doubles with each further
//! ejection; the first success brings it back in full. When all are ejected, all are candidates again: a wrong guess
//! of ours must never take a job down. Deliberately absent: active checks, which are the instance manager's.

use engine::Now;

/// Failures in a row before an ejection.
pub(crate) const FAILURES_TO_EJECT: u8 = 3;

/// The first ejection, in milliseconds; each further one is twice as long.
pub(crate) const EJECT_FIRST_MS: u64 = 1_000;

/// The longest ejection, in milliseconds.
pub(crate) const EJECT_MAX_MS: u64 = 60_000;

/// What is known of an instance from the traffic to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    failures: u8,
    ejections: u8,
    ejected_until: Now,
}

impl Health {
    /// A response head came, or a TCP connection was made. True when this ends an ejection.
    pub(crate) const fn succeeded(&mut self) -> bool {
        let was_ejected = self.ejections > 0;
        self.failures = 0;
        self.ejections = 0;
        self.ejected_until = Now(0);
        was_ejected
    }

    /// A connect failed, or a connection broke before a response. True when this ejects the instance.
    pub(crate) fn failed(&mut self, now: Now) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES_TO_EJECT || self.is_ejected(now) {
            return false;
        }
        let length = (EJECT_FIRST_MS << self.ejections.min(16)).min(EJECT_MAX_MS);
        self.ejected_until = Now(now.0 + length * 1_000_000);
        self.ejections = self.ejections.saturating_add(1);
        true
    }

    /// Whether it is left out of the choice at this time.
    pub(crate) fn is_ejected(&self, now: Now) -> bool {
        now < self.ejected_until
    }
}

/// One candidate as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Requests in flight from this core.
    pub in_flight: u32,
    /// Left out for a while.
    pub ejected: bool,
    /// This exchange failed to connect to it.
    pub tried: bool,
}

/// Fewest in flight of two picked at random, among those not tried; those not ejected first.
/// `roll(n)` gives a number below `n`. `None` when all were tried.
pub(crate) fn choose(
    count: usize,
    candidate: impl Fn(usize) -> Candidate,
    mut roll: impl FnMut(usize) -> usize,
) -> Option<usize> {
    match count {
        0 => return None,
        1 => return (!candidate(0).tried).then_some(0),
        _ => {}
    }
    // The common case: two picks, both usable.
    let first = roll(count);
    let second = (first + 1 + roll(count - 1)) % count;
    let (a, b) = (candidate(first), candidate(second));
    let usable = |one: &Candidate| !one.tried && !one.ejected;
    match (usable(&a), usable(&b)) {
        (true, true) => return Some(if b.in_flight < a.in_flight { second } else { first }),
        (true, false) => return Some(first),
        (false, true) => return Some(second),
        (false, false) => {}
    }
    // The rare case: look at all, from a random start so that equals share.
    let all = (0..count).map(|step| (first + step) % count);
    all.filter(|&at| !candidate(at).tried)
        .min_by_key(|&at| (candidate(at).ejected, candidate(at).in_flight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_failures_eject_and_the_time_doubles() {
        let mut health = Health::default();
        let at = |ms: u64| Now(ms * 1_000_000);
        assert!(!health.failed(at(0)));
        assert!(!health.failed(at(0)));
        assert!(health.failed(at(0)));
        assert!(health.is_ejected(at(999)));
        assert!(!health.is_ejected(at(1_000)));
        assert!(health.failed(at(1_000)), "one more failure is enough after a first ejection");
        assert!(health.is_ejected(at(2_999)));
        health.succeeded();
        assert!(!health.is_ejected(at(1_001)));
        assert!(!health.failed(at(5_000)));
    }

    #[test]
    fn an_ejection_is_never_longer_than_the_maximum() {
        let (mut health, mut now) = (Health::default(), 1_u64);
        for _ in 0..300 {
            health.failed(Now(now));
            now += EJECT_MAX_MS * 1_000_000;
            assert!(!health.is_ejected(Now(now)));
        }
    }

    proptest! {
        /// Goal: an untried candidate is always found, and an ejected one only when nobody else is left.
        #[test]
        fn finds_somebody_while_somebody_is_left(
            all in prop::collection::vec((0_u32..4, any::<bool>(), any::<bool>()), 0..9),
            seed in any::<u64>(),
        ) {
            let candidate = |at: usize| {
                let (in_flight, ejected, tried) = all[at];
                Candidate { in_flight, ejected, tried }
            };
            let mut state = seed | 1;
            let roll = |sides: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state % sides as u64).unwrap()
            };
            match choose(all.len(), candidate, roll) {
                None => prop_assert!(all.iter().all(|one| one.2)),
                Some(at) => {
                    prop_assert!(!all[at].2);
                    if all[at].1 {
                        prop_assert!(all.iter().all(|one| one.1 || one.2), "a better one was left");
                    }
                }
            }
        }
    }
}
