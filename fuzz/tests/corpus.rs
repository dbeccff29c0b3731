//! Every corpus file, and seeded mutations of it, through the same functions that libFuzzer drives.

use std::fs;
use std::path::Path;

/// Mutations per corpus file: a second or two for all, on stable and without instrumentation.
const MUTATIONS: u64 = 1_000;

/// Bytes that matter to one parser or another.
const TRICKS: [&[u8]; 24] = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"/",
    b"?",
    b"#",
    b"\"",
    b"\\",
    b"\x80",
    b"0",
    b"ffffffffffffffff",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: b\r\n",
    b"-",
    b"*",
    b"[::1]",
];

/// SplitMix64: small, seeded, good enough to choose where to cut.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound as u64).expect("below a usize")
    }
}

fn mutate(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let end = (at + rng.below(4)).min(bytes.len());
        match rng.below(4) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, TRICKS[rng.below(TRICKS.len())].iter().copied())),
            2 => bytes.insert(at, u8::try_from(rng.below(256)).expect("a byte")),
            _ => bytes.extend_from_within(at..end),
        }
    }
    bytes
}

/// Goal: no corpus file and no mutation of one breaks a promise. The panic names the bytes.
#[test]
fn corpora_and_their_mutations_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for &(name, body) in fuzz::TARGETS {
        let mut files: Vec<_> = fs::read_dir(root.join(name))
            .unwrap_or_else(|error| panic!("corpus of {name}: {error}"))
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for (index, file) in files.iter().enumerate() {
            let seed = fs::read(file).expect("a readable file");
            body(&seed);
            for round in 0..MUTATIONS {
                let mut rng = Rng(round << 16 | index as u64);
                let bytes = mutate(&seed, &mut rng);
                let outcome = std::panic::catch_unwind(|| body(&bytes));
                assert!(
                    outcome.is_ok(),
                    "{name}: {} mutated in round {round}: {:?}",
                    file.display(),
                    String::from_utf8_lossy(&bytes)
                );
            }
        }
    }
}
