//! What a job manager remembers of a job between two looks. All of it may be lost: it spares questions, no more.
//!
//! Deliberately absent: truth. What shall run is in the store, what runs is with the instance managers.

use super::flights::Flights;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use wire::placement::StartPackage;
use wire::{InstanceId, Job};

/// First wait after a round in which nobody took anything; doubles up to [`ROUND_WAIT_MAX_MS`].
pub(super) const ROUND_WAIT_MIN_MS: u64 = 100;
/// Longest wait between rounds.
pub(super) const ROUND_WAIT_MAX_MS: u64 = 5_000;

/// About one job.
#[derive(Debug, Default)]
pub(super) struct Mind {
    pub(super) flights: Flights,
    pub(super) prepared: Option<Prepared>,
    /// Rounds in a row in which nobody took anything.
    pub(super) fruitless: u32,
    /// Since when.
    pub(super) waiting_since_ms: Option<u64>,
    /// What the user was told last.
    pub(super) said: String,
}

impl Mind {
    /// Somebody took a copy.
    pub(super) fn fruit(&mut self) {
        self.fruitless = 0;
        self.waiting_since_ms = None;
        self.said.clear();
    }

    /// Nobody did; how long to wait for the next round.
    pub(super) fn no_fruit(&mut self, now_ms: u64) -> u64 {
        self.waiting_since_ms.get_or_insert(now_ms);
        let wait = ROUND_WAIT_MIN_MS << self.fruitless.min(6);
        self.fruitless = self.fruitless.saturating_add(1);
        wait.min(ROUND_WAIT_MAX_MS)
    }

    /// Nothing that is worth keeping.
    pub(super) fn is_blank(&self) -> bool {
        self.flights.is_empty() && self.fruitless == 0 && self.said.is_empty()
    }
}

/// A job as every start of this version carries it, written once.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) version: u64,
    job: Box<RawValue>,
    packages: Box<RawValue>,
}

/// A [`wire::placement::Start`] in the making.
#[derive(Serialize)]
pub(super) struct StartOut<'a> {
    instance: InstanceId,
    job: &'a RawValue,
    packages: &'a RawValue,
    asked_ms: u64,
}

impl Prepared {
    pub(super) fn new(job: &Job, packages: &[StartPackage]) -> Result<Self, serde_json::Error> {
        let (version, job) = (job.version_id, to_raw_value(job)?);
        Ok(Self { version, job, packages: to_raw_value(packages)? })
    }

    pub(super) fn start(&self, instance: InstanceId, asked_ms: u64) -> StartOut<'_> {
        StartOut { instance, job: &self.job, packages: &self.packages, asked_ms }
    }
}
