//! The hash of names, blind to the case of ASCII letters, eight bytes at a time.
//!
//! Folded multiplication as in wyhash and foldhash: good spread, a few nanoseconds for a host.
//! Only the editor inserts keys, so a client cannot flood a bucket; who lets strangers choose
//! hosts gives the editor a secret seed. Deliberately absent: any claim to cryptography.

/// Key of the hash. Every table of one editor uses the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) u64);

/// Odd constants with balanced bits: the first digits of pi.
const STIR: u64 = 0x243f_6a88_85a3_08d3;
const CLOSE: u64 = 0x1319_8a2e_0370_7345;

impl Seed {
    /// Hash of `name`; `App.Example` and `app.example` give the same.
    #[inline]
    pub(crate) fn of_name(self, name: &[u8]) -> u64 {
        let (words, last) = words(name);
        let state = words.fold(self.0, |state, word| fold(state ^ lower(word), STIR));
        fold(state ^ lower(last) ^ CLOSE, STIR ^ (name.len() as u64))
    }

    /// Hash of `path`, to the letter.
    #[inline]
    pub(crate) fn of_path(self, path: &[u8]) -> u64 {
        let (words, last) = words(path);
        let state = words.fold(!self.0, |state, word| fold(state ^ word, STIR));
        fold(state ^ last ^ CLOSE, STIR ^ (path.len() as u64))
    }
}

/// Whether `sent` spells `canonical`, which has no capital letters.
#[inline]
pub(crate) fn spells(canonical: &[u8], sent: &[u8]) -> bool {
    if canonical.len() != sent.len() {
        return false;
    }
    let ((ours, our_last), (theirs, their_last)) = (words(canonical), words(sent));
    our_last == lower(their_last) && ours.eq(theirs.map(lower))
}

/// The bytes as whole words, and the last eight once more, which may overlap the words and so
/// take in what is left without a loop. Fewer than eight bytes are one word, filled with zeros.
#[inline]
fn words(bytes: &[u8]) -> (impl Iterator<Item = u64>, u64) {
    let last = match bytes.last_chunk() {
        Some(last) => u64::from_le_bytes(*last),
        None => bytes.iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte)),
    };
    (bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)), last)
}

/// Both halves of the product, folded into one word.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = a.carrying_mul(b, 0);
    low ^ high
}

/// Eight bytes at once: `A`..=`Z` become `a`..=`z`, everything else stays.
#[inline]
const fn lower(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low_seven = word & (0x7f * ONES);
    let from_a = low_seven + (0x80 - b'A' as u64) * ONES;
    let past_z = low_seven + (0x80 - b'Z' as u64 - 1) * ONES;
    let capitals = (from_a ^ past_z) & !word & (0x80 * ONES);
    word | (capitals >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: Seed = Seed(7);

    #[test]
    fn lower_agrees_with_the_standard_library_on_every_byte() {
        for byte in 0..=255u8 {
            let word = u64::from_le_bytes([byte, b'x', byte, b'Z', 0, byte, 0xff, byte]);
            let expected = word.to_le_bytes().map(|b| b.to_ascii_lowercase());
            assert_eq!(lower(word).to_le_bytes(), expected, "byte {byte}");
        }
    }

    proptest! {
        #[test]
        fn case_of_names_does_not_matter(name in "[a-zA-Z0-9.-]{0,40}") {
            let canonical = name.to_ascii_lowercase();
            prop_assert_eq!(SEED.of_name(name.as_bytes()), SEED.of_name(canonical.as_bytes()));
            prop_assert!(spells(canonical.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn spells_is_equality_without_case(a in "[a-b.]{0,10}", b in "[a-bA-B.]{0,10}") {
            let equal = a.as_bytes().eq_ignore_ascii_case(b.as_bytes());
            prop_assert_eq!(spells(a.as_bytes(), b.as_bytes()), equal);
        }
    }

    /// Goal: numbered hosts, the usual fixture and the usual cluster, spread like random ones.
    /// Method: 4,096 names into 256 cells by either end of the hash; 16 a cell are expected, and
    /// even the fullest of 256 fair cells stays below 40.
    #[test]
    fn numbered_names_spread() {
        for shift in [0, 56] {
            let mut cells = [0u32; 256];
            for number in 0..4_096 {
                let hash = SEED.of_name(format!("app-{number}.example.com").as_bytes());
                cells[usize::try_from((hash >> shift) & 0xff).unwrap()] += 1;
            }
            assert!(cells.iter().all(|&n| n > 0 && n < 40), "shift {shift}: {cells:?}");
        }
    }

    #[test]
    fn length_and_seed_are_part_of_the_hash() {
        assert_ne!(SEED.of_name(b"a"), SEED.of_name(b"a\0"));
        assert_ne!(SEED.of_name(b"a"), Seed(8).of_name(b"a"));
        assert_ne!(SEED.of_path(b"/A"), SEED.of_path(b"/a"));
    }
}
