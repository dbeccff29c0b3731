//! A slab whose ids carry a generation: an id of something that ended never names its successor.
//!
//! Slots are reused last-in-first-out, so that memory stays warm; nothing is allocated while a free slot is left.
//! Deliberately absent: iteration order guarantees.

/// An index with the generation of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    index: u32,
    generation: u32,
}

enum Entry<T> {
    Free { next: Option<u32> },
    Used(T),
}

/// See the module head.
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Entry<T>)>,
    free: Option<u32>,
    max: usize,
}

impl<T> Slab<T> {
    /// At most `max` values at a time.
    pub(crate) const fn new(max: usize) -> Self {
        Self { entries: Vec::new(), free: None, max }
    }

    /// Store a value; `Err` gives it back when the slab is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Id, T> {
        if let Some(index) = self.free {
            let (generation, entry) = &mut self.entries[index as usize];
            if let Entry::Free { next } = entry {
                self.free = *next;
            }
            *entry = Entry::Used(value);
            return Ok(Id { index, generation: *generation });
        }
        if self.entries.len() >= self.max {
            return Err(value);
        }
        let Ok(index) = u32::try_from(self.entries.len()) else { return Err(value) };
        self.entries.push((0, Entry::Used(value)));
        Ok(Id { index, generation: 0 })
    }

    /// The value, unless it ended.
    pub(crate) fn get(&self, id: Id) -> Option<&T> {
        match self.entries.get(id.index as usize) {
            Some((generation, Entry::Used(value))) if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// The value for change, unless it ended.
    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        match self.entries.get_mut(id.index as usize) {
            Some((generation, Entry::Used(value))) if *generation == id.generation => Some(value),
            _ => None,
        }
    }

    /// End it.
    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        self.get(id)?;
        let (generation, entry) = &mut self.entries[id.index as usize];
        *generation = generation.wrapping_add(1);
        let taken = std::mem::replace(entry, Entry::Free { next: self.free });
        self.free = Some(id.index);
        match taken {
            Entry::Used(value) => Some(value),
            Entry::Free { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_never_names_a_successor() {
        let mut slab = Slab::new(2);
        let first = slab.insert('a').unwrap();
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b').unwrap();
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
    }

    #[test]
    fn a_full_slab_gives_the_value_back() {
        let mut slab = Slab::new(1);
        let id = slab.insert(1).unwrap();
        assert_eq!(slab.insert(2), Err(2));
        slab.remove(id);
        assert!(slab.insert(3).is_ok());
    }
}
