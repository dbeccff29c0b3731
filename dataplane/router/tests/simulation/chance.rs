//! Chance for the actors of a life: a small generator, so that one seed replays everything.
//!
//! Deliberately absent: the network's own chances, which the simulated world draws from the same seed.

use std::time::Duration;

/// splitmix64: the same everywhere, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// A stream of its own for each pair of seed and name.
    pub(crate) fn new(seed: u64, name: u64) -> Self {
        let mut chance = Self(seed ^ name.wrapping_mul(0xd134_2543_de82_ef95));
        chance.next();
        chance
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is above zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub(crate) fn millis(&mut self, low: usize, high: usize) -> Duration {
        Duration::from_millis(self.between(low, high) as u64)
    }

    /// A length of a body: mostly small, sometimes beyond every buffer and the threshold of splice.
    pub(crate) fn body_len(&mut self) -> usize {
        match self.below(20) {
            0 | 1 => 0,
            2..=11 => self.between(1, 600),
            12..=15 => self.between(601, 20_000),
            16 | 17 => self.between(20_001, 90_000),
            18 => self.between(90_001, 200_000),
            _ => self.between(200_001, 400_000),
        }
    }
}

/// The body that belongs to a number: bytes that name their place, so that a hole, a swap or a stranger shows.
pub(crate) fn body(number: u64, len: usize) -> Vec<u8> {
    body_part(number, 0, len)
}

/// `len` bytes of it from `at` on.
pub(crate) fn body_part(number: u64, at: usize, len: usize) -> Vec<u8> {
    let skip = at % WORD;
    let words = (at / WORD..).take((skip + len).div_ceil(WORD));
    let mut bytes = Vec::with_capacity(skip + len + WORD);
    for word in words {
        let mixed = number.wrapping_mul(0x9e37_79b9) ^ word as u64;
        bytes.extend_from_slice(&mixed.wrapping_mul(0xff51_afd7_ed55_8ccd).to_le_bytes());
    }
    bytes.truncate(skip + len);
    bytes.drain(..skip);
    bytes
}

const WORD: usize = 8;

/// Where `bytes`, from `at` on, are not those of the number's body.
pub(crate) fn stranger(number: u64, at: usize, bytes: &[u8]) -> Option<usize> {
    let wanted = body_part(number, at, bytes.len());
    if wanted == bytes {
        return None;
    }
    wanted.iter().zip(bytes).position(|(wanted, got)| wanted != got).map(|place| at + place)
}
