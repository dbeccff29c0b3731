//! The writes of one transaction that create, change or remove a job: its record, its name, and a guard for each
//! endpoint that it joins or leaves.
//!
//! A guard says which jobs use an endpoint and with which https-only flag, so that two API servers cannot admit two
//! flags at once: both compare-and-set the same record. The caller reads the guards that [`guard_keys`] names, asks for
//! the writes, commits, and on a conflict ([`conflict_on`]) begins anew. Deliberately absent: the store itself.

use super::limits::JOBS_PER_ENDPOINT_MAX;
use super::{
    ENDPOINTS, JOBS, NAMES, deleted_key, guard_key, https_only_conflict, invalid, job_key, name_key,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use store::{Expect, Record, Write};
use wire::job::{Job, RouteKind};
use wire::{ApiError, ErrorCode, Fqn, JobId, JobState, Timestamp};

/// Prefix of the health manager's agreement about a job; it goes with the job.
pub const JOB_HEALTH: &str = "job-health/";

/// The endpoints of a job and their https-only flags.
pub type Endpoints = BTreeMap<(RouteKind, String), bool>;

/// Who uses an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The flag of all of them.
    pub https_only: bool,
    /// At most [`JOBS_PER_ENDPOINT_MAX`]; never empty in the store.
    pub jobs: BTreeSet<JobId>,
}

/// What stands under the keys that [`guard_keys`] named; a key that was not read counts as not there.
#[derive(Clone, Debug, Default)]
pub struct Guards(BTreeMap<String, Record>);

impl Guards {
    /// Notes what was read.
    pub fn note(&mut self, record: Option<Record>) {
        if let Some(record) = record {
            self.0.insert(record.key.clone(), record);
        }
    }

    fn get(&self, key: &str) -> Result<Option<(Guard, u64)>, ApiError> {
        let Some(record) = self.0.get(key) else { return Ok(None) };
        let guard = serde_json::from_slice(&record.value).map_err(|mistake| {
            ApiError::new(ErrorCode::Internal, format!("the record {key} cannot be read"))
                .because(mistake.to_string())
        })?;
        Ok(Some((guard, record.version)))
    }
}

/// The endpoints of a job in canonical form.
#[must_use]
pub fn endpoints(job: &Job) -> Endpoints {
    job.routes()
        .map(|(_, route)| ((route.kind, route.endpoint.clone()), route.https_only))
        .collect()
}

/// Guards to read before the change from `old` to `new`: of endpoints that are joined, left, or whose flag differs.
#[must_use]
pub fn guard_keys(old: Option<&Job>, new: Option<&Job>) -> Vec<String> {
    let (old, new) = (ends(old), ends(new));
    let touched = |one: &Endpoints, other: &Endpoints| -> BTreeSet<String> {
        one.iter()
            .filter(|(name, flag)| other.get(*name) != Some(flag))
            .map(|((kind, endpoint), _)| guard_key(*kind, endpoint))
            .collect()
    };
    touched(&old, &new).union(&touched(&new, &old)).cloned().collect()
}

fn ends(job: Option<&Job>) -> Endpoints {
    job.map(endpoints).unwrap_or_default()
}

/// A new job. Its record must carry `version_id` 1, as the store will count.
pub fn create(job: &Job, guards: &Guards) -> Result<Vec<Write>, ApiError> {
    debug_assert_eq!(job.version_id, 1, "a new record is version 1");
    let mut writes = vec![
        put(name_key(&job.fqn), job.uuid.to_string().into_bytes(), Expect::Absent),
        put(job_key(job.uuid), encode(job)?, Expect::Absent),
    ];
    writes.extend(guard_writes(job.uuid, None, Some(job), guards)?);
    Ok(writes)
}

/// The next version of a job: `new.version_id` must be `old.version_id` + 1.
pub fn update(old: &Job, new: &Job, guards: &Guards) -> Result<Vec<Write>, ApiError> {
    debug_assert_eq!(new.version_id, old.version_id + 1, "versions count writes");
    if old.uuid != new.uuid || old.fqn != new.fqn {
        return Err(invalid(format!("{} cannot be renamed", old.fqn))
            .hint("create a job with the other name and delete this one"));
    }
    let mut writes = vec![put(job_key(new.uuid), encode(new)?, Expect::Version(old.version_id))];
    writes.extend(guard_writes(new.uuid, Some(old), Some(new), guards)?);
    Ok(writes)
}

/// What a deleted job leaves behind, so that instances that nobody saw at that moment are stopped when they appear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its name.
    pub fqn: Fqn,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// The end of a job's record, name, guards and health.
pub fn delete(old: &Job, guards: &Guards, now_ms: u64) -> Result<Vec<Write>, ApiError> {
    let mark = Deleted { fqn: old.fqn.clone(), at_ms: now_ms };
    let mut writes = vec![
        put(deleted_key(old.uuid), encode(&mark)?, Expect::Any),
        Write::Delete { key: job_key(old.uuid), expect: Expect::Version(old.version_id) },
        Write::Delete { key: name_key(&old.fqn), expect: Expect::Any },
        Write::Delete { key: format!("{JOB_HEALTH}{}", old.uuid), expect: Expect::Any },
    ];
    writes.extend(guard_writes(old.uuid, Some(old), None, guards)?);
    Ok(writes)
}

