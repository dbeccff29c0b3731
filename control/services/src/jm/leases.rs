//! Who acts for which jobs: leases on shards in the store.
//!
//! A shard belongs to the owner of `leases/jm/<shard>` until its time is over; only he starts and stops instances of its
//! jobs. Job managers hear each other's beats, so that each holds no more than its share. The holder stops acting
//! [`SKEW_MS`] before the end that he wrote, a taker waits as long after it: clocks may differ by twice that; if they
//! differ by more, two may act at once for a moment, which the surplus of instances then repairs. A lease that stands
//! still for [`STALE_MS`] by our own clock is over as well, so that one written by a clock far ahead binds nobody.
//!
//! Deliberately absent: a leader.

use bus::Bus;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{Expect, Record, Store, StoreError, Write};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::JobId;

/// Parts into which all jobs fall.
pub const SHARDS: usize = 8;
/// How long a lease lasts.
pub const TTL_MS: u64 = 5_000;
/// How often it is renewed.
pub const RENEW_MS: u64 = 1_500;
/// How much two clocks may differ, each way.
pub const SKEW_MS: u64 = 500;
/// After a take-over from somebody else nothing is started for so long: what he asked for last must be seen first.
pub const QUIET_MS: u64 = 1_000;
/// A lease that nobody renewed for so long is over, whatever its time says: the clock of whoever wrote it was ahead.
pub const STALE_MS: u64 = TTL_MS + 2 * SKEW_MS + RENEW_MS;
/// Keys of leases.
pub const PREFIX: &str = "leases/jm/";

/// The shard of a job.
#[must_use]
pub fn shard(job: JobId) -> usize {
    usize::from(job.0.as_bytes()[0]) % SHARDS
}

/// The record of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Id of the job manager.
    pub owner: String,
    /// Milliseconds since 1970.
    pub until_ms: u64,
}

/// What one job manager holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// It must not act from here on.
    pub until_ms: u64,
    /// It must not start anything before.
    pub quiet_until_ms: u64,
}

/// Holdings by shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held(pub [Option<Holding>; SHARDS]);

impl Held {
    /// The holding that allows to act for a job now.
    #[must_use]
    pub fn of(&self, job: JobId, now_ms: u64) -> Option<Holding> {
        self.0[shard(job)].filter(|holding| now_ms < holding.until_ms)
    }

    /// Shards held now.
    #[must_use]
    pub fn shards(&self, now_ms: u64) -> Vec<usize> {
        let held = |shard: &usize| self.0[*shard].is_some_and(|h| now_ms < h.until_ms);
        (0..SHARDS).filter(held).collect()
    }
}

/// One lease as it was read: its version, and what it says if that can be read.
pub type Read = (u64, Option<Lease>);

/// What is to be done with one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ours: go on. 0 = it was removed by hand.
    Renew(usize, u64),
    /// Free; the version that was read, 0 = there is no record.
    Take(usize, u64),
    /// Ours, but beyond our share.
    Release(usize, u64),
}

/// Since when each lease stands as it is, by a clock that nobody sets.
#[derive(Debug, Default)]
pub struct Watched(BTreeMap<usize, (u64, u64)>);

impl Watched {
    /// Takes in what was read; the shards whose leases stand still for too long.
    pub fn look(&mut self, read: &BTreeMap<usize, Read>, monotonic_ms: u64) -> BTreeSet<usize> {
        self.0.retain(|shard, (version, _)| read.get(shard).is_some_and(|(now, _)| now == version));
        for (shard, (version, _)) in read {
            self.0.entry(*shard).or_insert((*version, monotonic_ms));
        }
        let still = |(_, since): &(u64, u64)| monotonic_ms.saturating_sub(*since) >= STALE_MS;
        self.0.iter().filter(|(_, seen)| still(seen)).map(|(shard, _)| *shard).collect()
    }
}

