//! The conformance suite over each world, and what only one of them can suffer.

use crate::conformance::*;
use crate::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("store-{name}-{}", std::process::id()));
        // Left over from a killed run with the same process id.
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("store.db")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn suite(store: &Store) {
    for seed in 0..6 {
        like_the_model(store, seed, 60).await;
    }
    counters_lose_nothing(std::slice::from_ref(store), 20).await;
    watches_survive_cancellation(store).await;
    large_values_come_in_pieces(store).await;
}

#[tokio::test]
async fn memory_conforms() {
    suite(&memory::store()).await;
    history_ends(&memory::with(SHORT_HISTORY)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_in_memory_conforms() {
    suite(&sqlite::in_memory().await.unwrap()).await;
    history_ends(&sqlite::in_memory_with(SHORT_HISTORY).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_file_conforms() {
    let dir = Dir::new("suite");
    suite(&sqlite::open(&dir.file()).await.unwrap()).await;
    history_ends(&sqlite::open_with(&dir.0.join("short.db"), SHORT_HISTORY).await.unwrap()).await;
}

/// Goal: closed and opened again, everything is there, history too.
#[tokio::test]
async fn a_file_keeps_everything() {
    let dir = Dir::new("keeps");
    let store = sqlite::open(&dir.file()).await.unwrap();
    store.commit(&[put("k", "1", Expect::Absent)]).await.unwrap();
    store.commit(&[put("k", "2", Expect::Version(1))]).await.unwrap();
    drop(store);
    let store = sqlite::open(&dir.file()).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap().version, 2);
    let mut watch = store.watch("", 0).await.unwrap();
    assert_eq!(&next(&mut *watch).await.unwrap().record.unwrap().value[..], b"1");
    assert_eq!(&next(&mut *watch).await.unwrap().record.unwrap().value[..], b"2");
}

fn text_of<T>(result: Result<T, StoreError>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

/// Goal: a file in use, a file of a newer program and a file that is none are refused in words.
#[tokio::test]
async fn unusable_files_are_refused() {
    let dir = Dir::new("refused");
    let store = sqlite::open(&dir.file()).await.unwrap();
    let said = text_of(sqlite::open(&dir.file()).await);
    let pid = std::process::id();
    assert!(said.contains(&format!("is open in another process (pid {pid})")), "{said}");
    drop(store);

    let pool = sqlx::SqlitePool::connect_lazy_with(
        sqlx::sqlite::SqliteConnectOptions::new().filename(dir.file()),
    );
    sqlx::query("INSERT INTO store_schema VALUES (99)").execute(&pool).await.unwrap();
    pool.close().await;
    let said = text_of(sqlite::open(&dir.file()).await);
    assert!(said.contains("its schema is at version 99 and this program knows only"), "{said}");

    let strange = dir.0.join("strange.db");
    std::fs::write(&strange, vec![b'x'; 8_192]).unwrap();
    let said = sqlite::open(&strange).await.map(|_| ());
    assert!(matches!(said, Err(StoreError::Unusable(_))), "{said:?}");
    let nowhere = sqlite::open(Path::new("/nonexistent/store.db")).await.map(|_| ());
    assert!(matches!(nowhere, Err(StoreError::Unusable(_))), "{nowhere:?}");
}

fn conf(schema: &str) -> postgres::PostgresConf {
    postgres::PostgresConf { schema: schema.into(), ..postgres::PostgresConf::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_conforms() {
    let Some(server) = ::tests::Postgres::start("suite") else { return };
    // Eight at once make the schema: one does it, none fails.
    let url = server.url();
    let opening = (0..8).map(|_| postgres::connect(&url, conf("suite")));
    let stores = futures_util::future::try_join_all(opening).await.unwrap();
    suite(&stores[0]).await;
    counters_lose_nothing(&stores, 10).await;
    drop(stores);
    let short = postgres::connect_with(&server.url(), conf("short"), SHORT_HISTORY).await;
    history_ends(&short.unwrap()).await;

    let pool = sqlx::PgPool::connect(&server.url()).await.unwrap();
    sqlx::query("INSERT INTO short.store_schema VALUES (99)").execute(&pool).await.unwrap();
    let said = text_of(postgres::connect(&server.url(), conf("short")).await);
    assert!(said.contains("its schema is at version 99 and this program knows only"), "{said}");
    // A database put back to an older state: its watches are told.
    let back = postgres::connect(&server.url(), conf("back")).await.unwrap();
    let head = back.commit(&[put("k", "1", Expect::Any)]).await.unwrap();
    let mut watch = back.watch("", head).await.unwrap();
    sqlx::query("UPDATE back.state SET revision = 0").execute(&pool).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Err(StoreError::Compacted { .. })));
    let said = text_of(postgres::connect(&server.url(), conf("x; drop")).await);
    assert!(said.contains("is not 1 to 63 of a-z, 0-9 and _"), "{said}");
    let nowhere = format!("{}_none", server.url());
    let said = postgres::connect(&nowhere, conf("x")).await.map(|_| ());
    assert!(matches!(said, Err(StoreError::Unusable(_))), "{said:?}");
}

/// Goal: a killed server is away to callers, loses nothing acknowledged, and watches go on without a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_loses_nothing() {
    let Some(mut server) = ::tests::Postgres::start("kill") else { return };
    let quick = postgres::PostgresConf { connect_timeout: Duration::from_millis(300), ..conf("k") };
    let store = postgres::connect(&server.url(), quick.clone()).await.unwrap();
    let other = postgres::connect(&server.url(), quick).await.unwrap();
    let mut watch = other.watch("k/", 0).await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let (tell, mut told) = tokio::sync::mpsc::channel(1_024);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (store, tell) = (store.clone(), tell.clone());
                tokio::spawn(async move {
                    for i in 0.. {
                        let key = format!("k/{round}/{writer}/{i}");
                        let both = [
                            put(&key, "1", Expect::Absent),
                            put(&(key + "b"), "2", Expect::Absent),
                        ];
                        match store.commit(&both).await {
                            Ok(revision) => tell.send((revision, writer, i)).await.unwrap(),
                            Err(StoreError::Away(_)) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        drop(tell);
        while acknowledged.len() < (round + 1) * 100 {
            let (revision, writer, i) = told.recv().await.unwrap();
            acknowledged.push((revision, format!("k/{round}/{writer}/{i}")));
        }
        server.kill();
        while let Some((revision, writer, i)) = told.recv().await {
            acknowledged.push((revision, format!("k/{round}/{writer}/{i}")));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(matches!(store.get("k").await, Err(StoreError::Away(_))));
        server.again();
    }
    // The same handles, without being opened again.
    let last = store.commit(&[put("k/end", "", Expect::Absent)]).await.unwrap();
    let mut seen = std::collections::BTreeMap::new();
    let mut before = 0;
    loop {
        let change = next(&mut *watch).await.unwrap();
        assert!(change.revision >= before, "in order");
        before = change.revision;
        assert_eq!(seen.insert(change.key, change.revision), None, "once");
        if change.revision == last {
            break;
        }
    }
    for (revision, key) in &acknowledged {
        assert_eq!(seen.get(key), Some(revision), "{key} was acknowledged");
        assert_eq!(store.get(key).await.unwrap().unwrap().revision, *revision);
    }
    for (key, revision) in seen.iter().filter(|(key, _)| !key.ends_with("end")) {
        let whole = key.strip_suffix('b').map_or_else(|| format!("{key}b"), str::to_owned);
        assert_eq!(seen.get(&whole), Some(revision), "{key} is half of a transaction");
    }
}

/// Goal: a server that stands still, with its connections open, is away within a bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_postgres_is_away() {
    let Some(server) = ::tests::Postgres::start("frozen") else { return };
    let quick = postgres::PostgresConf {
        connect_timeout: Duration::from_millis(300),
        answer_timeout: Duration::from_millis(300),
        ..conf("f")
    };
    let store = postgres::connect(&server.url(), quick).await.unwrap();
    store.commit(&[put("k", "1", Expect::Any)]).await.unwrap();
    server.freeze();
    let read = tokio::time::timeout(WAIT, store.get("k")).await.expect("an answer in time");
    assert!(matches!(read, Err(StoreError::Away(_))), "{read:?}");
    let write = [put("k", "2", Expect::Version(1))];
    let written =
        tokio::time::timeout(WAIT, store.commit(&write)).await.expect("an answer in time");
    assert!(matches!(written, Err(StoreError::Away(_))), "{written:?}");
    server.thaw();
    // The server's own end of that transaction may come a moment later.
    let again = async {
        loop {
            match store.commit(&write).await {
                Ok(_) => return store.get("k").await.unwrap().unwrap(),
                Err(StoreError::Away(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let now = tokio::time::timeout(WAIT, again).await.expect("back in time");
    assert_eq!((now.version, &now.value[..]), (2, &b"2"[..]));
}

/// Set for the process that the test below kills: the file to write to.
const VICTIM: &str = "STORE_TEST_VICTIM";

/// Not a test by itself: with [`VICTIM`] set, it commits until it is killed and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    use std::io::Write as _;
    let Some(file) = std::env::var_os(VICTIM) else { return };
    let store = sqlite::open(Path::new(&file)).await.unwrap();
    let begin = store.revision().await.unwrap();
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0.. {
                let key = format!("{begin}/{writer}/{i}");
                let both =
                    [put(&key, "1", Expect::Absent), put(&format!("{key}b"), "2", Expect::Absent)];
                let revision = store.commit(&both).await.unwrap();
                // One write call: a line is there whole, or not at all.
                std::io::stderr().write_all(format!("ack {revision} {key}\n").as_bytes()).unwrap();
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

/// Goal: kill -9 in the middle of writes: everything acknowledged is there, and nothing half.
#[tokio::test]
async fn a_killed_process_loses_nothing() {
    use std::io::{BufRead, BufReader};
    let dir = Dir::new("killed");
    let mut acknowledged = Vec::new();
    for round in 1..=3 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::victim", "--nocapture"])
            .env(VICTIM, dir.file())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(victim.stderr.take().unwrap()).lines() {
            if let Some((revision, key)) =
                line.unwrap().strip_prefix("ack ").and_then(|line| line.split_once(' '))
            {
                acknowledged.push((revision.parse::<u64>().unwrap(), key.to_owned()));
            }
            // The pipe is read to its end: what it still holds was acknowledged too.
            if acknowledged.len() == round * 100 {
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
    }
    assert!(acknowledged.len() >= 300);
    let store = sqlite::open(&dir.file()).await.unwrap();
    for (revision, key) in &acknowledged {
        let record = store.get(key).await.unwrap();
        assert_eq!(record.map(|r| r.revision), Some(*revision), "{key} was acknowledged");
    }
    let (all, revision) = store.all("").await.unwrap();
    assert_eq!(all.len() as u64, 2 * revision, "each revision has its two records");
    let mut watch = store.watch("", 0).await.unwrap();
    for place in 0..2 * revision {
        assert_eq!(next(&mut *watch).await.unwrap().revision, place / 2 + 1, "history is whole");
    }
}
