//! Changes of jobs: each is one transaction of record, name, guards, stored answer and task.
//!
//! ```text
//!   read ──▶ draft ──▶ commit ──▶ wait until live, if asked ──▶ answer
//!     ▲                  │ a guard moved
//!     └──────────────────┘ at most ATTEMPTS_MAX times
//! ```
//!
//! A conflict on a guard is repeated here: it says nothing about what the client knew. A conflict on the record is the
//! client's, who must read again; who named no version (a restart, a removal) meant whatever is there, so that is
//! repeated too. Deliberately absent: what a record may say (`draft.rs`, `crate::jobs`).

use super::draft::{self, Author};
use super::{auto, no_such_job, read};
use crate::api::once::{Keyed, Once, Written};
use crate::api::received::{At, Params, Sent};
use crate::api::respond::{Answer, Failure, json, set};
use crate::api::routers;
use crate::api::state::{Shared, decode as decode_value};
use crate::api::tasks;
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::{self, Conflict, Guards, conflict_on, guard_keys, name_key, package_key};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;
use store::{Expect, StoreError, Write};
use wire::api::{LIVE, Location};
use wire::routing::{AwaitedJob, JobRoutes};
use wire::{ApiError, ErrorCode, Fqn, Job, JobId, JobState, Package, PackageState};

/// How often a change is made anew because somebody else wrote a guard at the same time.
const ATTEMPTS_MAX: u64 = 24;
/// Longest wait for routers; shorter than what a silent connection may live.
const LIVE_WAIT_MAX_MS: u64 = 60_000;
/// Wait for routers when nobody says how long.
const LIVE_WAIT_MS: u64 = 10_000;
/// Bytes of a record: with what is around it, it travels in one message of the bus.
const JOB_BYTES_MAX: usize = 512 * 1024;

/// How a change is made.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct WriteParams {
    /// `live`: answer only when all live routers serve the change; header `Apcera-Live` says how many do.
    wait: Option<String>,
    /// How long to wait for them.
    timeout_ms: Option<u64>,
    /// Running instances may be replaced.
    #[serde(default)]
    restart: bool,
    /// Only if the job is still at this version (DELETE).
    version_id: Option<u64>,
}

impl WriteParams {
    fn check(&self) -> Result<(), Failure> {
        match self.wait.as_deref() {
            None | Some("live") => Ok(()),
            Some(other) => {
                let message = format!("wait={other} is not understood");
                Err(Failure::new(ErrorCode::Invalid, message).hint("wait=live"))
            }
        }
    }
}

/// A change that is ready to be committed.
struct Plan {
    writes: Vec<Write>,
    answer: Written,
    /// What routers are to serve.
    written: AwaitedJob,
    /// What it changes, for the text of a conflict, and the version that it was made from.
    old: Option<(Job, u64)>,
    new: Option<Fqn>,
}

/// Creates a job.
#[utoipa::path(post, path = "/jobs", tag = "jobs", params(WriteParams), request_body = Job,
    responses((status = 201, description = "`Location` names the job", body = Job),
        (status = 409, description = "The name is taken, or a route's https-only flag differs", body = ApiError)))]
pub(in crate::api) async fn create(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    Params(params): Params<WriteParams>,
    once: Once,
    sent: Sent<Job>,
) -> Answer {
    let what = What::Create { id: JobId(api.uuid()), job: sent.value };
    change(&api, Change { who, params, what }, once, &sent.raw).await
}

/// Replaces a job's record: read it, change it, send it back whole.
#[utoipa::path(put, path = "/jobs/{uuid}", tag = "jobs", params(("uuid" = uuid::Uuid, Path), WriteParams), request_body = Job,
    responses((status = 200, body = Job), (status = 404, body = ApiError),
        (status = 409, description = "Another version is there, or the change needs a restart", body = ApiError)))]
pub(in crate::api) async fn update(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<JobId>,
    Params(params): Params<WriteParams>,
    once: Once,
    sent: Sent<Job>,
) -> Answer {
    let what = What::Update { id, job: sent.value };
    change(&api, Change { who, params, what }, once, &sent.raw).await
}

/// Replaces all instances of a job; starts it when it is not started.
#[utoipa::path(post, path = "/jobs/{uuid}/restart", tag = "jobs", params(("uuid" = uuid::Uuid, Path), WriteParams),
    responses((status = 202, description = "The task tells how it goes", body = Location), (status = 404, body = ApiError)))]
pub(in crate::api) async fn restart(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<JobId>,
    Params(params): Params<WriteParams>,
    once: Once,
) -> Answer {
    change(&api, Change { who, params, what: What::Restart { id } }, once, b"").await
}