/// A dry run of [`create`] (no `old`) or [`update`].
pub fn check(old: Option<&Job>, new: &Job, guards: &Guards) -> Result<(), ApiError> {
    guard_writes(new.uuid, old, Some(new), guards).map(drop)
}

/// The job in another state, and the write of it. No guard changes: a stopped job keeps its routes.
pub fn set_state(
    old: &Job,
    state: JobState,
    by: &str,
    now_ms: u64,
) -> Result<(Job, Write), ApiError> {
    let mut new = old.clone();
    new.state = state;
    new.version_id = old.version_id + 1;
    by.clone_into(&mut new.updated_by);
    new.updated_at = Some(Timestamp::from_unix_ms(now_ms));
    let write = put(job_key(new.uuid), encode(&new)?, Expect::Version(old.version_id));
    Ok((new, write))
}

/// What a refused transaction stumbled over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The name is taken.
    Name,
    /// Somebody else wrote the job first.
    Job,
    /// Somebody else wrote a guard first: read the guards again and repeat.
    Guard,
    /// Another record, which is not ours.
    Other,
}

/// What the key of [`store::StoreError::Conflict`] means for a caller of this module.
#[must_use]
pub fn conflict_on(key: &str) -> Conflict {
    match key {
        key if key.starts_with(NAMES) => Conflict::Name,
        key if key.starts_with(JOBS) => Conflict::Job,
        key if key.starts_with(ENDPOINTS) => Conflict::Guard,
        _ => Conflict::Other,
    }
}

/// Ports of `host` among keys of guards.
pub fn tcp_ports_taken<'a>(keys: impl IntoIterator<Item = &'a str>, host: IpAddr) -> BTreeSet<u16> {
    let prefix = guard_key(RouteKind::Tcp, "");
    let addresses = keys.into_iter().filter_map(|key| key.strip_prefix(&prefix)?.parse().ok());
    let here = addresses.filter(|address: &SocketAddr| address.ip() == host);
    here.map(|address| address.port()).collect()
}

fn guard_writes(
    job: JobId,
    old: Option<&Job>,
    new: Option<&Job>,
    guards: &Guards,
) -> Result<Vec<Write>, ApiError> {
    let (old, new) = (ends(old), ends(new));
    let mut writes = Vec::new();
    for ((kind, endpoint), flag) in &new {
        match old.get(&(*kind, endpoint.clone())) {
            Some(before) if before == flag => {}
            Some(_) => return Err(https_only_conflict(endpoint)),
            None => writes.push(join(job, *kind, endpoint, *flag, guards)?),
        }
    }
    for (kind, endpoint) in old.keys().filter(|name| !new.contains_key(*name)) {
        writes.extend(leave(job, *kind, endpoint, guards)?);
    }
    Ok(writes)
}

fn join(
    job: JobId,
    kind: RouteKind,
    endpoint: &str,
    https_only: bool,
    guards: &Guards,
) -> Result<Write, ApiError> {
    let key = guard_key(kind, endpoint);
    let Some((mut guard, version)) = guards.get(&key)? else {
        let guard = Guard { https_only, jobs: BTreeSet::from([job]) };
        return Ok(put(key, encode(&guard)?, Expect::Absent));
    };
    if guard.https_only != https_only {
        return Err(https_only_conflict(endpoint));
    }
    guard.jobs.insert(job);
    if guard.jobs.len() > JOBS_PER_ENDPOINT_MAX {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "Route {endpoint} is used by {JOBS_PER_ENDPOINT_MAX} jobs, more cannot share it"
            ),
        ));
    }
    Ok(put(key, encode(&guard)?, Expect::Version(version)))
}

fn leave(
    job: JobId,
    kind: RouteKind,
    endpoint: &str,
    guards: &Guards,
) -> Result<Option<Write>, ApiError> {
    let key = guard_key(kind, endpoint);
    // A guard that is not there needs no leaving; it may have been lost with a half-read caller's mistake.
    let Some((mut guard, version)) = guards.get(&key)? else { return Ok(None) };
    guard.jobs.remove(&job);
    let expect = Expect::Version(version);
    Ok(Some(if guard.jobs.is_empty() {
        Write::Delete { key, expect }
    } else {
        put(key, encode(&guard)?, expect)
    }))
}

fn put(key: String, value: Vec<u8>, expect: Expect) -> Write {
    Write::Put { key, value: value.into(), expect }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ApiError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|mistake| ApiError::new(ErrorCode::Internal, mistake.to_string()))?;
    if bytes.len() > store::VALUE_BYTES_MAX {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!(
                "the record has {} bytes, {} are possible",
                bytes.len(),
                store::VALUE_BYTES_MAX
            ),
        ));
    }
    Ok(bytes)
}
