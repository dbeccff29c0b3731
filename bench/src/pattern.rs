//! The bytes that bodies are made of, so that the receiver can check every one of them.
//!
//! Deliberately absent: randomness. A body of any length is a prefix of one fixed block.

use std::sync::OnceLock;

/// Longest body the load tests send, bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// A body of `len` bytes.
///
/// # Panics
/// When `len` exceeds [`BODY_BYTES_MAX`].
pub fn body(len: usize) -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    let block = BLOCK.get_or_init(|| {
        // The step between neighbours changes every 256 bytes: a body shifted, doubled or cut does not match.
        let byte_at = |i: usize| ((i * 7) ^ ((i >> 8) * 31) ^ ((i >> 16) * 11)).to_le_bytes()[0];
        (0..BODY_BYTES_MAX).map(byte_at).collect()
    });
    &block[..len]
}

/// Whether `bytes` are those of a body from position `at` on.
pub fn matches(at: usize, bytes: &[u8]) -> bool {
    at + bytes.len() <= BODY_BYTES_MAX && &body(at + bytes.len())[at..] == bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_matches_only_at_its_own_place() {
        let piece = &body(5_000)[1_000..1_600];
        assert!(matches(1_000, piece));
        for wrong in [0, 999, 1_001, 1_256, 2_000] {
            assert!(!matches(wrong, piece), "matched at {wrong}");
        }
        assert!(!matches(BODY_BYTES_MAX - 1, piece), "beyond the end");
    }
}
