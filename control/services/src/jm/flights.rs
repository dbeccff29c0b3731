//! What was asked of instance managers and is not yet to be seen: starts, stops, updates.
//!
//! Without it, every look between a request and its trace in the health manager's view would ask again. Entries stay
//! for [`FLIGHT_MS`] even when one health manager has seen their effect: the next answer may come from another, which
//! has not. Deliberately absent: repetition; after that time the plan asks anew by itself.

use std::collections::BTreeMap;
use wire::InstanceId;

/// How long a request counts without being seen: two beats of an instance manager.
pub const FLIGHT_MS: u64 = 2 * wire::health::BEAT_MS;
/// How long an update counts: it changes nothing that anybody counts.
pub const UPDATE_FLIGHT_MS: u64 = 2_000;

/// Requests of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flights {
    starts: BTreeMap<InstanceId, Flight>,
    stops: BTreeMap<InstanceId, u64>,
    updates: BTreeMap<InstanceId, Flight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flight {
    version: u64,
    until_ms: u64,
}

impl Flights {
    /// An instance was asked for, or may have been: at this version of the job.
    pub fn started(&mut self, instance: InstanceId, version: u64, now_ms: u64) {
        self.starts.insert(instance, Flight { version, until_ms: now_ms + FLIGHT_MS });
    }

    /// An instance was told to stop.
    pub fn stopped(&mut self, instance: InstanceId, now_ms: u64) {
        self.stops.insert(instance, now_ms + FLIGHT_MS);
    }

    /// An instance was told of this version.
    pub fn updated(&mut self, instance: InstanceId, version: u64, now_ms: u64) {
        self.updates.insert(instance, Flight { version, until_ms: now_ms + UPDATE_FLIGHT_MS });
    }

    /// Instances asked for, with the version that they will have.
    pub fn starts(&self, now_ms: u64) -> impl Iterator<Item = (InstanceId, u64)> {
        let counts = move |(_, flight): &(&InstanceId, &Flight)| flight.until_ms > now_ms;
        self.starts.iter().filter(counts).map(|(instance, flight)| (*instance, flight.version))
    }

    /// Whether this one was told to stop.
    #[must_use]
    pub fn is_stopping(&self, instance: InstanceId, now_ms: u64) -> bool {
        self.stops.get(&instance).is_some_and(|until| *until > now_ms)
    }

    /// Whether this one was told of this version.
    #[must_use]
    pub fn is_updating(&self, instance: InstanceId, version: u64, now_ms: u64) -> bool {
        self.updates
            .get(&instance)
            .is_some_and(|flight| flight.version >= version && flight.until_ms > now_ms)
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now_ms: u64) {
        self.starts.retain(|_, flight| flight.until_ms > now_ms);
        self.stops.retain(|_, until| *until > now_ms);
        self.updates.retain(|_, flight| flight.until_ms > now_ms);
    }

    /// Nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.stops.is_empty() && self.updates.is_empty()
    }
}
