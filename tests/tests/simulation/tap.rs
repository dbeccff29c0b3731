//! A node's world, with an ear for what is said and heard there.
//!
//! Deliberately absent: weather; that is the simulated network's.

use crate::ledger::Shared;
use async_trait::async_trait;
use bus::{BusError, Clock, Envelope, Incoming, RawSubscription, World};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use uuid::Uuid;
use wire::health::{Beat, Switch};
use wire::placement::Start;
use wire::routing::RouterBeat;
use wire::subject;

/// A canary's way to break what a node says: true = this message is lost.
pub(crate) type Mute = fn(&str) -> bool;

pub(crate) struct Tap {
    pub(crate) inner: Arc<dyn World>,
    pub(crate) node: String,
    pub(crate) ledger: Shared,
    pub(crate) clock: Clock,
    pub(crate) mute: Mute,
}

fn body<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let envelope: Envelope = serde_json::from_slice(payload).ok()?;
    serde_json::from_str(envelope.body.get()).ok()
}

#[async_trait]
impl World for Tap {
    async fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        reply: Option<&str>,
    ) -> Result<(), BusError> {
        let now_ms = self.clock.unix_ms();
        if subject == subject::IM_SWITCH {
            if let Some(switch) = body::<Switch>(&payload) {
                self.ledger.lock().said(&switch.instance, now_ms);
            }
        } else if subject == subject::IM_BEAT
            && let Some(beat) = body::<Beat>(&payload)
        {
            let mut ledger = self.ledger.lock();
            beat.instances.iter().for_each(|seen| ledger.said(seen, now_ms));
        }
        if (self.mute)(subject) {
            return Ok(());
        }
        self.inner.publish(subject, payload, reply).await
    }

    async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        let inner = self.inner.subscribe(pattern, group, capacity).await?;
        if pattern != subject::ROUTER_BEAT {
            return Ok(inner);
        }
        let (node, ledger, clock) = (self.node.clone(), self.ledger.clone(), self.clock.clone());
        Ok(Box::new(Ear { inner, node, ledger, clock }))
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        count: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        if subject.starts_with("apcera.v1.im.")
            && subject.ends_with(".start")
            && let Some(start) = body::<Start>(&payload)
        {
            self.ledger.lock().asked(start);
        }
        self.inner.request(subject, payload, count).await
    }

    fn first_id(&self) -> Uuid {
        self.inner.first_id()
    }
}

/// Hears the beats of routers.
struct Ear {
    inner: Box<dyn RawSubscription>,
    node: String,
    ledger: Shared,
    clock: Clock,
}

#[async_trait]
impl RawSubscription for Ear {
    async fn next(&mut self) -> Option<Incoming> {
        let incoming = self.inner.next().await;
        if let Some(Incoming::Message(message)) = &incoming
            && let Some(beat) = body::<RouterBeat>(&message.payload)
        {
            let now_ms = self.clock.unix_ms();
            self.ledger.lock().heard(&self.node, beat.router, beat.leaving, now_ms);
        }
        incoming
    }
}