/// Removes a job; its instances stop.
#[utoipa::path(delete, path = "/jobs/{uuid}", tag = "jobs", params(("uuid" = uuid::Uuid, Path), WriteParams),
    responses((status = 204), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub(in crate::api) async fn delete(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<JobId>,
    Params(params): Params<WriteParams>,
    once: Once,
) -> Answer {
    change(&api, Change { who, params, what: What::Delete { id } }, once, b"").await
}

/// What a record would become.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(in crate::api) struct Checked {
    /// The record as it would be written; `auto` endpoints are examples.
    job: Job,
    /// Fields for whose sake running instances would be replaced.
    restart_needed: Vec<String>,
}

/// Says what creating or changing the job would do, and does nothing. A record with a UUID is a change.
#[utoipa::path(post, path = "/jobs/check", tag = "jobs", request_body = Job,
    responses((status = 200, body = Checked), (status = 409, body = ApiError)))]
pub(in crate::api) async fn check(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    sent: Sent<Job>,
) -> Answer {
    let author = Author { who: &who, now_ms: api.now_ms() };
    let mut job = sent.value;
    auto::resolve(&api, &mut job).await?;
    let (old, verb) = if job.uuid.0.is_nil() {
        authorize(&who, Action::Create, &job.fqn)?;
        if api.store.get(&name_key(&job.fqn)).await?.is_some() {
            return Err(taken(&job.fqn));
        }
        (None, "creating")
    } else {
        let old = read(&api, job.uuid).await?;
        authorize(&who, Action::Update, &old.fqn)?;
        (Some(old), "updating")
    };
    let mut job = match &old {
        None => draft::first(job, JobId(api.uuid()), &author)?,
        Some(old) => draft::next(old, job, true, &author)?,
    };
    check_packages(&api, old.as_ref(), &mut job).await?;
    let keys = guard_keys(old.as_ref(), Some(&job));
    let guards = guards(&api, &keys, &BTreeSet::new()).await?.unwrap_or_default();
    jobs::check(old.as_ref(), &job, &guards).map_err(|error| named(verb, error))?;
    let fields = old.as_ref().map(|old| jobs::restart_needed(old, &job)).unwrap_or_default();
    let restart_needed = fields.into_iter().map(str::to_owned).collect();
    Ok(json(StatusCode::OK, &Checked { job, restart_needed }))
}

/// A change of the state is more than an update.
fn authorize_switch(who: &Principal, old: &Job, new: &Job) -> Result<(), Failure> {
    match (old.state, new.state) {
        (old, new) if old == new => {}
        (_, JobState::Started) => authorize(who, Action::Start, &old.fqn)?,
        (JobState::Started, _) => authorize(who, Action::Stop, &old.fqn)?,
        _ => {}
    }
    Ok(())
}

/// A change as it was asked for.
struct Change {
    who: Principal,
    params: WriteParams,
    what: What,
}

enum What {
    Create { id: JobId, job: Job },
    Update { id: JobId, job: Job },
    Restart { id: JobId },
    Delete { id: JobId },
}

impl Change {
    /// Whether the client named the version that it knows. If not, a race with another writer is repeated, not told.
    const fn names_version(&self) -> bool {
        match self.what {
            What::Create { .. } | What::Update { .. } => true,
            What::Restart { .. } => false,
            What::Delete { .. } => self.params.version_id.is_some(),
        }
    }

    /// The writes, on what the store holds now; none when that changed while it was read.
    async fn plan(&self, api: &Shared) -> Result<Option<Plan>, Failure> {
        let author = Author { who: &self.who, now_ms: api.now_ms() };
        match &self.what {
            What::Create { id, job } => self.create(api, *id, job.clone(), &author).await,
            What::Update { id, job } => {
                let old = read(api, *id).await?;
                authorize(&self.who, Action::Update, &old.fqn)?;
                let mut job = job.clone();
                let chosen = auto::resolve(api, &mut job).await?;
                let new = draft::next(&old, job, self.params.restart, &author)?;
                authorize_switch(&self.who, &old, &new)?;
                replace(api, old, new, &chosen).await
            }
            What::Restart { id } => {
                let old = read(api, *id).await?;
                authorize(&self.who, Action::Start, &old.fqn)?;
                let new = draft::restarted(&old, &author);
                let Some(mut plan) = replace(api, old, new, &BTreeSet::new()).await? else {
                    return Ok(None);
                };
                let location = plan.answer.task.clone().unwrap_or_default();
                let body = Location { location: location.clone() };
                plan.answer = Written {
                    location: Some(location),
                    task: plan.answer.task,
                    ..Written::new(StatusCode::ACCEPTED, &body)?
                };
                Ok(Some(plan))
            }
            What::Delete { id } => self.delete(api, *id).await.map(Some),
        }
    }

