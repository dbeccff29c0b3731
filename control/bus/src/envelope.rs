//! What every message is wrapped in: who, when, and the place for a signature.
//!
//! Deliberately absent: checking. `sig` and `token` are carried and ignored until there are identities to check against.

use crate::{Bus, BusError, RawMessage};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Bytes of one message: the default limit of a NATS server.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Who speaks: role and instance of the role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// `api`, `jm`, `hm`, `pm`, `im`, `router`.
    pub role: String,
    /// Which of them.
    pub id: String,
}

impl Sender {
    /// A role and which of them.
    pub fn new(role: &str, id: impl ToString) -> Self {
        Self { role: role.to_owned(), id: id.to_string() }
    }
}

/// The outside of a message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// Of this message.
    pub id: Uuid,
    /// Milliseconds since 1970, by the sender's clock.
    pub ts: u64,
    /// Who speaks.
    pub from: Sender,
    /// Proof of the role; not yet used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What is said.
    pub body: Box<RawValue>,
    /// Over everything above; not yet used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
}

impl Envelope {
    /// Wraps a body, under a fresh id.
    pub fn seal<T: Serialize>(from: &Sender, ts: u64, body: &T) -> Result<Bytes, BusError> {
        Self::seal_as(Uuid::new_v4(), from, ts, body)
    }

    /// Wraps a body in one pass: what is written is exactly an [`Envelope`].
    pub(crate) fn seal_as<T: Serialize>(
        id: Uuid,
        from: &Sender,
        ts: u64,
        body: &T,
    ) -> Result<Bytes, BusError> {
        #[derive(Serialize)]
        struct Sealed<'a, T> {
            id: Uuid,
            ts: u64,
            from: &'a Sender,
            body: &'a T,
        }
        let bytes = serde_json::to_vec(&Sealed { id, ts, from, body }).map_err(BusError::encode)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(BusError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes.into())
    }
}

/// A message that arrived, envelope opened.
#[derive(Debug)]
pub struct Delivery {
    /// Where it was sent.
    pub subject: String,
    /// Its outside.
    pub envelope: Envelope,
    reply_to: Option<String>,
    bus: BusHandle,
}

/// Keeps `Debug` short.
struct BusHandle(Bus);

impl std::fmt::Debug for BusHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bus")
    }
}

impl Delivery {
    /// Reads the envelope of a raw message.
    pub fn open(raw: RawMessage, bus: &Bus) -> Result<Self, BusError> {
        let envelope =
            serde_json::from_slice(&raw.payload).map_err(|e| BusError::decode(&raw.subject, e))?;
        Ok(Self {
            subject: raw.subject,
            envelope,
            reply_to: raw.reply,
            bus: BusHandle(bus.clone()),
        })
    }

    /// Reads the body.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BusError> {
        serde_json::from_str(self.envelope.body.get())
            .map_err(|e| BusError::decode(&self.subject, e))
    }

    /// Whether somebody waits for an answer.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.reply_to.is_some()
    }

    /// Answers; does nothing when nobody asked.
    pub async fn reply<T: Serialize + Sync>(&self, body: &T) -> Result<(), BusError> {
        match &self.reply_to {
            Some(subject) => self.bus.0.publish(subject, body).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the fast way to write an envelope and the shape that is read agree, and the shape survives being written.
    #[test]
    fn what_is_sealed_is_an_envelope() {
        let from = Sender::new("jm", 7);
        let id = Uuid::from_u128(5);
        let bytes =
            Envelope::seal_as(id, &from, 1_234, &serde_json::json!({"a": [1, "ü"]})).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(
            text,
            r#"{"id":"00000000-0000-0000-0000-000000000005","ts":1234,"from":{"role":"jm","id":"7"},"body":{"a":[1,"ü"]}}"#
        );
        let envelope: Envelope = serde_json::from_str(text).unwrap();
        assert_eq!(envelope.from, from);
        assert_eq!(serde_json::to_string(&envelope).unwrap(), text);
    }

    #[test]
    fn a_body_too_large_is_refused() {
        let body = "x".repeat(MESSAGE_BYTES_MAX);
        let refused = Envelope::seal(&Sender::new("jm", 1), 0, &body);
        assert!(matches!(refused, Err(BusError::TooLarge { bytes }) if bytes > MESSAGE_BYTES_MAX));
    }
}
