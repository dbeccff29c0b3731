//! Who serves the next request: the exact, deterministic split by weight.
//!
//! Tijdeman's chairman assignment (1980). With n targets of shares λᵢ, after t picks target i has
//! served xᵢ requests and is owed `λᵢ·t − xᵢ`. Before each pick all debts grow by λᵢ; among those
//! owed at least 1/(2n−2), the one whose debt will first reach 1 − 1/(2n−2) serves. That keeps
//! every debt within 1 − 1/(2n−2) < 1 at every prefix, and no rule can promise less.
//!
//! All in integers: debts are counted in 1/whole of a request. Each admissible set has a lane of
//! its own, so that clients who may reach different jobs do not disturb each other's shares.
//! Deliberately absent: random numbers, floating point, and memory across a change of weights.

use crate::weight::{TARGETS_MAX, Targets};

/// Most admissible sets whose split is remembered; the least recently used starts anew.
pub const SPLITTER_MASKS_MAX: usize = 8;

/// The split of one route on one core.
///
/// Allocates when an admissible set is first seen, not per request, and nothing for a route with
/// one job.
#[derive(Clone, Debug)]
pub struct Splitter {
    revision: u64,
    /// Most recently used first.
    lanes: Vec<Lane>,
}

/// The split among one admissible set.
#[derive(Clone, Debug)]
struct Lane {
    admissible: u64,
    whole: i64,
    seats: Box<[Seat]>,
}

/// A target with a share, and what it is owed.
#[derive(Clone, Debug)]
struct Seat {
    target: usize,
    parts: i64,
    debt: i64,
}

/// `slack / parts` of two seats is compared by cross products, in 64 bits.
const _: () = {
    let parts_max = crate::weight::WEIGHT_PERCENT_MAX as i64 * 100 * TARGETS_MAX as i64;
    let slack_max = 2 * parts_max * (2 * TARGETS_MAX as i64);
    assert!(slack_max.checked_mul(parts_max).is_some());
};

impl Splitter {
    /// A split that begins now.
    #[must_use]
    pub const fn new(targets: &Targets) -> Self {
        Self { revision: targets.revision, lanes: Vec::new() }
    }

    /// Position in `targets.list` of the job that serves the next request; `None` when no target
    /// in `admissible` is active. Starts anew when the targets have changed.
    #[inline]
    pub fn pick(&mut self, targets: &Targets, admissible: u64) -> Option<usize> {
        let admissible = admissible & targets.active();
        if admissible.count_ones() < 2 {
            return (admissible != 0).then(|| admissible.trailing_zeros() as usize);
        }
        if self.revision != targets.revision {
            *self = Self::new(targets);
        }
        Some(self.lane(targets, admissible).pick())
    }

    /// The lane of an admissible set, moved to the front.
    fn lane(&mut self, targets: &Targets, admissible: u64) -> &mut Lane {
        match self.lanes.iter().position(|lane| lane.admissible == admissible) {
            Some(0) => {}
            Some(place) => self.lanes[..=place].rotate_right(1),
            None => {
                self.lanes.truncate(SPLITTER_MASKS_MAX - 1);
                self.lanes.insert(0, Lane::new(targets, admissible));
            }
        }
        &mut self.lanes[0]
    }
}

impl Lane {
    fn new(targets: &Targets, admissible: u64) -> Self {
        let (shares, whole) = targets.shares(admissible);
        let seat = |share: crate::Share| Seat { target: share.target, parts: share.parts, debt: 0 };
        Self { admissible, whole, seats: shares.into_iter().map(seat).collect() }
    }

