//! The world inside one process: a message is handed to its listeners while it is published.
//!
//! Deliberately absent: loss on the way, order games and time; the simulated world has them.

use crate::queue::Queue;
use crate::subject::{Group, Table, check_message, check_pattern};
use crate::{BusError, Incoming, RawMessage, RawSubscription, World};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Everybody in this process who was given the same one.
pub struct Local {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: RwLock<Table<Arc<Queue>>>,
    inbox: AtomicU64,
}

impl Local {
    /// A world of its own.
    #[expect(clippy::new_ret_no_self, reason = "a world is only used through its trait")]
    #[must_use]
    pub fn new() -> Arc<dyn World> {
        Arc::new(Self { shared: Arc::default() })
    }
}

impl Shared {
    fn listen(self: &Arc<Self>, pattern: &str, group: Option<&str>, queue: Queue) -> Listening {
        let queue = Arc::new(queue);
        let id = self.write().insert(pattern, group, Arc::clone(&queue));
        Listening { shared: Arc::clone(self), pattern: pattern.to_owned(), id, queue }
    }

    /// How many were reached.
    fn deliver(&self, message: &RawMessage) -> usize {
        let mut reached = 0;
        let mut groups: Vec<&Group<Arc<Queue>>> = Vec::new();
        let table = self.read();
        table.visit(&message.subject, &mut |leaf| {
            for (_, queue) in &leaf.plain {
                queue.push(message.clone());
            }
            reached += leaf.plain.len();
            groups.extend(&leaf.groups);
        });
        // A group is one by its name, also over several patterns that match.
        for (index, group) in groups.iter().enumerate() {
            if groups[..index].iter().any(|earlier| earlier.name == group.name) {
                continue;
            }
            let members = || {
                let same = groups[index..].iter().filter(|other| other.name == group.name);
                same.flat_map(|group| &group.members)
            };
            let turn = group.turn() % members().count();
            if let Some((_, queue)) = members().nth(turn) {
                queue.push(message.clone());
                reached += 1;
            }
        }
        reached
    }

    fn read(&self) -> RwLockReadGuard<'_, Table<Arc<Queue>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table<Arc<Queue>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl World for Local {
    async fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        reply: Option<&str>,
    ) -> Result<(), BusError> {
        check_message(subject, payload.len())?;
        // Publishing never waits, so a task that publishes in a loop must let its listeners run.
        tokio::task::coop::consume_budget().await;
        let reply = reply.map(str::to_owned);
        self.shared.deliver(&RawMessage { subject: subject.to_owned(), reply, payload });
        Ok(())
    }

    async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        check_pattern(pattern, group)?;
        Ok(Box::new(self.shared.listen(pattern, group, Queue::new(capacity))))
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        count: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        check_message(subject, payload.len())?;
        tokio::task::coop::consume_budget().await;
        let inbox = format!("_INBOX.{}", self.shared.inbox.fetch_add(1, Ordering::Relaxed));
        let listening = self.shared.listen(&inbox, None, Queue::of_answers(count));
        let message = RawMessage { subject: subject.to_owned(), reply: Some(inbox), payload };
        if self.shared.deliver(&message) == 0 {
            listening.queue.nobody();
        }
        Ok(Box::new(listening))
    }
}

/// A place in the table, and the queue behind it.
struct Listening {
    shared: Arc<Shared>,
    pattern: String,
    id: u64,
    queue: Arc<Queue>,
}

#[async_trait]
impl RawSubscription for Listening {
    async fn next(&mut self) -> Option<Incoming> {
        self.queue.next().await
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.shared.write().remove(&self.pattern, self.id);
    }
}
