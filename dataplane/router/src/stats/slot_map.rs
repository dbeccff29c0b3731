//! Numbers kept by slot: dense, made when first used, zero again when the slot gets a new owner.
//!
//! ```text
//!  index ──▶ chunk (1,024 entries, made on first use) ──▶ entry (made on first use) ──▶ generation + T
//! ```
//!
//! The owning core asks with [`SlotMap::own`]; every other thread with [`SlotMap::read`]. A route that a
//! core never serves costs that core nothing. Deliberately absent: removal. A slot that is free keeps
//! its memory until it is used again.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

const CHUNK_SLOTS: u32 = 1024;
const CHUNK: usize = CHUNK_SLOTS as usize;
/// Slots beyond this number share the last one. The table's own limits are lower.
pub const SLOTS_MAX: usize = 2 * 1024 * 1024;
/// Generation of an entry that is being zeroed. Real generations may wrap, so this one is skipped by readers only.
const NOBODY: u32 = u32::MAX;

/// Back to zero, by the owner.
pub trait Reset {
    /// Set every number to zero.
    fn reset(&self);
}

/// See the module head.
#[derive(Debug)]
pub struct SlotMap<T> {
    chunks: Box<[OnceLock<Chunk<T>>]>,
}

type Chunk<T> = Box<[OnceLock<Box<Entry<T>>>]>;

#[derive(Debug, Default)]
struct Entry<T> {
    generation: AtomicU32,
    value: T,
}

impl<T: Default + Reset> Default for SlotMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default + Reset> SlotMap<T> {
    /// An empty map: 48 KiB of empty chunk pointers.
    pub fn new() -> Self {
        Self { chunks: (0..SLOTS_MAX / CHUNK).map(|_| OnceLock::new()).collect() }
    }

    /// The numbers of a slot, for the owning core: made on first use, zeroed when the generation is new.
    #[inline]
    pub fn own(&self, index: u32, generation: u32) -> &T {
        let index = (index as usize).min(SLOTS_MAX - 1);
        let chunk = self.chunks[index / CHUNK]
            .get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let entry = chunk[index % CHUNK].get_or_init(|| {
            let entry = Entry { generation: AtomicU32::new(generation), value: T::default() };
            Box::new(entry)
        });
        if entry.generation.load(Acquire) != generation {
            Self::hand_over(entry, generation);
        }
        &entry.value
    }

    /// The slot has a new owner: readers see nobody while the numbers go to zero.
    #[cold]
    fn hand_over(entry: &Entry<T>, generation: u32) {
        entry.generation.store(NOBODY, Release);
        entry.value.reset();
        entry.generation.store(generation, Release);
    }

    /// The numbers of a slot, for readers; `None` when this core never used that generation of it.
    pub fn read(&self, index: u32, generation: u32) -> Option<&T> {
        let index = (index as usize).min(SLOTS_MAX - 1);
        let entry = self.chunks[index / CHUNK].get()?[index % CHUNK].get()?;
        (entry.generation.load(Acquire) == generation).then_some(&entry.value)
    }

    /// Every slot in use, with its generation, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        self.chunks.iter().zip(0u32..).filter_map(|(chunk, at)| Some((chunk.get()?, at))).flat_map(
            |(chunk, at)| {
                chunk.iter().zip(0u32..).filter_map(move |(entry, offset)| {
                    let entry = entry.get()?;
                    let generation = entry.generation.load(Acquire);
                    (generation != NOBODY).then_some((
                        at * CHUNK_SLOTS + offset,
                        generation,
                        &entry.value,
                    ))
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    impl Reset for Counter {
        fn reset(&self) {
            self.set(0);
        }
    }

    /// Goal: a slot used again starts at zero, and its former owner's name no longer reads it.
    #[test]
    fn a_new_generation_starts_at_zero() {
        let map = SlotMap::<Counter>::new();
        assert!(map.read(5, 1).is_none());
        map.own(5, 1).add(3);
        map.own(5, 1).add(4);
        assert_eq!(map.read(5, 1).map(Counter::read), Some(7));

        map.own(5, 2).add(1);
        assert!(map.read(5, 1).is_none());
        assert_eq!(map.read(5, 2).map(Counter::read), Some(1));
    }

    #[test]
    fn far_slots_cost_only_their_chunk_and_come_in_order() {
        let map = SlotMap::<Counter>::new();
        for index in [70_000, 3, 2_000_000, 1_023, 1_024] {
            map.own(index, 9).add(u64::from(index));
        }
        let seen: Vec<_> = map.iter().map(|(i, g, c)| (i, g, c.read())).collect();
        assert_eq!(seen.len(), 5);
        assert!(seen.is_sorted());
        assert!(seen.iter().all(|(i, g, c)| *g == 9 && *c == u64::from(*i)));
        assert_eq!(map.chunks.iter().filter(|chunk| chunk.get().is_some()).count(), 4);
    }

    #[test]
    fn a_slot_beyond_the_end_does_not_panic() {
        let map = SlotMap::<Counter>::new();
        map.own(u32::MAX, 0).add(1);
        assert_eq!(map.read(u32::MAX, 0).map(Counter::read), Some(1));
    }
}
