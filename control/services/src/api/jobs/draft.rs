//! The next record of a job from what a client sent: what clients may say, and what only the server says.
//!
//! Pure: records in, record out. Deliberately absent: the choice of `auto` endpoints and the store.

use crate::api::respond::Failure;
use crate::authorize::Principal;
use crate::jobs::{succeed, user_may_set, validate};
use wire::{ApiError, ErrorCode, Job, JobId, JobState, Timestamp};

/// Who writes, and when.
pub(super) struct Author<'a> {
    pub who: &'a Principal,
    pub now_ms: u64,
}

/// The first record of a job. What only the server may set is set, whatever was sent.
pub(super) fn first(mut job: Job, id: JobId, author: &Author<'_>) -> Result<Job, Failure> {
    check_state(job.state)?;
    let now = Timestamp::from_unix_ms(author.now_ms);
    job.uuid = id;
    job.version_id = 1;
    job.restart_version = 0;
    job.created_by.clone_from(&author.who.name);
    job.updated_by.clone_from(&author.who.name);
    job.created_at = Some(now);
    job.updated_at = Some(now);
    job.health = None;
    validate(&mut job)?;
    Ok(job)
}

/// The record after `old`. Refused when running instances would have to be replaced and nobody said that they may.
pub(super) fn next(
    old: &Job,
    mut job: Job,
    restart: bool,
    author: &Author<'_>,
) -> Result<Job, Failure> {
    if job.version_id != old.version_id {
        return Err(stale(old, job.version_id));
    }
    if !job.uuid.0.is_nil() && job.uuid != old.uuid {
        let message = format!("the body is about job {}, the path about {}", job.uuid, old.uuid);
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    // What the platform set may stay; it may not be made up.
    if job.state != old.state {
        check_state(job.state)?;
    }
    job.uuid = old.uuid;
    job.created_by.clone_from(&old.created_by);
    job.created_at = old.created_at;
    job.health = None;
    stamp(&mut job, author);
    validate(&mut job)?;
    let fields = succeed(old, &mut job, false);
    let runs = old.state == JobState::Started && job.state == JobState::Started;
    if runs && !restart && !fields.is_empty() {
        return Err(must_stop(old, &fields));
    }
    Ok(job)
}

/// The record with which all instances are replaced, or started when there are none.
pub(super) fn restarted(old: &Job, author: &Author<'_>) -> Job {
    let mut job = old.clone();
    job.state = JobState::Started;
    stamp(&mut job, author);
    succeed(old, &mut job, true);
    job
}

fn stamp(job: &mut Job, author: &Author<'_>) {
    job.updated_by.clone_from(&author.who.name);
    job.updated_at = Some(Timestamp::from_unix_ms(author.now_ms));
}

fn check_state(state: JobState) -> Result<(), Failure> {
    if user_may_set(state) {
        return Ok(());
    }
    let message = format!("state \"{}\" is set by the platform", state.as_str());
    Err(Failure::new(ErrorCode::Invalid, message).hint("started, stopped, ready or created"))
}

/// Somebody else was faster, or the client forgot what it read.
pub(super) fn stale(old: &Job, sent: u64) -> Failure {
    stale_at(old, sent, old.version_id)
}

/// The same, when the version that is there now is only known from the store's refusal.
pub(super) fn stale_at(old: &Job, sent: u64, found: u64) -> Failure {
    let what = if sent == 0 {
        format!("{} is at version {found}, the request carries no version_id", old.fqn)
    } else {
        format!("{} is at version {found}, the request changes version {sent}", old.fqn)
    };
    Failure::new(ErrorCode::Conflict, what)
        .because("a change must carry the version_id that it was made from")
        .hint("read the job again and repeat the change")
}

fn must_stop(old: &Job, fields: &[&str]) -> Failure {
    let mut error = ApiError::new(
        ErrorCode::RequiresRestart,
        format!("{} is started, a change of {} needs a restart", old.fqn, fields.join(", ")),
    )
    .because("running instances cannot take over such a change")
    .hint("stop the job first, or repeat the request with restart=true");
    error.error_details = Some(serde_json::json!({ "fields": fields }));
    error.into()
}
