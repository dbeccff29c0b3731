//! Which packages go when there is no room for another: those that were used longest ago, and nobody uses now.
//!
//! Pure. Deliberately absent: files.

/// One piece of content that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Hexadecimal SHA-256.
    pub hex: String,
    /// Its size.
    pub bytes: u64,
    /// When it was used last; grows with each use.
    pub used: u64,
    /// Somebody reads it now.
    pub pinned: bool,
}

/// What must go so that `needed` more bytes fit into `bytes_max`; as much as may go when that is not enough.
#[must_use]
pub fn evict(entries: &[Entry], needed: u64, bytes_max: u64) -> Vec<String> {
    let mut held: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let mut free: Vec<&Entry> = entries.iter().filter(|entry| !entry.pinned).collect();
    free.sort_by_key(|entry| entry.used);
    let mut gone = Vec::new();
    for entry in free {
        if held.saturating_add(needed) <= bytes_max {
            break;
        }
        held -= entry.bytes;
        gone.push(entry.hex.clone());
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: the oldest go first, never one in use, never more than needed, always enough if it can be.
        #[test]
        fn the_oldest_go(list in proptest::collection::vec((0_u64..50, any::<bool>()), 0..12), needed in 0_u64..200, bytes_max in 0_u64..300) {
            let entries: Vec<_> = list.iter().enumerate().map(|(at, (bytes, pinned))| Entry {
                hex: at.to_string(), bytes: *bytes, used: (at as u64 * 7) % 13, pinned: *pinned,
            }).collect();
            let gone = evict(&entries, needed, bytes_max);
            let of = |hex: &String| entries.iter().find(|entry| entry.hex == *hex).unwrap();
            prop_assert!(gone.iter().all(|hex| !of(hex).pinned));
            prop_assert!(gone.windows(2).all(|pair| of(&pair[0]).used <= of(&pair[1]).used));
            let held: u64 = entries.iter().map(|entry| entry.bytes).sum();
            let left = held - gone.iter().map(|hex| of(hex).bytes).sum::<u64>();
            let all_gone = entries.iter().all(|entry| entry.pinned || gone.contains(&entry.hex));
            prop_assert!(left + needed <= bytes_max || all_gone);
            if let Some(last) = gone.last() {
                prop_assert!(left + of(last).bytes + needed > bytes_max);
            }
        }
    }
}
