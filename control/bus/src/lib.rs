//! Messages between services: publish, subscribe, queue groups, request with one reply or many.
//!
//! One trait, three worlds: in one process, NATS, simulated. Services hold a [`Bus`]: it knows who sends, wraps each
//! body in an [`Envelope`], and reads the envelopes of others. Delivery is at most once, as on core NATS: whoever must
//! not miss a message numbers it and asks again.
//!
//! Deliberately absent: persistence, and signatures: the envelope has their place, identities come later.

mod clock;
mod envelope;
pub mod local;
pub mod nats;
mod queue;
pub mod sim;
mod subject;
mod world;

pub use clock::Clock;
pub use envelope::{Delivery, Envelope, MESSAGE_BYTES_MAX, Sender};
pub use subject::{SUBJECT_BYTES_MAX, SUBJECT_TOKENS_MAX};
pub use world::{BusError, Incoming, RawMessage, RawSubscription, SUBSCRIPTION_CAPACITY, World};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// A sender on the bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    world: Arc<dyn World>,
    sender: Arc<Sender>,
    clock: Clock,
    marks: Arc<Marks>,
}

/// What all clones of one bus share.
struct Marks {
    /// The first id; those that follow count up from it.
    first_id: u128,
    ids: AtomicU64,
    unreadable: AtomicU64,
}

impl Marks {
    /// Version and variant of a random id stay, its low 62 bits count: unique, without asking the system each time.
    fn next_id(&self) -> Uuid {
        const COUNTING: u128 = (1 << 62) - 1;
        let count = u128::from(self.ids.fetch_add(1, Ordering::Relaxed));
        let low = self.first_id.wrapping_add(count) & COUNTING;
        Uuid::from_u128((self.first_id & !COUNTING) | low)
    }
}

/// When a request with many replies is over.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// After so many replies.
    pub count: usize,
    /// After this time, with what has come.
    pub deadline: Duration,
}

impl Bus {
    /// A bus on `world`, speaking as `sender`.
    pub fn new(world: Arc<dyn World>, sender: Sender, clock: Clock) -> Self {
        let first_id = world.first_id().as_u128();
        let marks = Marks { first_id, ids: AtomicU64::new(0), unreadable: AtomicU64::new(0) };
        Self { world, sender: Arc::new(sender), clock, marks: Arc::new(marks) }
    }

    /// The same world, another speaker.
    #[must_use]
    pub fn speaking_as(&self, sender: Sender) -> Self {
        Self { sender: Arc::new(sender), ..self.clone() }
    }

    /// The clock of everybody who uses this bus.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Who speaks.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Sends to everybody who listens; nobody may.
    pub async fn publish<T: Serialize + Sync>(
        &self,
        subject: &str,
        body: &T,
    ) -> Result<(), BusError> {
        let payload = self.seal(body)?;
        self.world.publish(subject, payload, None).await
    }

