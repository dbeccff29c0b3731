//! The way of a transaction to the one writer of a world: a bounded queue, answered one by one, applied in batches.
//!
//! A caller that stops waiting does not stop its transaction: once queued it is done or fails whole.
//!
//! Deliberately absent: retries. Only the world knows whether something was sent.

use crate::{StoreError, Write};
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

/// Transactions that may wait; further callers wait for room.
const QUEUE_MAX: usize = 1_024;
/// Transactions in one batch.
const BATCH_TRANSACTIONS_MAX: usize = 128;
/// Bytes of values after which a batch takes no further transaction.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A transaction that waits.
pub(crate) struct Waiting {
    writes: Vec<Write>,
    answer: oneshot::Sender<Result<u64, StoreError>>,
}

/// Where transactions go.
#[derive(Clone)]
pub(crate) struct Queue(mpsc::Sender<Waiting>);

impl Queue {
    /// Queues and waits for the answer.
    pub(crate) async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        crate::bounds::writes(writes)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { writes: writes.to_vec(), answer };
        let ended = || StoreError::Away("its writer has ended".into());
        self.0.send(waiting).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// Writes batches into a database.
#[async_trait]
pub(crate) trait Apply: Send + 'static {
    /// All of them decided and durable, or an error for all of them.
    async fn apply(
        &mut self,
        transactions: &[&[Write]],
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError>;

    /// There will be no more.
    async fn end(self);
}

/// A queue, and the task that empties it until every clone of the queue is gone.
pub(crate) fn start(mut apply: impl Apply) -> Queue {
    let (queue, mut waiting) = mpsc::channel(QUEUE_MAX);
    // Not awaited by anybody: it ends with the last handle of the store, or with the runtime.
    drop(tokio::spawn(async move {
        while let Some(first) = waiting.recv().await {
            let batch = gather(first, &mut waiting);
            let transactions: Vec<&[Write]> = batch.iter().map(|w| &*w.writes).collect();
            let answers = apply.apply(&transactions).await;
            answer(batch, answers);
        }
        apply.end().await;
    }));
    Queue(queue)
}

/// What waits already, within the bounds of a batch. Never waits for more: the flush of the batch before was the wait.
fn gather(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Vec<Waiting> {
    let mut bytes = bytes_of(&first);
    let mut batch = vec![first];
    while batch.len() < BATCH_TRANSACTIONS_MAX && bytes < BATCH_BYTES_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += bytes_of(&next);
        batch.push(next);
    }
    batch
}

fn bytes_of(waiting: &Waiting) -> usize {
    let value = |write: &Write| match write {
        Write::Put { value, .. } => value.len(),
        Write::Delete { .. } | Write::Check { .. } => 0,
    };
    waiting.writes.iter().map(value).sum()
}

fn answer(batch: Vec<Waiting>, answers: Result<Vec<Result<u64, StoreError>>, StoreError>) {
    let answers = answers.unwrap_or_else(|error| {
        tracing::warn!(%error, transactions = batch.len(), "a batch of transactions failed");
        batch.iter().map(|_| Err(error.again())).collect()
    });
    debug_assert_eq!(batch.len(), answers.len(), "an answer for each");
    for (waiting, answer) in batch.into_iter().zip(answers) {
        // A caller that has gone does not want to know.
        drop(waiting.answer.send(answer));
    }
}
