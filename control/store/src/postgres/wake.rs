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

/// Moves the head to what a look found that began when it stood at `before`. Back as well: a database put back to an
/// older state must wake its watches too. But not when the head moved meanwhile: then the look is what is old, and a watch
/// that was just woken would find nothing to read until the next one.
fn looked(head: &watch::Sender<u64>, before: u64, revision: u64) {
    head.send_if_modified(|now| {
        let news = revision > *now || (revision < *now && *now == before);
        if news {
            *now = revision;
        }
        news
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
            let before = *head.borrow();
            match readers.revision().await {
                Ok(revision) => looked(&head, before, revision),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a look that was overtaken by a commit does not take the head back; one that was not, does.
    #[test]
    fn an_old_look_is_no_way_back() {
        let (head, _) = watch::channel(7);
        raise(&head, 8);
        looked(&head, 7, 7);
        assert_eq!(*head.borrow(), 8, "8 was committed while the look was under way");
        looked(&head, 8, 9);
        assert_eq!(*head.borrow(), 9);
        looked(&head, 9, 3);
        assert_eq!(*head.borrow(), 3, "the database was put back");
    }
}