/// The steps, from what stands in the store, with `managers` of us alive; leases in `stale` are over.
#[must_use]
pub fn plan(
    me: &str,
    read: &BTreeMap<usize, Read>,
    stale: &BTreeSet<usize>,
    managers: usize,
    now_ms: u64,
) -> Vec<Step> {
    let share = SHARDS.div_ceil(managers.max(1));
    let mut steps = Vec::new();
    let mut mine = 0;
    for shard in 0..SHARDS {
        if let Some((version, Some(lease))) = read.get(&shard)
            && lease.owner == me
        {
            mine += 1;
            let beyond = mine > share;
            let (shard, version) = (shard, *version);
            steps.push(if beyond {
                Step::Release(shard, version)
            } else {
                Step::Renew(shard, version)
            });
        }
    }
    for shard in 0..SHARDS {
        let free = match read.get(&shard) {
            None => Some(0),
            Some((version, None)) => Some(*version),
            Some((version, Some(lease))) => {
                let over =
                    now_ms >= lease.until_ms.saturating_add(SKEW_MS) || stale.contains(&shard);
                (lease.owner != me && over).then_some(*version)
            }
        };
        if let Some(version) = free
            && mine < share
        {
            mine += 1;
            steps.push(Step::Take(shard, version));
        }
    }
    steps
}

/// When the next lease of somebody else may be taken, if nobody renews it.
#[must_use]
pub fn free_at_ms(me: &str, read: &BTreeMap<usize, Read>, now_ms: u64) -> Option<u64> {
    let others = read.values().filter_map(|(_, lease)| lease.as_ref().filter(|l| l.owner != me));
    others.map(|lease| lease.until_ms.saturating_add(SKEW_MS)).filter(|at| *at > now_ms).min()
}

/// Other job managers, by their beats.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<String, u64>);

/// A job manager that was silent for this long does not count for the shares.
pub const PEER_SILENT_MS: u64 = 3_500;
/// Job managers that are remembered.
const PEERS_MAX: usize = 64;

impl Peers {
    /// One was heard.
    pub fn heard(&mut self, id: &str, now_ms: u64) {
        if let Some(at) = self.0.get_mut(id) {
            *at = now_ms;
        } else if self.0.len() < PEERS_MAX {
            self.0.insert(id.to_owned(), now_ms);
        }
    }

    /// How many there are, with `me`, who counts always.
    pub fn count(&mut self, me: &str, now_ms: u64) -> usize {
        self.0.retain(|_, at| now_ms.saturating_sub(*at) <= PEER_SILENT_MS);
        self.0.keys().filter(|id| *id != me).count() + 1
    }
}

/// The keeper of one job manager's leases.
pub(super) struct Keeper {
    pub(super) me: String,
    pub(super) bus: Bus,
    pub(super) store: Store,
    pub(super) managers: watch::Receiver<usize>,
    pub(super) held: watch::Sender<Held>,
}

