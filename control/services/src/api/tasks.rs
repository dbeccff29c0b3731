//! Long work that a client may watch: a start, a stop, a restart of a job's instances.
//!
//! ```text
//!   open (with the write that begins the work) ──▶ running ──▶ complete
//!                          any API server looks and notes │──▶ stopped: superseded, or given up
//! ```
//!
//! The work is done by the job manager; a task only tells what is seen of it. Its record and the mark that it is open
//! are written with the change itself, so a task outlives the server that took the request: whoever looks next goes on.
//! Deliberately absent: cancelling.

mod plan;
pub(super) mod work;

use super::received::{At, Params};
use super::respond::{Answer, Failure, json};
use super::seats::Seat;
use super::state::{Shared, put};
use super::stream::{self, BEAT};
use crate::authorize::{Action, Principal, authorize};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use store::{Expect, Write};
use wire::api::{Task, TaskEvent, TaskState};
use wire::{ApiError, ErrorCode, Fqn, Job, JobId, JobState, TaskId, Timestamp};

/// Prefix of task records.
pub(super) const TASKS: &str = "tasks/";
/// Prefix of the marks of tasks that are not at their end.
pub(super) const OPEN: &str = "open-tasks/";

/// A task as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub task: Task,
    pub goal: Goal,
}

/// What the work shall lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Goal {
    pub job: JobId,
    pub fqn: Fqn,
    /// Version of the record that began it.
    pub version: u64,
    /// Instances of versions before this one do not count.
    pub restart_version: u64,
    /// Running instances; 0 = none may be left.
    pub running: u32,
    pub begun_ms: u64,
}

/// Who goes on with an open task, and how long the others leave it to him.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub owner: String,
    pub until_ms: u64,
}

/// How long others leave an open task to its owner.
pub(super) const LEASE_MS: u64 = 5_000;

pub(super) fn task_key(id: TaskId) -> String {
    format!("{TASKS}{id}")
}

pub(super) fn open_key(id: TaskId) -> String {
    format!("{OPEN}{id}")
}

/// Whether a change of a record makes instances come or go.
pub(super) fn moves_instances(old: &Job, new: &Job) -> bool {
    let runs = |job: &Job| job.state == JobState::Started;
    let differs =
        old.num_instances != new.num_instances || old.restart_version != new.restart_version;
    runs(old) != runs(new) || (runs(new) && differs)
}

/// A task for what the record now wants; its writes go into the same transaction. The path of the task.
pub(super) fn open(api: &Shared, job: &Job, writes: &mut Vec<Write>) -> Result<String, Failure> {
    let (id, now_ms) = (TaskId(api.timed_uuid()), api.now_ms());
    let goal = Goal {
        job: job.uuid,
        fqn: job.fqn.clone(),
        version: job.version_id,
        restart_version: job.restart_version,
        running: if job.state == JobState::Started { job.num_instances } else { 0 },
        begun_ms: now_ms,
    };
    let task = Task {
        uuid: id,
        state: TaskState::Running,
        errored: "unerrored".to_owned(),
        time_started: Timestamp::from_unix_ms(now_ms),
        time_completed: None,
        events: Vec::new(),
        job: Some(job.uuid),
    };
    let mark = Mark { owner: api.id.to_string(), until_ms: now_ms + LEASE_MS };
    writes.push(put(task_key(id), &Entry { task, goal }, Expect::Absent)?);
    writes.push(put(open_key(id), &mark, Expect::Absent)?);
    Ok(format!("/v1/tasks/{id}"))
}

/// How to read a task.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TaskParams {
    /// Events as they come, one JSON object a line, `eos` last.
    #[serde(default)]
    follow: bool,
    /// Only events after this time, nanoseconds since 1970.
    time: Option<u64>,
}

/// A task. While following, an empty line is a sign of life.
#[utoipa::path(get, path = "/tasks/{uuid}", tag = "tasks", params(("uuid" = uuid::Uuid, Path), TaskParams),
    responses((status = 200, description = "With follow: a `TaskEvent` on each line", body = Task), (status = 404, body = ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<TaskId>,
    Params(params): Params<TaskParams>,
) -> Answer {
    let (entry, record) = read(&api, id).await?;
    authorize(&who, Action::Read, &entry.goal.fqn)?;
    let after = params.time.unwrap_or(0);
    if params.follow {
        let watch = api.store.watch(&task_key(id), record.revision).await?;
        let seat = api.seats.take(&who)?;
        return Ok(follow(&api, entry.task, after, watch, seat));
    }
    let mut task = entry.task;
    task.events.retain(|event| event.time > after);
    Ok(json(StatusCode::OK, &task))
}

pub(super) async fn read(api: &Shared, id: TaskId) -> Result<(Entry, store::Record), Failure> {
    api.read(&task_key(id)).await?.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("there is no task {id}"))
            .because("tasks are kept for 24 hours")
    })
}

/// Events of one task on their way out.
struct Follower {
    watch: Box<dyn store::Watch>,
    fresh: Vec<TaskEvent>,
    /// Events that have been sent, or were not wanted: the task only grows at its end.
    sent: usize,
    over: bool,
    _seat: Seat,
}

fn follow(
    api: &Shared,
    task: Task,
    after: u64,
    watch: Box<dyn store::Watch>,
    seat: Seat,
) -> axum::response::Response {
    let (sent, over) = (task.events.len(), task.state != TaskState::Running);
    let fresh = task.events.into_iter().filter(|event| event.time > after).collect();
    let stop = api.stop.clone();
    let follower = Follower { watch, fresh, sent, over, _seat: seat };
    stream::ndjson(unfold(follower, move |mut follower| {
        let stop = stop.clone();
        async move {
            let bytes = stop.run_until_cancelled(follower.next()).await??;
            Some((Ok::<_, Infallible>(bytes), follower))
        }
    }))
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.fresh.is_empty() {
                return Some(stream::lines(&std::mem::take(&mut self.fresh)));
            }
            if self.over {
                return None;
            }
            match tokio::time::timeout(BEAT, self.watch.next()).await {
                Err(_) => return Some(Bytes::from_static(b"\n")),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a follower of a task is sent away");
                    return None;
                }
                Ok(Ok(change)) => self.take(change.record),
            }
        }
    }

    fn take(&mut self, record: Option<store::Record>) {
        let entry: Option<Entry> =
            record.and_then(|record| serde_json::from_slice(&record.value).ok());
        let Some(Entry { task, .. }) = entry else {
            self.over = true;
            return;
        };
        self.over = task.state != TaskState::Running;
        let count = task.events.len();
        self.fresh = task.events.into_iter().skip(self.sent).collect();
        self.sent = count.max(self.sent);
    }
}
