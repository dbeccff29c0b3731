//! Slots with generations, in blocks that never move.
//!
//! Growing allocates one block and copies nothing, so that the hundred-thousandth connection costs what the first did.
//! Freed slots are reused last-in first-out: the newest is hot in the cache. Deliberately absent: shrinking.

use crate::ConnId;

/// Slots in a block.
const BLOCK: u32 = 512;
/// Generations count in 24 bits, so that one fits beside a slot and a kind into 64 bits.
pub(crate) const GENERATION_MASK: u32 = 0xff_ffff;
/// No slot: the end of the free list.
const NONE: u32 = u32::MAX;

struct Slot<T> {
    /// Odd while the slot is in use.
    generation: u32,
    next_free: u32,
    value: T,
}

/// A growing set of `T`s named by slot and generation.
pub(crate) struct Slab<T> {
    blocks: Vec<Box<[Slot<T>]>>,
    free: u32,
    used: usize,
}

impl<T: Default> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { blocks: Vec::new(), free: NONE, used: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.used
    }

    fn slot(&self, slot: u32) -> Option<&Slot<T>> {
        let block = self.blocks.get((slot / BLOCK) as usize)?;
        Some(&block[(slot % BLOCK) as usize])
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot<T>> {
        let block = self.blocks.get_mut((slot / BLOCK) as usize)?;
        Some(&mut block[(slot % BLOCK) as usize])
    }

    /// Put `value` into a free slot.
    pub(crate) fn insert(&mut self, value: T) -> ConnId {
        if self.free == NONE {
            self.grow();
        }
        let slot = self.free;
        let place = self.slot_mut(slot).expect("the free list names existing slots");
        debug_assert!(place.generation.is_multiple_of(2), "a free slot is in use");
        place.generation = (place.generation + 1) & GENERATION_MASK;
        place.value = value;
        let (generation, next) = (place.generation, place.next_free);
        self.free = next;
        self.used += 1;
        ConnId { slot, generation }
    }

    #[cold]
    fn grow(&mut self) {
        let blocks = u32::try_from(self.blocks.len()).ok();
        let first = blocks.and_then(|blocks| blocks.checked_mul(BLOCK));
        let first = first.expect("descriptors number below 2^31");
        let last = first + (BLOCK - 1);
        let block = (first..=last).map(|slot| Slot {
            generation: 0,
            next_free: if slot == last { NONE } else { slot + 1 },
            value: T::default(),
        });
        self.blocks.push(block.collect());
        self.free = first;
    }

    /// The value, when the id still names it.
    pub(crate) fn get(&self, id: ConnId) -> Option<&T> {
        let place = self.slot(id.slot)?;
        (place.generation == id.generation && !id.generation.is_multiple_of(2))
            .then_some(&place.value)
    }

    /// The value, when the id still names it.
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let place = self.slot_mut(id.slot)?;
        let named = place.generation == id.generation && !id.generation.is_multiple_of(2);
        named.then_some(&mut place.value)
    }

    /// Free the slot and give its value; the id names nothing from now on.
    pub(crate) fn remove(&mut self, id: ConnId) -> Option<T> {
        let free = self.free;
        let place = self.slot_mut(id.slot)?;
        if place.generation != id.generation || id.generation.is_multiple_of(2) {
            return None;
        }
        place.generation = (place.generation + 1) & GENERATION_MASK;
        place.next_free = free;
        let value = std::mem::take(&mut place.value);
        self.free = id.slot;
        self.used -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_never_names_the_successor() {
        let mut slab = Slab::new();
        let first = slab.insert(1);
        assert_eq!(slab.remove(first), Some(1));
        let second = slab.insert(2);
        assert_eq!(second.slot, first.slot);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&2));
        assert_eq!(slab.get(ConnId { slot: first.slot, generation: second.generation + 1 }), None);
    }

    #[test]
    fn slots_are_dense_and_values_stay() {
        let mut slab = Slab::new();
        let ids: Vec<ConnId> = (0..2_000).map(|value| slab.insert(value)).collect();
        assert!(ids.iter().all(|id| id.slot < 4 * BLOCK));
        for id in ids.iter().step_by(2) {
            slab.remove(*id);
        }
        assert_eq!(slab.len(), 1_000);
        for (value, id) in ids.iter().enumerate().skip(1).step_by(2) {
            assert_eq!(slab.get(*id), Some(&value));
        }
    }
}
