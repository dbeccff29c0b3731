//! What all handlers of one API server share.
//!
//! Nothing here is truth: the store has that. Two servers, or this one after a restart, answer alike. Deliberately
//! absent: what handlers do with it.

use super::auth::Tokens;
use super::respond::Failure;
use super::routers::Routers;
use super::seats::Seats;
use super::{Settings, StartError};
use crate::pm::client::Client;
use bus::Bus;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::sync::{Arc, Mutex, PoisonError};
use store::{Expect, Store, Write};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How handlers hold it.
pub(super) type Shared = Arc<Api>;

/// One API server.
pub(super) struct Api {
    pub settings: Settings,
    /// Where clients reach it, `http://…`.
    pub url: String,
    /// Which of the API servers this is.
    pub id: Uuid,
    pub bus: Bus,
    pub store: Store,
    pub tokens: Tokens,
    pub routers: Routers,
    pub seats: Seats,
    /// The way to the package managers.
    pub objects: Client,
    /// There is a new task.
    pub tasks: Notify,
    /// Ends streams.
    pub stop: CancellationToken,
    rng: Mutex<StdRng>,
}

impl Api {
    pub(super) fn new(
        settings: Settings,
        url: String,
        bus: Bus,
        store: Store,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let mut rng = crate::random(settings.seed).map_err(StartError::Random)?;
        let id = uuid_of(&mut rng);
        let objects = Client::new(bus.clone())
            .map_err(|error| StartError::Client(format!("{}: {}", error.message, error.why)))?;
        Ok(Self {
            tokens: Tokens::new(&settings.tokens),
            routers: Routers::default(),
            seats: Seats::default(),
            objects,
            tasks: Notify::new(),
            rng: Mutex::new(rng),
            settings,
            url,
            id,
            bus,
            store,
            stop,
        })
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.bus.clock().unix_ms()
    }

    pub(super) fn uuid(&self) -> Uuid {
        uuid_of(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A UUID whose order is the order in time.
    pub(super) fn timed_uuid(&self) -> Uuid {
        let random = self.uuid();
        let tail = random.as_bytes().first_chunk::<10>().expect("a UUID has 16 bytes");
        uuid::Builder::from_unix_timestamp_millis(self.now_ms(), tail).into_uuid()
    }

    /// Six characters for the name of a default route.
    pub(super) fn six(&self) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        // The bias of the remainder is of no concern for a name.
        (0..6).map(|_| char::from(LETTERS[rng.next_u32() as usize % LETTERS.len()])).collect()
    }

    /// A record, decoded; none when it is not there.
    pub(super) async fn read<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(T, store::Record)>, Failure> {
        let Some(record) = self.store.get(key).await? else { return Ok(None) };
        Ok(Some((decode(&record)?, record)))
    }
}

fn uuid_of(rng: &mut StdRng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Reads a record's value.
pub(super) fn decode<T: serde::de::DeserializeOwned>(record: &store::Record) -> Result<T, Failure> {
    serde_json::from_slice(&record.value).map_err(|mistake| {
        tracing::error!(key = record.key, %mistake, "a record cannot be read");
        Failure::new(wire::ErrorCode::Internal, format!("the record {} cannot be read", record.key))
            .hint("give the request id to the operator of the cluster")
    })
}

/// A write of a value as JSON.
pub(super) fn put<T: serde::Serialize>(
    key: String,
    value: &T,
    expect: Expect,
) -> Result<Write, Failure> {
    let value = serde_json::to_vec(value).map_err(|mistake| {
        tracing::error!(key, %mistake, "a record cannot be written");
        Failure::new(wire::ErrorCode::Internal, "a record could not be written")
    })?;
    if value.len() > store::VALUE_BYTES_MAX {
        return Err(Failure::new(
            wire::ErrorCode::TooLarge,
            format!("a record of {} bytes, {} are possible", value.len(), store::VALUE_BYTES_MAX),
        ));
    }
    Ok(Write::Put { key, value: value.into(), expect })
}