    /// Listens to `pattern` (`*` = one token, `>` at the end = all that follow), one of `group` if given. The queue holds
    /// [`SUBSCRIPTION_CAPACITY`] messages; what does not fit is counted and told as [`Incoming::Lost`].
    pub async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
    ) -> Result<Subscription, BusError> {
        let raw = self.world.subscribe(pattern, group, SUBSCRIPTION_CAPACITY).await?;
        Ok(Subscription { raw, bus: self.clone() })
    }

    /// Asks, and takes the first answer. Nobody there is told at once where the world knows it. The timeout is for all
    /// of it, sending included.
    pub async fn request<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        subject: &str,
        body: &T,
        timeout: Duration,
    ) -> Result<R, BusError> {
        let payload = self.seal(body)?;
        let asked = async {
            let mut replies = self.world.request(subject, payload, 1).await?;
            loop {
                match replies.next().await {
                    Some(Incoming::Message(raw)) => return self.open(raw)?.decode(),
                    // The connection broke; who answers later than that still reaches us.
                    Some(Incoming::Lost(_)) => {}
                    Some(Incoming::NoResponders) => {
                        return Err(BusError::NoResponders { subject: subject.to_owned() });
                    }
                    None => return Err(BusError::Closed),
                }
            }
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(BusError::TimedOut { subject: subject.to_owned(), after: timeout }),
        }
    }

    /// Asks everybody; the answers as they come, until `until` says that it is over.
    pub async fn request_many<T: Serialize + Sync>(
        &self,
        subject: &str,
        body: &T,
        until: Until,
    ) -> Result<Replies, BusError> {
        let payload = self.seal(body)?;
        let deadline = tokio::time::Instant::now() + until.deadline;
        let asked = self.world.request(subject, payload, until.count);
        let raw = tokio::time::timeout_at(deadline, asked).await.map_err(|_| {
            BusError::TimedOut { subject: subject.to_owned(), after: until.deadline }
        })??;
        Ok(Replies { raw, bus: self.clone(), left: until.count, deadline, nobody: false })
    }

    /// All answers of [`Bus::request_many`] at once; an answer that cannot be read is counted in the log and left out.
    pub async fn gather<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        subject: &str,
        body: &T,
        until: Until,
    ) -> Result<Vec<R>, BusError> {
        let mut replies = self.request_many(subject, body, until).await?;
        let mut all = Vec::new();
        while let Some(reply) = replies.next().await {
            match reply.decode() {
                Ok(body) => all.push(body),
                Err(mistake) => tracing::warn!(subject, %mistake, "an answer was not understood"),
            }
        }
        Ok(all)
    }

    /// Messages whose envelope could not be read, by everybody who has this bus from the same [`Bus::new`].
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.marks.unreadable.load(Ordering::Relaxed)
    }

    fn seal<T: Serialize>(&self, body: &T) -> Result<Bytes, BusError> {
        Envelope::seal_as(self.marks.next_id(), &self.sender, self.clock.unix_ms(), body)
    }

    /// Opens a message, or counts it. The log has the 1st, 2nd, 4th, 8th…: who sends rubbish may send a lot of it.
    fn open(&self, raw: RawMessage) -> Result<Delivery, BusError> {
        Delivery::open(raw, self).inspect_err(|mistake| {
            let count = self.marks.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_power_of_two() {
                tracing::warn!(%mistake, count, "a message was dropped");
            }
        })
    }
}

/// Messages of one subscription, envelopes opened.
pub struct Subscription {
    raw: Box<dyn RawSubscription>,
    bus: Bus,
}

/// What a subscription yields.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart at once, never kept in numbers")]
pub enum Next {
    /// A message.
    Message(Delivery),
    /// So many messages did not fit into the queue (or were dropped with the connection; then 0): ask for the whole.
    Lost(u64),
}

impl Subscription {
    /// The next message; none when the bus is closed for good. Envelopes that cannot be read are dropped and
    /// counted. Cancel-safe.
    pub async fn next(&mut self) -> Option<Next> {
        loop {
            match self.raw.next().await? {
                Incoming::Lost(count) => return Some(Next::Lost(count)),
                Incoming::NoResponders => {}
                Incoming::Message(raw) => {
                    if let Ok(delivery) = self.bus.open(raw) {
                        return Some(Next::Message(delivery));
                    }
                }
            }
        }
    }
}

/// Answers to one question.
pub struct Replies {
    raw: Box<dyn RawSubscription>,
    bus: Bus,
    left: usize,
    deadline: tokio::time::Instant,
    nobody: bool,
}

impl Replies {
    /// The next answer; none when count or deadline is reached, or nobody is there. An answer that cannot be read counts,
    /// but is not shown. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        while self.left > 0 {
            let incoming = tokio::time::timeout_at(self.deadline, self.raw.next()).await.ok()??;
            match incoming {
                Incoming::NoResponders => {
                    self.nobody = true;
                    self.left = 0;
                }
                Incoming::Lost(count) => tracing::warn!(count, "answers were lost"),
                Incoming::Message(raw) => {
                    self.left -= 1;
                    if let Ok(delivery) = self.bus.open(raw) {
                        return Some(delivery);
                    }
                }
            }
        }
        None
    }

    /// Whether it was over because nobody listened; known once [`Replies::next`] gave none.
    #[must_use]
    pub fn nobody(&self) -> bool {
        self.nobody
    }

    /// Moves the end, for instance to a short while after the first answer.
    pub fn end_at(&mut self, deadline: tokio::time::Instant) {
        self.deadline = deadline;
    }
}
