//! Which instance has which port number of this host.
//!
//! Numbers are given in a circle, so that one just given back is the last to be given again: a late packet for the dead
//! does not reach the living. Pure; whether a number is free on the host is asked of the caller. Deliberately absent:
//! more than one address.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Numbers that are in use.
#[derive(Clone, Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    next: u16,
    taken: BTreeSet<u16>,
}

impl Ports {
    /// Nothing taken; the circle begins at `start` numbers after the first.
    #[must_use]
    pub fn new(range: RangeInclusive<u16>, start: u16) -> Self {
        let span = u32::from(range.end().saturating_sub(*range.start())) + 1;
        let offset = u16::try_from(u32::from(start) % span).unwrap_or(0);
        Self { next: range.start().saturating_add(offset), range, taken: BTreeSet::new() }
    }

    /// All of `wanted` (0 = any of the range), or none of them and the number that could not be had. `is_free` is told
    /// the number and whether it is one of the range.
    pub fn take(
        &mut self,
        wanted: &[u16],
        mut is_free: impl FnMut(u16, bool) -> bool,
    ) -> Result<Vec<u16>, u16> {
        let mut given: Vec<u16> = Vec::new();
        for &number in wanted {
            let found = if number == 0 {
                self.any(&mut is_free)
            } else {
                Some(number)
                    .filter(|number| !self.taken.contains(number) && is_free(*number, false))
            };
            let Some(found) = found else {
                self.give_back(&given);
                return Err(number);
            };
            self.taken.insert(found);
            given.push(found);
        }
        Ok(given)
    }

    /// Numbers of an instance that was found running.
    pub fn keep(&mut self, numbers: &[u16]) {
        self.taken.extend(numbers);
    }

    /// They are free again.
    pub fn give_back(&mut self, numbers: &[u16]) {
        for number in numbers {
            self.taken.remove(number);
        }
    }

    /// All that are in use.
    #[must_use]
    pub fn taken(&self) -> &BTreeSet<u16> {
        &self.taken
    }

    fn any(&mut self, is_free: &mut impl FnMut(u16, bool) -> bool) -> Option<u16> {
        for _ in self.range.clone() {
            let number = self.next;
            self.next = if number >= *self.range.end() { *self.range.start() } else { number + 1 };
            if !self.taken.contains(&number) && is_free(number, true) {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: given in a circle, all or nothing, a foreign listener is stepped over.
    #[test]
    fn given_in_a_circle() {
        let mut ports = Ports::new(100..=103, 5);
        assert_eq!(ports.take(&[0, 0], |_, _| true), Ok(vec![101, 102]));
        ports.give_back(&[101]);
        assert_eq!(ports.take(&[0], |number, _| number != 103), Ok(vec![100]));
        assert_eq!(ports.take(&[80, 0, 0, 0], |_, _| true), Err(0));
        assert_eq!(ports.take(&[80, 102], |_, _| true), Err(102));
        assert_eq!(ports.take(&[80, 80], |_, _| true), Err(80));
        assert_eq!(ports.taken().iter().copied().collect::<Vec<_>>(), [100, 102]);
        assert_eq!(Ports::new(0..=u16::MAX, u16::MAX).take(&[0], |_, _| true), Ok(vec![u16::MAX]));
    }

    proptest! {
        /// Goal: no number is ever given twice at a time.
        #[test]
        fn never_twice(calls in proptest::collection::vec((proptest::collection::vec(prop_oneof![Just(0_u16), 1..20_u16], 0..4), any::<bool>()), 0..40)) {
            let mut ports = Ports::new(10..=15, 3);
            let mut held: Vec<Vec<u16>> = Vec::new();
            for (wanted, back) in calls {
                if back && !held.is_empty() {
                    ports.give_back(&held.remove(0));
                } else if let Ok(given) = ports.take(&wanted, |_, _| true) {
                    held.push(given);
                }
                let all: Vec<_> = held.iter().flatten().copied().collect();
                let set: BTreeSet<_> = all.iter().copied().collect();
                prop_assert_eq!(all.len(), set.len());
                prop_assert_eq!(&set, ports.taken());
            }
        }
    }
}
