//! How a process hears of the others' commits: notifications, and a look once a second for those that were missed.
//!
//! Deliberately absent: meaning in a notification. It moves the head, and watches look for themselves.

use sqlx::postgres::{PgListener, PgPool};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How late a missed notification is noticed at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so long a silence it listens anew: a connection can be dead without a word.
const SILENCE: Duration = Duration::from_secs(30);
/// Between attempts to listen again.
const RETRY: Duration = Duration::from_millis(250);

/// Where commits into this schema are told.
pub(super) fn channel(schema: &str) -> String {
    format!("{schema}_revision")
}

/// Moves the head forward. Never back: notifications can come after newer news.
pub(super) fn raise(head: &watch::Sender<u64>, revision: u64) {
    head.send_if_modified(|now| {
        let newer = revision > *now;
        *now = revision.max(*now);
        newer
    });
}

/// Two tasks, to be aborted when the store is closed.
pub(super) fn start(
    ear: PgPool,
    readers: super::Readers,
    channel: String,
    head: watch::Sender<u64>,
) -> [AbortHandle; 2] {
    let heard = head.clone();
    let listening = tokio::spawn(async move {
        loop {
            if let Err(error) = listen(&ear, &channel, &heard).await {
                tracing::debug!(%error, "listening for commits failed");
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    let looking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match readers.revision().await {
                // Back as well: a database put back to an older state must wake its watches too.
                Ok(revision) => {
                    head.send_if_modified(|now| std::mem::replace(now, revision) != revision);
                }
                Err(error) => tracing::debug!(%error, "looking for commits failed"),
            }
        }
    });
    [listening.abort_handle(), looking.abort_handle()]
}

async fn listen(ear: &PgPool, channel: &str, head: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(ear).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    // None = the connection was lost; what was missed, the look finds.
    while let Ok(told) = tokio::time::timeout(SILENCE, listener.try_recv()).await {
        let Some(told) = told? else { break };
        if let Ok(revision) = told.payload().parse() {
            raise(head, revision);
        }
    }
    Ok(())
}
