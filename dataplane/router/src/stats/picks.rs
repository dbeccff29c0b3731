//! To which job each request of a route went: the receipt of the weighted split.
//!
//! Counted since the route's jobs or weights last changed, because a split begins anew then; so the counts may be held
//! against the shares. One writer. Deliberately absent: what became of the requests.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use route::{TARGETS_MAX, Targets};

use super::{Counter, Reset};

/// Revision while the counts go to zero. Real ones are versions of the table and never come so far.
const NOBODY: u64 = u64::MAX;

/// See the module head. Routes with one job, that is most of them, need no memory beside this.
#[derive(Debug, Default)]
pub struct Picks {
    revision: AtomicU64,
    only: Counter,
    several: OnceLock<Box<[Counter; TARGETS_MAX]>>,
}

impl Picks {
    /// Count one request for the job at `at` in the list. Only the owning core calls this.
    #[inline]
    pub fn count(&self, targets: &Targets, at: usize) {
        if self.revision.load(Acquire) != targets.revision {
            self.revision.store(NOBODY, Release);
            self.zero();
            self.revision.store(targets.revision, Release);
        }
        if targets.list.len() == 1 {
            self.only.add(1);
        } else if let Some(counter) = self.several().get(at) {
            counter.add(1);
        }
    }

    /// Counts in the order of the list; all zero when this core has served nothing since the last change. Any thread.
    pub fn read(&self, targets: &Targets) -> Vec<u64> {
        let of = |at: usize| match (targets.list.len(), self.several.get()) {
            (1, _) => self.only.read(),
            (_, several) => several.map_or(0, |several| several[at].read()),
        };
        let counts: Vec<u64> = (0..targets.list.len()).map(of).collect();
        // A change in between would mix two splits.
        if self.revision.load(Acquire) == targets.revision { counts } else { vec![0; counts.len()] }
    }

    fn several(&self) -> &[Counter; TARGETS_MAX] {
        self.several.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())))
    }

    fn zero(&self) {
        self.only.set(0);
        self.several.get().into_iter().flat_map(|all| all.iter()).for_each(|one| one.set(0));
    }
}

impl Reset for Picks {
    fn reset(&self) {
        self.zero();
        self.revision.store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use route::{JobSlot, Target, Weight};

    fn targets(revision: u64, jobs: usize) -> Targets {
        let target = Target { job: JobSlot::default(), weight: Weight::AUTO };
        Targets { revision, list: vec![target; jobs].into() }
    }

    /// Goal: counts belong to one set of weights; the next begins at zero, and the former reads as nothing.
    #[test]
    fn a_change_of_the_targets_begins_anew() {
        let picks = Picks::default();
        let (one, two, later) = (targets(3, 1), targets(4, 2), targets(9, 2));
        picks.count(&one, 0);
        picks.count(&one, 0);
        assert_eq!((picks.read(&one), picks.read(&two)), (vec![2], vec![0, 0]));
        for at in [0, 1, 1] {
            picks.count(&two, at);
        }
        assert_eq!((picks.read(&one), picks.read(&two)), (vec![0], vec![1, 2]));
        picks.count(&later, 1);
        assert_eq!((picks.read(&two), picks.read(&later)), (vec![0, 0], vec![0, 1]));
        picks.reset();
        assert_eq!(picks.read(&later), [0, 0]);
    }
}
