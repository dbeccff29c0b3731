//! A digest of a set that is cheap to keep: adding or removing one member costs one short hash.
//!
//! Two parties that hold the same set hold the same digest, whatever the order of their changes. It finds lost
//! messages and mistakes. Deliberately absent: resistance against an attacker; messages are trusted by their
//! signature, not by this.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The sum of the hashes of all members; zero for the empty set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(u128);

impl Digest {
    /// Takes a member in. The caller sees to it that a member is in at most once.
    pub fn add(&mut self, member: &[u8]) {
        self.0 = self.0.wrapping_add(hash(member));
    }

    /// Takes a member out again; the same bytes as were added.
    pub fn remove(&mut self, member: &[u8]) {
        self.0 = self.0.wrapping_sub(hash(member));
    }

    /// The digest of all of `members`.
    #[must_use]
    pub fn of<'a>(members: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut digest = Self::default();
        for member in members {
            digest.add(member);
        }
        digest
    }
}

/// FNV-1a in 128 bits, then a mixer, so that near members do not cancel in the sum.
fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut state = OFFSET;
    for byte in bytes {
        state = (state ^ u128::from(*byte)).wrapping_mul(PRIME);
    }
    state ^= state >> 67;
    state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    state ^ (state >> 61)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: order does not matter, removal undoes addition, one changed byte shows.
        #[test]
        fn a_set_has_one_digest(mut members in proptest::collection::hash_set(proptest::collection::vec(any::<u8>(), 0..20), 1..20)) {
            let list: Vec<_> = members.iter().cloned().collect();
            let forward = Digest::of(list.iter().map(Vec::as_slice));
            let mut backward = Digest::of(list.iter().rev().map(Vec::as_slice));
            prop_assert_eq!(forward, backward);
            members.remove(&list[0]);
            backward.remove(&list[0]);
            prop_assert_eq!(backward, Digest::of(members.iter().map(Vec::as_slice)));
            prop_assert_ne!(forward, backward);
            let text = serde_json::to_string(&forward).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), forward);
        }
    }
}
