//! What every world must do, against a model that shares no code with them.
//!
//! Deliberately absent: crashes. Those need a process to kill, and stand in `tests.rs`.

use crate::batch::History;
use crate::*;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds of every wait here.
pub(crate) const WAIT: Duration = Duration::from_secs(30);
/// Small, so that a test reaches it; cuts happen every 256 changes.
pub(crate) const SHORT_HISTORY: History = History { changes_max: 300, bytes_max: u64::MAX };

/// SplitMix64: a replayable run needs nothing better.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below a usize")
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

pub(crate) fn put(key: &str, value: impl Into<Bytes>, expect: Expect) -> Write {
    Write::Put { key: key.into(), value: value.into(), expect }
}

pub(crate) fn delete(key: &str, expect: Expect) -> Write {
    Write::Delete { key: key.into(), expect }
}

/// The next change, or a failed test.
pub(crate) async fn next(watch: &mut dyn Watch) -> Result<Change, StoreError> {
    tokio::time::timeout(WAIT, watch.next()).await.expect("a change in time")
}

/// The model: what the documentation says, in the shortest words.
#[derive(Default)]
struct Model {
    revision: u64,
    records: BTreeMap<String, Record>,
    changes: Vec<Change>,
}

impl Model {
    fn commit(&mut self, writes: &[Write]) -> Result<u64, String> {
        for write in writes {
            let (Write::Put { expect, .. }
            | Write::Delete { expect, .. }
            | Write::Check { expect, .. }) = write;
            let found = self.records.get(write.key()).map_or(0, |r| r.version);
            let wanted = match expect {
                Expect::Any => found,
                Expect::Absent => 0,
                Expect::Version(0) => u64::MAX,
                Expect::Version(version) => *version,
            };
            if wanted != found {
                let key = write.key();
                return Err(format!("{key} is at version {found}, not as expected ({expect:?})"));
            }
        }
        let mut changed = Vec::new();
        for write in writes {
            let before = self.records.get(write.key());
            match write {
                Write::Put { key, value, .. } => {
                    let version = before.map_or(1, |r| r.version + 1);
                    let (key, value) = (key.clone(), value.clone());
                    changed.push((
                        key.clone(),
                        Some(Record { key, value, version, revision: self.revision + 1 }),
                    ));
                }
                Write::Delete { key, .. } if before.is_some() => changed.push((key.clone(), None)),
                _ => {}
            }
        }
        self.revision += u64::from(!changed.is_empty());
        for (key, record) in changed {
            self.changes.push(Change {
                revision: self.revision,
                key: key.clone(),
                record: record.clone(),
            });
            match record {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
        Ok(self.revision)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Listing {
        let all: Vec<&Record> = self
            .records
            .values()
            .filter(|r| r.key.starts_with(prefix) && after.is_none_or(|a| *r.key > *a))
            .collect();
        Listing {
            records: all.iter().take(limit).copied().cloned().collect(),
            revision: self.revision,
            more: all.len() > limit,
        }
    }
}

/// Keys that a careless query would confuse.
const KEYS: [&str; 14] = [
    "a",
    "a/",
    "a/1",
    "a/%",
    "a/_",
    "a/é",
    "a/\u{10FFFF}",
    "a/\0",
    "a0",
    "A/1",
    "b'\";--",
    "b\\",
    "ß",
    "\u{7F}\u{80}",
];
const PREFIXES: [&str; 9] = ["", "a", "a/", "a/%", "a/\u{10FFFF}", "A", "b\\", "\u{7F}", "zz"];

fn random_write(rng: &mut Rng, key: &str, model: &Model) -> Write {
    let found = model.records.get(key).map(|r| r.version);
    // Mostly what holds, so that most transactions succeed.
    let expect = match (rng.below(8), found) {
        (0, _) => Expect::Absent,
        (1, _) => Expect::Version(rng.below(4)),
        (2..5, Some(version)) => Expect::Version(version),
        (2..5, None) => Expect::Absent,
        _ => Expect::Any,
    };
    match (rng.below(6), expect) {
        (0 | 1, Expect::Any | Expect::Version(_)) => delete(key, expect),
        (2, _) => Write::Check { key: key.into(), expect },
        _ => {
            let length = if rng.below(20) == 0 { rng.below(40_000) } else { rng.below(9) };
            put(key, (0..length).map(|i| (i % 251) as u8).collect::<Vec<u8>>(), expect)
        }
    }
}

/// Goal: any sequence of transactions answers, conflicts, lists and is watched as the model says.
pub(crate) async fn like_the_model(store: &Store, seed: u64, steps: usize) {
    let mut rng = Rng(seed);
    let mut model = Model { revision: store.revision().await.unwrap(), ..Model::default() };
    let begin = model.revision;
    let mut early = store.watch("a/", begin).await.unwrap();
    for step in 0..steps {
        let mut writes = Vec::new();
        for key in KEYS {
            if rng.below(5) == 0 {
                writes.push(random_write(&mut rng, key, &model));
            }
        }
        if writes.is_empty() {
            continue;
        }
        let got = store.commit(&writes).await.map_err(|error| error.to_string());
        assert_eq!(got, model.commit(&writes), "seed {seed} step {step}: {writes:?}");
        let prefix = PREFIXES[rng.index(PREFIXES.len())];
        let after = (rng.below(2) == 0).then(|| KEYS[rng.index(KEYS.len())]);
        let limit = 1 + rng.index(6);
        let listing = store.list(prefix, after, u32::try_from(limit).unwrap()).await.unwrap();
        let wanted = model.list(prefix, after, limit);
        assert_eq!(listing, wanted, "seed {seed} step {step}: list {prefix:?} {after:?} {limit}");
        let key = KEYS[rng.index(KEYS.len())];
        assert_eq!(store.get(key).await.unwrap().as_ref(), model.records.get(key), "seed {seed}");
    }
    assert_eq!(store.revision().await.unwrap(), model.revision, "seed {seed}");
    for change in model.changes.iter().filter(|c| c.key.starts_with("a/")) {
        assert_eq!(&next(&mut *early).await.unwrap(), change, "seed {seed}: the early watch");
    }
    for prefix in PREFIXES {
        let after = begin + rng.below(model.revision - begin + 1);
        let mut late = store.watch(prefix, after).await.unwrap();
        let wanted =
            model.changes.iter().filter(|c| c.revision > after && c.key.starts_with(prefix));
        for change in wanted {
            assert_eq!(&next(&mut *late).await.unwrap(), change, "seed {seed}: after {after}");
        }
    }
    for key in KEYS {
        store.commit(&[delete(key, Expect::Any)]).await.unwrap();
    }
}

/// Goal: many writers that compare and set lose no step, and a watch sees each step once, in order.
pub(crate) async fn counters_lose_nothing(stores: &[Store], steps: u64) {
    const WRITERS: usize = 8;
    let begin = stores[0].revision().await.unwrap();
    let mut watch = stores[0].watch(&format!("counter/{begin}/"), begin).await.unwrap();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = stores[writer % stores.len()].clone();
            tokio::spawn(async move {
                let mut done = 0;
                while done < steps {
                    let key = format!("counter/{begin}/{}", done % 2);
                    let now = store.get(&key).await.unwrap();
                    let count: u64 = now.as_ref().map_or(0, |r| number(&r.value));
                    let expect = now.map_or(Expect::Absent, |r| Expect::Version(r.version));
                    let write = put(&key, (count + 1).to_string(), expect);
                    match store.commit(&[write]).await {
                        Ok(_) => done += 1,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(WAIT, task).await.expect("in time").unwrap();
    }
    let total = WRITERS as u64 * steps;
    let mut counts = BTreeMap::new();
    let mut last = begin;
    for _ in 0..total {
        let change = next(&mut *watch).await.unwrap();
        assert!(change.revision > last, "{} after {last}", change.revision);
        last = change.revision;
        let count = counts.entry(change.key).or_insert(0);
        *count += 1;
        assert_eq!(number(&change.record.unwrap().value), *count, "each step once, in order");
    }
    assert_eq!(counts.values().sum::<u64>(), total);
    assert_eq!(last, stores[0].revision().await.unwrap(), "nothing after the last");
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Goal: history is bounded; who asks for what is gone is told, at the start or when too slow, and can begin anew.
/// The store was opened with [`SHORT_HISTORY`].
pub(crate) async fn history_ends(store: &Store) {
    let begin = store.revision().await.unwrap();
    let mut slow = store.watch("h/", begin).await.unwrap();
    let writes: Vec<Write> = (0..32).map(|i| put(&format!("h/{i}"), "v", Expect::Any)).collect();
    for _ in 0..40 {
        store.commit(&writes).await.unwrap();
    }
    let head = store.revision().await.unwrap();
    assert!(matches!(next(&mut *slow).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(next(&mut *slow).await, Err(StoreError::Compacted { .. })), "it stays over");
    let oldest = match store.watch("h/", begin).await.map(|_| ()) {
        Err(StoreError::Compacted { asked, oldest }) => {
            assert_eq!(asked, begin);
            oldest
        }
        other => panic!("{other:?}"),
    };
    // At least the bound is kept, at most what is added between two cuts more.
    let kept = (head - oldest + 1) * 32;
    assert!((288..=300 + 2 * 256).contains(&kept), "{kept} changes kept");
    let mut whole = store.watch("", oldest - 1).await.unwrap();
    let change = next(&mut *whole).await.unwrap();
    assert_eq!((change.revision, &*change.key), (oldest, "h/0"), "from a whole revision on");
    assert!(store.watch("", oldest - 2).await.is_err());
    for ahead in [head + 1, u64::MAX] {
        let begun = store.watch("", ahead).await.map(|_| ());
        assert!(matches!(begun, Err(StoreError::Compacted { .. })), "{begun:?} after {ahead}");
    }
    assert!(store.watch("", head).await.is_ok());
}

/// Goal: a wait that is dropped in its middle, while it listens or while it reads, loses nothing.
pub(crate) async fn watches_survive_cancellation(store: &Store) {
    let begin = store.revision().await.unwrap();
    let mut watch = store.watch("c/", begin).await.unwrap();
    for i in 0..20 {
        let mut change = None;
        for attempt in 0..3 {
            if attempt == 1 {
                store.commit(&[put("c/x", i.to_string(), Expect::Any)]).await.unwrap();
            }
            // Polled once, or a little more, then dropped: a read of a database is under way.
            let polls = if change.is_none() { i % 3 } else { 0 };
            for _ in 0..polls {
                let waited = async {
                    tokio::select! {
                        biased;
                        change = watch.next() => Some(change.unwrap()),
                        () = tokio::task::yield_now() => None,
                    }
                };
                change = waited.await;
                if change.is_some() {
                    break;
                }
            }
        }
        let change = match change {
            Some(change) => change,
            None => next(&mut *watch).await.unwrap(),
        };
        assert_eq!(number(&change.record.unwrap().value), i, "each once, in order");
    }
}

/// Goal: large pages and listings come whole, in pieces.
pub(crate) async fn large_values_come_in_pieces(store: &Store) {
    let begin = store.revision().await.unwrap();
    let mut watch = store.watch("large/", begin).await.unwrap();
    for i in 0..3u8 {
        let writes: Vec<Write> = (0..4)
            .map(|j| put(&format!("large/{i}{j}"), vec![i; VALUE_BYTES_MAX], Expect::Absent))
            .collect();
        store.commit(&writes).await.unwrap();
    }
    let page = store.list("large/", None, 100).await.unwrap();
    assert!(page.more && page.records.len() == 8, "{} records", page.records.len());
    let (all, revision) = store.all("large/").await.unwrap();
    assert_eq!((all.len(), revision), (12, begin + 3));
    for record in all {
        let change = next(&mut *watch).await.unwrap();
        assert!(change.record == Some(record), "{}", change.key);
    }
}
