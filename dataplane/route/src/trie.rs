//! A persistent hash trie: 64-bit hash → value. Writers copy the path, readers never notice.
//!
//! ```text
//!   Branch [16] ─▶ Branch [16] ─▶ Bucket [(hash, value), …]     hash bits: 4 a level, lowest first
//! ```
//!
//! The keys live in the values: the caller says which value it means, and is only asked about
//! values whose whole hash agrees. Buckets rather than single leaves keep the trie shallow: the
//! branches of a million entries fit a cache, and only the bucket itself is a far read.
//! Deliberately absent: iteration (the slot array has an order, this has none).

use std::iter::once;
use std::sync::Arc;

const BITS: u32 = 4;
const FAN: usize = 1 << BITS;
/// A fuller bucket becomes a branch. Twice the fan, so that a split leaves buckets of two on
/// average, and a million entries, fifteen a bucket, need no fifth level.
const BUCKET_MAX: usize = 2 * FAN;
/// A branch whose buckets hold fewer in all becomes a bucket again; half, against flapping.
const BUCKET_MERGE: usize = BUCKET_MAX / 2;
/// The hash has no bits below this level: entries with wholly equal hashes share one bucket.
const DEPTH_MAX: u32 = u64::BITS / BITS;

#[derive(Clone, Debug)]
struct Entry<V> {
    hash: u64,
    value: V,
}

#[derive(Clone, Debug)]
enum Node<V> {
    Empty,
    Bucket(Arc<[Entry<V>]>),
    Branch(Arc<[Self; FAN]>),
}

/// Values by hash. Cloning is one reference count.
#[derive(Clone, Debug)]
pub(crate) struct Trie<V> {
    root: Node<V>,
    len: usize,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: Node::Empty, len: 0 }
    }
}

/// The child that leads to `hash` at `depth`.
#[inline]
const fn place(hash: u64, depth: u32) -> usize {
    const MASK: u64 = (1 << BITS) - 1;
    ((hash >> (depth * BITS)) & MASK) as usize
}

impl<V> Trie<V> {
    /// Entries present.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The value under `hash` that `is` the one.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(&V) -> bool) -> Option<&V> {
        let mut node = &self.root;
        let mut depth = 0;
        while let Node::Branch(children) = node {
            node = &children[place(hash, depth)];
            depth += 1;
        }
        let Node::Bucket(bucket) = node else { return None };
        bucket.iter().find(|entry| entry.hash == hash && is(&entry.value)).map(|e| &e.value)
    }

    /// Bytes of the nodes and, by `of_value`, of what the values allocated. Walks every node.
    pub(crate) fn node_bytes(&self, of_value: &impl Fn(&V) -> usize) -> usize {
        const COUNTS: usize = 2 * size_of::<usize>();
        fn of<V>(node: &Node<V>, of_value: &impl Fn(&V) -> usize) -> usize {
            match node {
                Node::Empty => 0,
                Node::Bucket(bucket) => {
                    let values = bucket.iter().map(|entry| of_value(&entry.value));
                    COUNTS + size_of_val::<[Entry<V>]>(bucket) + values.sum::<usize>()
                }
                Node::Branch(children) => {
                    let below = children.iter().map(|child| of(child, of_value));
                    COUNTS + size_of_val(&**children) + below.sum::<usize>()
                }
            }
        }
        of(&self.root, of_value)
    }
}

impl<V: Clone> Trie<V> {
    /// Adds a value. The caller knows that no value with the same key is present.
    pub(crate) fn insert(&mut self, hash: u64, value: V) {
        self.root.insert(0, Entry { hash, value });
        self.len += 1;
    }

    /// The value under `hash` that `is` the one, to be changed in this version only.
    pub(crate) fn find_mut(&mut self, hash: u64, is: impl Fn(&V) -> bool) -> Option<&mut V> {
        self.find(hash, &is)?; // Without this a miss would copy the path for nothing.
        let mut node = &mut self.root;
        let mut depth = 0;
        loop {
            match node {
                Node::Empty => return None,
                Node::Branch(children) => {
                    node = &mut Arc::make_mut(children)[place(hash, depth)];
                    depth += 1;
                }
                Node::Bucket(bucket) => {
                    let mut entries = Arc::make_mut(bucket).iter_mut();
                    return entries
                        .find(|entry| entry.hash == hash && is(&entry.value))
                        .map(|entry| &mut entry.value);
                }
            }
        }
    }

    /// Takes out the value under `hash` that `is` the one.
    pub(crate) fn remove(&mut self, hash: u64, is: impl Fn(&V) -> bool) -> Option<V> {
        let value = self.find(hash, &is).cloned()?;
        self.root.remove(0, hash, &is);
        self.len -= 1;
        Some(value)
    }
}

