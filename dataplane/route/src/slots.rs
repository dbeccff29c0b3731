//! A persistent array: slot index → shared value. Writers copy the path, readers never notice.
//!
//! ```text
//!   Branch [16] ─▶ Branch [16] ─▶ Leaf [16] ─▶ Arc<T>      index bits: 4 a level, highest first
//! ```
//!
//! Deliberately absent: generations (the values know theirs) and removal of emptied nodes (slots
//! are dense and reused, so the array is as tall as the most slots that were ever taken).

use std::sync::Arc;

const BITS: u32 = 4;
const WIDTH: usize = 1 << BITS;
const MASK: u32 = (1 << BITS) - 1;

#[derive(Debug)]
enum Node<T> {
    Branch([Option<Arc<Self>>; WIDTH]),
    Leaf([Option<Arc<T>>; WIDTH]),
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Branch(children) => Self::Branch(children.clone()),
            Self::Leaf(values) => Self::Leaf(values.clone()),
        }
    }
}

impl<T> Node<T> {
    fn empty(height: u32) -> Self {
        if height == 0 {
            Self::Leaf([const { None }; WIDTH])
        } else {
            Self::Branch([const { None }; WIDTH])
        }
    }
}

/// Values by index. Cloning is one reference count.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    root: Arc<Node<T>>,
    /// Levels above the leaves.
    height: u32,
    /// One past the highest index that was ever set.
    bound: u32,
    len: usize,
}

impl<T> Clone for Slots<T> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), ..*self }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { root: Arc::new(Node::empty(0)), height: 0, bound: 0, len: 0 }
    }
}

impl<T> Slots<T> {
    /// Values present.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The value at `index`.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Arc<T>> {
        if index >= self.bound {
            return None;
        }
        let mut node = &*self.root;
        let mut shift = self.height * BITS;
        loop {
            let place = ((index >> shift) & MASK) as usize;
            match node {
                Node::Branch(children) => node = children[place].as_deref()?,
                Node::Leaf(values) => return values[place].as_ref(),
            }
            shift -= BITS;
        }
    }

    /// Puts `value` at `index` and returns what was there.
    pub(crate) fn set(&mut self, index: u32, value: Option<Arc<T>>) -> Option<Arc<T>> {
        while u64::from(index) >> ((self.height + 1) * BITS) > 0 {
            let mut taller = [const { None }; WIDTH];
            taller[0] = Some(Arc::clone(&self.root));
            self.root = Arc::new(Node::Branch(taller));
            self.height += 1;
        }
        self.bound = self.bound.max(index + 1);
        self.len += usize::from(value.is_some());
        let mut height = self.height;
        let mut node = Arc::make_mut(&mut self.root);
        loop {
            let place = ((index >> (height * BITS)) & MASK) as usize;
            match node {
                Node::Branch(children) => {
                    height -= 1;
                    let child =
                        children[place].get_or_insert_with(|| Arc::new(Node::empty(height)));
                    node = Arc::make_mut(child);
                }
                Node::Leaf(values) => {
                    let before = std::mem::replace(&mut values[place], value);
                    self.len -= usize::from(before.is_some());
                    return before;
                }
            }
        }
    }

    /// All values by rising index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        (0..self.bound).filter_map(|index| self.get(index))
    }

    /// Bytes of the nodes, without the values.
    pub(crate) fn node_bytes(&self) -> usize {
        let leaves = self.bound as usize / WIDTH + 1;
        let nodes = leaves + leaves / (WIDTH - 1) + 1;
        nodes * (size_of::<Node<T>>() + 2 * size_of::<usize>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Goal: the array is a map, and an older clone never changes.
        #[test]
        fn equals_a_map(steps in prop::collection::vec((0u32..5_000, any::<Option<u16>>()), 0..200)) {
            let (mut slots, mut model) = (Slots::<u16>::default(), BTreeMap::new());
            let mut older = (slots.clone(), model.clone());
            for (number, (index, value)) in steps.into_iter().enumerate() {
                if number == 100 {
                    older = (slots.clone(), model.clone());
                }
                let before = match value {
                    Some(value) => model.insert(index, value),
                    None => model.remove(&index),
                };
                prop_assert_eq!(slots.set(index, value.map(Arc::new)).map(|value| *value), before);
            }
            for (slots, model) in [(slots, model), older] {
                prop_assert_eq!(slots.len(), model.len());
                prop_assert!(slots.iter().map(|value| **value).eq(model.values().copied()));
                for index in (0..5_000).step_by(97) {
                    prop_assert_eq!(slots.get(index).map(|value| **value), model.get(&index).copied());
                }
            }
        }
    }
}