impl Keeper {
    /// Renews and takes until `stop`; then gives back what it holds. Between two renewals it looks when a lease of
    /// somebody else ends, and when somebody came or fell silent: a shard waits for its lease's end, not for our period.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut managers = self.managers.clone();
        let (begun, mut watched) = (tokio::time::Instant::now(), Watched::default());
        let mut free_in = Duration::MAX;
        let mut period = tokio::time::interval(Duration::from_millis(RENEW_MS));
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = period.tick() => {}
                Ok(()) = managers.changed() => {}
                () = tokio::time::sleep(free_in), if free_in < Duration::from_millis(RENEW_MS) => {}
            }
            // A holding ends by itself while the store is away.
            let monotonic_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            free_in = match self.turn(&mut watched, monotonic_ms).await {
                Ok(free_at_ms) => free_at_ms.map_or(Duration::MAX, |at| {
                    Duration::from_millis(at.saturating_sub(self.bus.clock().unix_ms()).max(1))
                }),
                Err(mistake) => {
                    tracing::warn!(%mistake, "leases could not be renewed");
                    Duration::MAX
                }
            };
        }
        let patience = Duration::from_millis(RENEW_MS);
        match tokio::time::timeout(patience, self.release_all()).await {
            Ok(Ok(())) => {}
            Ok(Err(mistake)) => tracing::warn!(%mistake, "leases were not given back"),
            Err(_) => tracing::warn!("leases were not given back in time"),
        }
    }

    /// One look; when the next lease of somebody else ends.
    async fn turn(
        &self,
        watched: &mut Watched,
        monotonic_ms: u64,
    ) -> Result<Option<u64>, StoreError> {
        let read = self.read().await?;
        let stale = watched.look(&read, monotonic_ms);
        // Before the writes: what we promise ourselves must not last longer than what others read.
        let now_ms = self.bus.clock().unix_ms();
        let steps = plan(&self.me, &read, &stale, *self.managers.borrow(), now_ms);
        for step in steps {
            if let Step::Take(shard, _) = step
                && let Some((_, Some(lease))) = read.get(&shard)
                && let Some(ahead_ms) = lease.until_ms.checked_sub(now_ms)
            {
                let owner = lease.owner.as_str();
                tracing::warn!(
                    shard,
                    owner,
                    ahead_ms,
                    "a silent job manager's clock was ahead: its lease is taken"
                );
            }
            match self.carry_out(step, now_ms).await {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => self.note(step_shard(step), None),
                Err(mistake) => return Err(mistake),
            }
        }
        // What somebody else took while we could not renew is ours no more.
        for shard in 0..SHARDS {
            let other = read.get(&shard).and_then(|(_, lease)| lease.as_ref());
            let other = other.filter(|lease| lease.owner != self.me && now_ms < lease.until_ms);
            if other.is_some() && !stale.contains(&shard) {
                self.note(shard, None);
            }
        }
        Ok(free_at_ms(&self.me, &read, now_ms))
    }

    async fn carry_out(&self, step: Step, now_ms: u64) -> Result<(), StoreError> {
        let (shard, version) = match step {
            Step::Renew(shard, version) | Step::Take(shard, version) => (shard, version),
            Step::Release(shard, version) => {
                // First we stop acting, then others may begin.
                self.note(shard, None);
                let expect = Expect::Version(version);
                return self
                    .store
                    .commit(&[Write::Delete { key: key(shard), expect }])
                    .await
                    .map(drop);
            }
        };
        let lease = Lease { owner: self.me.clone(), until_ms: now_ms + TTL_MS };
        let value = serde_json::to_vec(&lease).expect("a lease is plain JSON").into();
        let expect = if version == 0 { Expect::Absent } else { Expect::Version(version) };
        self.store.commit(&[Write::Put { key: key(shard), value, expect }]).await?;
        let before = self.held.borrow().0[shard].filter(|holding| now_ms < holding.until_ms);
        let fresh = if version == 0 { now_ms } else { now_ms + QUIET_MS };
        let quiet_until_ms = before.map_or(fresh, |holding| holding.quiet_until_ms);
        self.note(shard, Some(Holding { until_ms: lease.until_ms - SKEW_MS, quiet_until_ms }));
        Ok(())
    }

    async fn read(&self) -> Result<BTreeMap<usize, Read>, StoreError> {
        let listing = self.store.list(PREFIX, None, store::LIST_LIMIT_MAX).await?;
        Ok(listing.records.iter().filter_map(parse).collect())
    }

    fn note(&self, shard: usize, holding: Option<Holding>) {
        self.held.send_if_modified(|held| {
            let changed = held.0[shard] != holding;
            held.0[shard] = holding;
            changed
        });
    }

    async fn release_all(&self) -> Result<(), StoreError> {
        let read = self.read().await?;
        for (shard, (version, lease)) in read {
            if lease.is_some_and(|lease| lease.owner == self.me) {
                self.note(shard, None);
                let write = Write::Delete { key: key(shard), expect: Expect::Version(version) };
                self.store.commit(&[write]).await?;
            }
        }
        Ok(())
    }
}

const fn step_shard(step: Step) -> usize {
    match step {
        Step::Renew(shard, _) | Step::Take(shard, _) | Step::Release(shard, _) => shard,
    }
}

fn key(shard: usize) -> String {
    format!("{PREFIX}{shard}")
}

fn parse(record: &Record) -> Option<(usize, Read)> {
    let shard: usize = record.key.strip_prefix(PREFIX)?.parse().ok()?;
    let lease = serde_json::from_slice(&record.value).ok();
    (shard < SHARDS).then_some((shard, (record.version, lease)))
}
