//! The trait behind which the worlds differ: raw bytes on subjects.
//!
//! Deliberately absent: envelopes and JSON; they are the same in every world.

use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;
use uuid::Uuid;

/// Messages that wait in one subscription; more are counted as lost.
pub const SUBSCRIPTION_CAPACITY: usize = 16_384;

/// Why the bus did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody listens on the subject.
    #[error("nobody answers on {subject}")]
    NoResponders {
        /// Asked here.
        subject: String,
    },
    /// No answer in time.
    #[error("no answer on {subject} within {after:?}")]
    TimedOut {
        /// Asked here.
        subject: String,
        /// Waited so long.
        after: Duration,
    },
    /// The connection is gone and will not come back by itself, or the world was closed.
    #[error("the bus is closed")]
    Closed,
    /// The connection is gone for now.
    #[error("the bus is away: {0}")]
    Away(String),
    /// Larger than a message may be.
    #[error(
        "a message of {bytes} bytes is larger than {} bytes",
        crate::envelope::MESSAGE_BYTES_MAX
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A subject or pattern that cannot be.
    #[error("\"{0}\" is not a subject")]
    Subject(String),
    /// What arrived is not what was agreed.
    #[error("a message on {subject} was not understood: {why}")]
    Decode {
        /// Arrived here.
        subject: String,
        /// The parser's words.
        why: String,
    },
    /// A body that is no JSON.
    #[error("a message could not be written: {0}")]
    Encode(String),
}

impl BusError {
    pub(crate) fn encode(why: serde_json::Error) -> Self {
        Self::Encode(why.to_string())
    }

    pub(crate) fn decode(subject: &str, why: serde_json::Error) -> Self {
        Self::Decode { subject: subject.to_owned(), why: why.to_string() }
    }
}

/// Bytes with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// Where it was sent.
    pub subject: String,
    /// Where an answer goes.
    pub reply: Option<String>,
    /// What was sent.
    pub payload: Bytes,
}

/// What a raw subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message.
    Message(RawMessage),
    /// So many did not fit (0 = unknown, for instance after a reconnect).
    Lost(u64),
    /// Only for requests: nobody listens.
    NoResponders,
}

/// One world.
#[async_trait]
pub trait World: Send + Sync + 'static {
    /// Sends to everybody who listens.
    async fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        reply: Option<&str>,
    ) -> Result<(), BusError>;

    /// Waits until what was published has left this process: for whoever ends right after a farewell.
    async fn flush(&self) {}

    /// Listens. Returns only when the subscription is in force: a message published later by anybody who knows of it
    /// arrives.
    async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError>;

    /// Sends with a fresh address for answers and listens there; `count` answers at most.
    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        count: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError>;

    /// Where the message ids of one bus begin. A world that must be the same twice gives the same twice.
    fn first_id(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// Messages of one subscription. Dropping it ends it.
#[async_trait]
pub trait RawSubscription: Send {
    /// The next message; none when the world is closed. Cancel-safe.
    async fn next(&mut self) -> Option<Incoming>;
}