    fn pick(&mut self) -> usize {
        debug_assert_eq!(self.seats.iter().map(|seat| seat.debt).sum::<i64>(), 0);
        // 2n − 2, but 1 for a single seat, whose debt is the whole each time.
        let span = i64::try_from(2 * self.seats.len()).map_or(1, |twice| (twice - 2).max(1));
        let mut chosen = (0, i64::MAX, 1);
        for (place, seat) in self.seats.iter_mut().enumerate() {
            seat.debt += seat.parts;
            let slack = self.whole * (span - 1) - seat.debt * span;
            let eligible = seat.debt * span >= self.whole;
            if eligible && slack * chosen.2 < chosen.1.saturating_mul(seat.parts) {
                chosen = (place, slack, seat.parts);
            }
        }
        let seat = &mut self.seats[chosen.0];
        seat.debt -= self.whole;
        seat.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::JobSlot;
    use crate::weight::{Target, Weight};
    use proptest::prelude::*;

    fn targets(hundredths: &[i32]) -> Targets {
        let target = |&h: &i32| Target {
            job: JobSlot::default(),
            weight: Weight::from_hundredths(h).unwrap(),
        };
        Targets { revision: 1, list: hundredths.iter().map(target).collect() }
    }

    fn sequence(hundredths: &[i32], picks: usize) -> String {
        let targets = targets(hundredths);
        let mut splitter = Splitter::new(&targets);
        let letter = |i: usize| char::from(b'A' + u8::try_from(i).unwrap());
        (0..picks).map(|_| splitter.pick(&targets, u64::MAX).map_or('-', letter)).collect()
    }

    #[test]
    fn the_split_is_even_in_time_too() {
        assert_eq!(sequence(&[0, 0], 6), "ABABAB");
        assert_eq!(sequence(&[7_500, 2_500], 8), "AABAAABA");
        assert_eq!(sequence(&[10_000, 0], 5), "AAAAA");
        assert_eq!(sequence(&[-1_000, 0], 3), "BBB");
        assert_eq!(sequence(&[-1_000, -1], 3), "---");
        let ten = sequence(&[4_500, 4_500, 0], 20);
        assert_eq!(ten.matches('A').count(), 9);
        assert_eq!(ten.matches('C').count(), 2);
    }

    #[test]
    fn a_change_of_weights_begins_anew() {
        let mut before = targets(&[0, 0]);
        let mut splitter = Splitter::new(&before);
        assert_eq!(splitter.pick(&before, 3), Some(0));
        assert_eq!(splitter.pick(&before, 3), Some(1));
        assert_eq!(splitter.pick(&before, 3), Some(0));
        before.revision += 1;
        assert_eq!(splitter.pick(&before, 3), Some(0));
    }

    #[test]
    fn the_lanes_are_bounded_and_the_least_recently_used_goes() {
        let targets = targets(&[0; 12]);
        let mut splitter = Splitter::new(&targets);
        assert_eq!(splitter.pick(&targets, 0b11), Some(0));
        for other in 2..12 {
            assert_eq!(splitter.pick(&targets, 1 | 1 << other), Some(0));
            assert_eq!(splitter.pick(&targets, 0b11), Some(if other % 2 == 0 { 1 } else { 0 }));
        }
        assert_eq!(splitter.lanes.len(), SPLITTER_MASKS_MAX);
        assert_eq!(splitter.pick(&targets, 0b101), Some(0), "forgotten, so it starts anew");
    }

    /// What was asked and answered on one admissible set.
    struct Ledger {
        asked: i64,
        served: [i64; TARGETS_MAX],
    }

    proptest! {
        /// Goal: at every prefix of every lane nobody is off its ideal share by more than
        /// 1 − 1/(2n−2) requests, however the admissible sets alternate.
        #[test]
        fn never_off_by_a_request_at_any_prefix(
            weights in prop::collection::vec(
                prop_oneof![Just(0), -100i32..0, 1i32..12_000, 1i32..1_000_000], 1..=64),
            masks in prop::collection::vec(prop_oneof![Just(u64::MAX), any::<u64>()], 1..4),
            order in prop::collection::vec(any::<prop::sample::Index>(), 300),
        ) {
            let targets = targets(&weights);
            let mut splitter = Splitter::new(&targets);
            let mut ledgers = std::collections::BTreeMap::<u64, Ledger>::new();
            for index in order {
                let mask = masks[index.index(masks.len())];
                let (shares, whole) = targets.shares(mask);
                let Some(picked) = splitter.pick(&targets, mask) else {
                    prop_assert!(shares.is_empty());
                    continue;
                };
                let ledger = ledgers
                    .entry(mask & targets.active())
                    .or_insert(Ledger { asked: 0, served: [0; TARGETS_MAX] });
                ledger.asked += 1;
                ledger.served[picked] += 1;
                prop_assert!(shares.iter().any(|share| share.target == picked));
                let n = i64::try_from(shares.len()).unwrap();
                for share in shares {
                    let debt = share.parts * ledger.asked - whole * ledger.served[share.target];
                    let span = (2 * n - 2).max(1);
                    prop_assert!(debt.abs() * span <= whole * (span - 1).max(0),
                        "target {} of {n} is off by {debt}/{whole}", share.target);
                }
            }
        }
    }
}