    async fn create(
        &self,
        api: &Shared,
        id: JobId,
        mut job: Job,
        author: &Author<'_>,
    ) -> Result<Option<Plan>, Failure> {
        authorize(&self.who, Action::Create, &job.fqn)?;
        let chosen = auto::resolve(api, &mut job).await?;
        let mut job = draft::first(job, id, author)?;
        let mut writes = check_packages(api, None, &mut job).await?;
        let Some(guards) = guards(api, &guard_keys(None, Some(&job)), &chosen).await? else {
            return Ok(None);
        };
        writes.extend(jobs::create(&job, &guards).map_err(|error| named("creating", error))?);
        let mut answer = Written::new(StatusCode::CREATED, &job)?;
        answer.location = Some(format!("/v1/jobs/{id}"));
        if job.state == JobState::Started {
            answer.task = Some(tasks::open(api, &job, &mut writes)?);
        }
        bounded(&writes)?;
        let written = awaited(&job);
        Ok(Some(Plan { writes, answer, written, old: None, new: Some(job.fqn) }))
    }

    async fn delete(&self, api: &Shared, id: JobId) -> Result<Plan, Failure> {
        let old = read(api, id).await?;
        authorize(&self.who, Action::Delete, &old.fqn)?;
        let sent = self.params.version_id.unwrap_or(old.version_id);
        if sent != old.version_id {
            return Err(draft::stale(&old, sent));
        }
        let keys = guard_keys(Some(&old), None);
        let guards = guards(api, &keys, &BTreeSet::new()).await?.unwrap_or_default();
        let writes = jobs::delete(&old, &guards, api.now_ms())?;
        let (answer, written) = (Written::empty(), AwaitedJob { id, routes: None });
        Ok(Plan { writes, answer, written, old: Some((old, sent)), new: None })
    }
}

async fn replace(
    api: &Shared,
    old: Job,
    mut new: Job,
    chosen: &BTreeSet<String>,
) -> Result<Option<Plan>, Failure> {
    let mut writes = check_packages(api, Some(&old), &mut new).await?;
    let Some(guards) = guards(api, &guard_keys(Some(&old), Some(&new)), chosen).await? else {
        return Ok(None);
    };
    writes.extend(jobs::update(&old, &new, &guards).map_err(|error| named("updating", error))?);
    let mut answer = Written::new(StatusCode::OK, &new)?;
    if tasks::moves_instances(&old, &new) {
        answer.task = Some(tasks::open(api, &new, &mut writes)?);
    }
    bounded(&writes)?;
    let (sent, written) = (old.version_id, awaited(&new));
    Ok(Some(Plan { writes, answer, written, old: Some((old, sent)), new: None }))
}

fn awaited(job: &Job) -> AwaitedJob {
    // The revision is that of the write, which is not known yet.
    AwaitedJob { id: job.uuid, routes: JobRoutes::of(job, 0) }
}

