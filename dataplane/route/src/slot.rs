//! Slots: small numbers under which the other threads keep what they know of a route, a job or
//! an instance, and the book in which the editor keeps which numbers are free.
//!
//! ```text
//!  free ──take──▶ used ──retire──▶ waiting ──release──▶ free, next generation
//!                  └──── cancel (nobody ever saw it) ────▶ free
//! ```
//!
//! Deliberately absent: when a slot may be reused. Only the caller knows who still refers to it.

/// A place in a slot-indexed array, and which of its successive tenants is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Below [`SLOTS_MAX`], dense from 0.
    pub index: u32,
    /// Rises by one whenever the index is reused; the first tenant has 0.
    pub generation: u32,
}

/// Most slots of one kind, in use or waiting for release.
pub const SLOTS_MAX: u32 = 1 << 21;

/// Slot of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteSlot(pub Slot);

/// Slot of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobSlot(pub Slot);

/// Slot of an instance, unique over all jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceSlot(pub Slot);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Used,
    Waiting,
}

/// Which slots of one kind are taken.
#[derive(Debug, Default)]
pub(crate) struct SlotBook {
    pages: Vec<(u32, State)>, // Generation and state by index.
    free: Vec<u32>,
}

impl SlotBook {
    /// A free slot, the last freed first; `None` when all [`SLOTS_MAX`] are taken.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index =
                    u32::try_from(self.pages.len()).ok().filter(|&next| next < SLOTS_MAX)?;
                self.pages.push((0, State::Free));
                index
            }
        };
        let (generation, state) = &mut self.pages[index as usize];
        debug_assert_eq!(*state, State::Free);
        *state = State::Used;
        Some(Slot { index, generation: *generation })
    }

    /// Gives back a slot that nobody outside the editor has seen.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        debug_assert_eq!(self.state(slot), Some(State::Used));
        self.pages[slot.index as usize].1 = State::Free;
        self.free.push(slot.index);
    }

    /// The tenant has left the newest table, but others may still refer to the slot.
    pub(crate) fn retire(&mut self, slot: Slot) {
        debug_assert_eq!(self.state(slot), Some(State::Used));
        self.pages[slot.index as usize].1 = State::Waiting;
    }

    /// Nobody refers to the slot any more. False, and no effect, unless it was waiting for that.
    pub(crate) fn release(&mut self, slot: Slot) -> bool {
        let waiting = self.state(slot) == Some(State::Waiting);
        if waiting {
            self.pages[slot.index as usize] = (slot.generation.wrapping_add(1), State::Free);
            self.free.push(slot.index);
        }
        waiting
    }

    fn state(&self, slot: Slot) -> Option<State> {
        let &(generation, state) = self.pages.get(slot.index as usize)?;
        (generation == slot.generation).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_only_after_release_and_then_as_another_generation() {
        let mut book = SlotBook::default();
        let first = book.take().unwrap();
        book.retire(first);
        assert_eq!(book.take().unwrap().index, 1, "still waiting, so a new index");
        assert!(book.release(first));
        assert!(!book.release(first), "a second release has no effect");
        assert_eq!(book.take(), Some(Slot { index: 0, generation: 1 }));
        assert!(!book.release(Slot { index: 0, generation: 1 }), "in use");
        assert!(!book.release(Slot { index: 9, generation: 0 }), "never given out");
    }

    #[test]
    fn a_cancelled_slot_keeps_its_generation() {
        let mut book = SlotBook::default();
        let slot = book.take().unwrap();
        book.cancel(slot);
        assert_eq!(book.take(), Some(slot));
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = SlotBook::default();
        assert_eq!((0..SLOTS_MAX).filter_map(|_| book.take()).count(), SLOTS_MAX as usize);
        assert_eq!(book.take(), None);
    }
}