impl<V: Clone> Node<V> {
    fn insert(&mut self, depth: u32, entry: Entry<V>) {
        match self {
            Self::Empty => *self = Self::Bucket(Arc::from([entry])),
            Self::Branch(children) => {
                Arc::make_mut(children)[place(entry.hash, depth)].insert(depth + 1, entry);
            }
            Self::Bucket(bucket) if bucket.len() < BUCKET_MAX || depth == DEPTH_MAX => {
                *bucket = bucket.iter().cloned().chain(once(entry)).collect();
            }
            Self::Bucket(bucket) => {
                let mut children = [const { Self::Empty }; FAN];
                for entry in bucket.iter().cloned().chain(once(entry)) {
                    children[place(entry.hash, depth)].insert(depth + 1, entry);
                }
                *self = Self::Branch(Arc::new(children));
            }
        }
    }

    fn remove(&mut self, depth: u32, hash: u64, is: &impl Fn(&V) -> bool) {
        match self {
            Self::Empty => {}
            Self::Branch(children) => {
                let children = Arc::make_mut(children);
                children[place(hash, depth)].remove(depth + 1, hash, is);
                if let Some(merged) = merge(children) {
                    *self = merged;
                }
            }
            Self::Bucket(bucket) => {
                let stays = |entry: &&Entry<V>| entry.hash != hash || !is(&entry.value);
                let rest: Arc<[_]> = bucket.iter().filter(stays).cloned().collect();
                *self = if rest.is_empty() { Self::Empty } else { Self::Bucket(rest) };
            }
        }
    }
}

/// One bucket instead of a branch that has become too thin to be worth its place.
fn merge<V: Clone>(children: &[Node<V>; FAN]) -> Option<Node<V>> {
    let mut entries = 0;
    for child in children {
        match child {
            Node::Empty => {}
            Node::Bucket(bucket) => entries += bucket.len(),
            Node::Branch(_) => return None,
        }
    }
    if entries >= BUCKET_MERGE {
        return None;
    }
    let buckets = children.iter().filter_map(|child| match child {
        Node::Bucket(bucket) => Some(&**bucket),
        _ => None,
    });
    let merged: Vec<_> = buckets.flatten().cloned().collect();
    Some(if merged.is_empty() { Node::Empty } else { Node::Bucket(merged.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Hashes that agree in many low bits, so that small tests build deep tries.
    fn hash(key: u16) -> u64 {
        u64::from(key % 64) << 60 | u64::from(key % 3)
    }

    proptest! {
        /// Goal: the trie is a map whatever the hashes, and an older clone never changes.
        #[test]
        fn equals_a_map(steps in prop::collection::vec((0u16..200, any::<Option<u8>>()), 0..400)) {
            let (mut trie, mut model) = (Trie::<(u16, u8)>::default(), BTreeMap::new());
            let mut older = (trie.clone(), model.clone());
            for (number, (key, value)) in steps.into_iter().enumerate() {
                if number == 200 {
                    older = (trie.clone(), model.clone());
                }
                let is = |entry: &(u16, u8)| entry.0 == key;
                match value {
                    None => {
                        let expected = model.remove(&key).map(|value| (key, value));
                        prop_assert_eq!(trie.remove(hash(key), is), expected);
                    }
                    Some(value) => {
                        match trie.find_mut(hash(key), is) {
                            Some(entry) => entry.1 = value,
                            None => trie.insert(hash(key), (key, value)),
                        }
                        model.insert(key, value);
                    }
                }
            }
            for (trie, model) in [(trie, model), older] {
                prop_assert_eq!(trie.len(), model.len());
                for key in 0..200 {
                    let found = trie.find(hash(key), |entry| entry.0 == key);
                    prop_assert_eq!(found.map(|entry| entry.1), model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn a_trie_shrinks_with_its_entries() {
        let hash = |key: u16| u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut trie = Trie::default();
        for key in 0..10_000u16 {
            trie.insert(hash(key), key);
        }
        assert!(trie.node_bytes(&|_| 0) > 10_000 * size_of::<Entry<u16>>());
        for (left, bytes_max) in [(BUCKET_MERGE - 1, 256), (0, 0)] {
            while trie.len() > left {
                let key = u16::try_from(trie.len() - 1).unwrap();
                assert_eq!(trie.remove(hash(key), |&other| other == key), Some(key));
            }
            assert!(trie.node_bytes(&|_| 0) <= bytes_max, "{left} left in one bucket");
        }
    }
}
