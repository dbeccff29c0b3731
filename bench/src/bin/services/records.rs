//! The store: commits of one record with its version checked, by one writer and by sixteen.
//!
//! Deliberately absent: reads; one is a single indexed lookup.

use std::sync::Arc;
use std::time::Instant;

use store::{Expect, Store, Write};
use tokio::sync::Mutex;

use crate::row::{Report, Row};

/// Bytes of a value: about a job record.
const VALUE_BYTES: usize = 1_500;

pub(crate) async fn run(report: &mut Report, postgres: Option<&str>) {
    if !report.wants("store commit") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("bench-store-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let sqlite =
        store::sqlite::open(&folder.join("bench.db")).await.expect("a new file can be opened");
    both(report, "SQLite file, durable", &sqlite).await;
    drop(sqlite);
    drop(std::fs::remove_dir_all(&folder));
    if let Some(url) = postgres {
        let store = store::postgres::connect(url, store::postgres::PostgresConf::default()).await;
        both(report, "PostgreSQL", &store.expect("PostgreSQL answers")).await;
    }
}

async fn both(report: &mut Report, world: &str, store: &Store) {
    for writers in [1, 16] {
        let row = Arc::new(Mutex::new(Row::begin()));
        let time = report.time();
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (store, row) = (store.clone(), Arc::clone(&row));
                tokio::spawn(async move {
                    let key = format!("bench/{writers}/{writer}");
                    let mut version =
                        store.get(&key).await.expect("the store answers").map_or(0, |r| r.version);
                    while row.lock().await.age() < time {
                        let since = Instant::now();
                        let expect =
                            if version == 0 { Expect::Absent } else { Expect::Version(version) };
                        let value = vec![b'x'; VALUE_BYTES].into();
                        let write = Write::Put { key: key.clone(), value, expect };
                        store.commit(&[write]).await.expect("nobody else writes this key");
                        version += 1;
                        row.lock().await.done(since);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a writer does not panic");
        }
        report.print(&format!("store commit, {world}, {writers} writers"), &*row.lock().await);
    }
}