/// Makes the change until it is in, or cannot be.
async fn change(api: &Shared, change: Change, once: Once, raw: &[u8]) -> Answer {
    change.params.check()?;
    let mut keyed = once.of(&change.who, raw);
    for attempt in 0..ATTEMPTS_MAX {
        let replayed = keyed.replay(api).await?;
        if let Some((response, revision)) = replayed {
            return Ok(lived(api, &change.params, (revision, None), response).await);
        }
        match attempt_once(api, &change, &keyed).await {
            Ok(Some((revision, job, response))) => {
                return Ok(lived(api, &change.params, (revision, Some(job)), response).await);
            }
            Ok(None) => {}
            // The same request may have had its effect just now, and be what is in the way.
            Err(failure) => {
                return match keyed.replay(api).await? {
                    Some((response, revision)) => {
                        Ok(lived(api, &change.params, (revision, None), response).await)
                    }
                    None => Err(failure),
                };
            }
        }
        let pause = attempt.min(8) * (u64::from(api.uuid().as_bytes()[0]) % 4 + 1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    Err(moved())
}

/// None: what was read is old, though nothing is wrong with the request.
async fn attempt_once(
    api: &Shared,
    change: &Change,
    keyed: &Keyed,
) -> Result<Option<(u64, AwaitedJob, Response)>, Failure> {
    let Some(mut plan) = change.plan(api).await? else { return Ok(None) };
    plan.writes.extend(keyed.write(api, &plan.answer)?);
    match api.store.commit(&plan.writes).await {
        Ok(revision) => {
            if plan.answer.task.is_some() {
                api.tasks.notify_one();
            }
            Ok(Some((revision, plan.written, plan.answer.at(revision))))
        }
        Err(StoreError::Conflict { key, found, .. }) => match conflict_on(&key) {
            _ if keyed.is_mine(&key) => Ok(None),
            Conflict::Name => Err(plan.new.as_ref().map_or_else(moved, taken)),
            Conflict::Job if change.names_version() => Err(raced(&plan, found)),
            Conflict::Job | Conflict::Guard | Conflict::Other => Ok(None),
        },
        Err(error) => Err(error.into()),
    }
}

fn raced(plan: &Plan, found: u64) -> Failure {
    match &plan.old {
        Some((old, _)) if found == 0 => no_such_job(old.uuid),
        Some((old, sent)) => draft::stale_at(old, *sent, found),
        None => moved(),
    }
}

fn moved() -> Failure {
    let mut failure = Failure::new(ErrorCode::Conflict, "too many others change the same routes")
        .hint("try again in a moment");
    (failure.0.retry, failure.0.fatal, failure.0.try_again_in_ms) = (true, false, 1_000);
    failure
}

fn taken(fqn: &Fqn) -> Failure {
    let mut error =
        ApiError::new(ErrorCode::Conflict, format!("error creating job: {fqn} already exists"))
            .hint("another name, or apc app update for the one that is there");
    error.duplicate_key = true;
    error.into()
}

/// Conflicts are told with what was being done, as the original does.
fn named(doing: &str, mut error: ApiError) -> Failure {
    if error.error == ErrorCode::Conflict {
        error.message = format!("error {doing} job: {}", error.message);
    }
    error.into()
}

/// A transaction has room for so many writes; one is kept free for the answer.
fn bounded(writes: &[Write]) -> Result<(), Failure> {
    let largest = writes.iter().map(|write| match write {
        Write::Put { value, .. } => value.len(),
        _ => 0,
    });
    if largest.max().unwrap_or(0) > JOB_BYTES_MAX {
        let message = format!("the job's record has more than {JOB_BYTES_MAX} bytes");
        return Err(Failure::new(ErrorCode::TooLarge, message));
    }
    if writes.len() < store::WRITES_MAX {
        return Ok(());
    }
    let message = format!("one change may touch {} routes and packages", store::WRITES_MAX - 6);
    Err(Failure::new(ErrorCode::TooLarge, message).hint("change them in several steps"))
}

/// None: an endpoint that was chosen as free has been taken since.
async fn guards(
    api: &Shared,
    keys: &[String],
    chosen: &BTreeSet<String>,
) -> Result<Option<Guards>, Failure> {
    let mut guards = Guards::default();
    for key in keys {
        let record = api.store.get(key).await?;
        if record.is_some() && chosen.contains(key) {
            return Ok(None);
        }
        guards.note(record);
    }
    Ok(Some(guards))
}

/// Packages that the job begins to use must be there, and stay until the job is written.
async fn check_packages(
    api: &Shared,
    old: Option<&Job>,
    new: &mut Job,
) -> Result<Vec<Write>, Failure> {
    let starts = new.state == JobState::Started;
    let mut checks = Vec::new();
    for used in &mut new.packages {
        let before = old.and_then(|old| old.packages.iter().find(|was| was.uuid == used.uuid));
        if before.is_some() && !starts {
            continue;
        }
        let key = package_key(used.uuid);
        let record = api.store.get(&key).await?;
        let package: Option<Package> = record.as_ref().map(decode_value).transpose()?;
        let (Some(record), Some(package)) = (record, package) else {
            let message = format!("there is no package {}", used.uuid);
            return Err(Failure::new(ErrorCode::Invalid, message).hint("apc package list"));
        };
        if package.state == PackageState::Deleted
            || (starts && package.state != PackageState::Ready)
        {
            let (fqn, state) = (&package.fqn, package.state.as_str());
            return Err(Failure::new(ErrorCode::Conflict, format!("{fqn} is {state}, not ready"))
                .hint("wait until its upload is done, or use another package"));
        }
        used.state = Some(package.state);
        if before.is_none() {
            checks.push(Write::Check { key, expect: Expect::Version(record.version) });
        }
    }
    Ok(checks)
}

/// Adds what the routers say, if the client wants to know.
async fn lived(
    api: &Shared,
    params: &WriteParams,
    (revision, job): (u64, Option<AwaitedJob>),
    mut response: Response,
) -> Response {
    if params.wait.as_deref() == Some("live") {
        let timeout = params.timeout_ms.unwrap_or(LIVE_WAIT_MS).min(LIVE_WAIT_MAX_MS);
        let report = routers::await_live(api, revision, job, Duration::from_millis(timeout)).await;
        if let Ok(text) = serde_json::to_string(&report) {
            set(response.headers_mut(), LIVE, &text);
        }
    }
    response
}
