//! The conformance suite over each world, and what only one of them can suffer.

use crate::conformance::*;
use crate::*;
use std::path::{Path, PathBuf};

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
    counters_lose_nothing(&[store.clone()], 20).await;
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
