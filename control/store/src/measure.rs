//! Commits per second and their latencies, for the benchmark.
//!
//! Deliberately absent: judgement. Numbers of one machine are compared with numbers of the same machine.

use crate::{Expect, Store, StoreError, Write};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a value as a job record has them.
const VALUE_BYTES: usize = 1_000;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Commits {
    /// Acknowledged commits in a second, of all writers together.
    pub per_second: f64,
    /// Half of the commits took at most this.
    pub p50: Duration,
    /// All but one of a hundred took at most this.
    pub p99: Duration,
}

/// Lets `writers` commit one record each, one after the other, for a while.
pub async fn commits(store: &Store, writers: usize, span: Duration) -> Result<Commits, StoreError> {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begin.elapsed() < span {
                    let key = format!("measure/{writer}/{}", took.len() % 100);
                    let value = vec![b'x'; VALUE_BYTES].into();
                    let before = Instant::now();
                    store.commit(&[Write::Put { key, value, expect: Expect::Any }]).await?;
                    took.push(before.elapsed());
                }
                Ok::<_, StoreError>(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        let one = task.await.map_err(|error| StoreError::Away(error.to_string()))?;
        took.extend(one?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a rate for humans")]
    let per_second = took.len() as f64 / seconds;
    Ok(Commits { per_second, p50: at(50), p99: at(99) })
}
