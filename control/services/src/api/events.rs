//! What happens to jobs and their instances, as it happens.
//!
//! Changes of jobs come from the store and have its revision as id: whoever comes back with `Last-Event-ID` misses none as
//! long as the store remembers. Changes of instances come from the bus and live for the moment. A removed record does not
//! say what it was called, so removals of names are watched beside it: both are in one transaction. Deliberately absent:
//! samples of resources.

use super::received::Params;
use super::respond::{Answer, Failure};
use super::seats::Seat;
use super::state::Shared;
use super::stream::{self, BEAT};
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::{JOBS, NAMES, decode, job_key, job_of_key};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use bus::{Next, Subscription};
use futures_util::stream::unfold;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::time::Duration;
use store::{Change, StoreError, Watch};
use wire::api::Event;
use wire::health::Switch;
use wire::{ErrorCode, Fqn, Job, JobId, Namespace, subject};

/// Names of jobs that are remembered for events of their instances.
const NAMES_MAX: usize = 4_096;
/// How long the removal of a name may come after that of its record.
const NAME_WAIT: Duration = Duration::from_secs(5);

/// Which events.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// A job such as `job::/sandbox/admin::web`, or a realm such as `job::/sandbox` with all beneath; everything when it is
    /// not said. What it names need not be there yet.
    fqn: Option<String>,
    /// Only changes of jobs after this revision; `Last-Event-ID` wins.
    after: Option<u64>,
}

/// A part of all names.
#[derive(Debug, PartialEq, Eq)]
enum Realm {
    All,
    Below(String, Namespace),
    Named(Fqn),
}

impl Realm {
    fn read(text: Option<&str>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Self::All) };
        let invalid = |mistake: wire::FqnError| {
            Failure::new(ErrorCode::Invalid, mistake.to_string())
                .hint("job::/sandbox/admin::web, or job::/sandbox for all beneath")
        };
        match text.split_once("::") {
            Some((kind, namespace)) if !namespace.contains("::") => {
                Ok(Self::Below(kind.to_owned(), namespace.parse().map_err(invalid)?))
            }
            _ => Ok(Self::Named(text.parse().map_err(invalid)?)),
        }
    }

    fn covers(&self, fqn: &Fqn) -> bool {
        match self {
            Self::All => true,
            Self::Below(kind, namespace) => kind == fqn.kind() && namespace.covers(fqn.namespace()),
            Self::Named(named) => {
                let beneath = fqn.local().strip_prefix(named.local());
                named.kind() == fqn.kind()
                    && named.namespace() == fqn.namespace()
                    && beneath.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// Server-sent events named `event`, each an `Event`; `reset` when a client that comes back has missed some.
#[utoipa::path(get, path = "/events", tag = "events", params(EventParams, ("Last-Event-ID" = Option<u64>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = Event), (status = 400, body = wire::ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Params(params): Params<EventParams>,
) -> Answer {
    let realm = Realm::read(params.fqn.as_deref())?;
    let seat = api.seats.take(&who)?;
    let switches = api.bus.subscribe(subject::IM_SWITCH, None).await?;
    let (after, missed) = match stream::resume(&headers, params.after)? {
        Some(after) => (after, false),
        None => (api.store.revision().await?, false),
    };
    let (after, missed, jobs) = match api.store.watch(JOBS, after).await {
        Ok(watch) => (after, missed, watch),
        Err(StoreError::Compacted { .. }) => {
            let now = api.store.revision().await?;
            (now, true, api.store.watch(JOBS, now).await?)
        }
        Err(error) => return Err(error.into()),
    };
    let names = api.store.watch(NAMES, after).await?;
    let stop = api.stop.clone();
    let teller = Teller {
        api,
        who,
        realm,
        jobs,
        names,
        removed: BTreeMap::new(),
        switches,
        known: HashMap::new(),
        greeting: Some(if missed {
            stream::event(None, "reset", &Value::Null)
        } else {
            stream::alive()
        }),
        _seat: seat,
    };
    Ok(stream::sse(unfold(teller, move |mut teller| {
        let stop = stop.clone();
        async move {
            let bytes = stop.run_until_cancelled(teller.next()).await??;
            Some((Ok::<_, Infallible>(bytes), teller))
        }
    })))
}

struct Teller {
    api: Shared,
    who: Principal,
    realm: Realm,
    jobs: Box<dyn Watch>,
    names: Box<dyn Watch>,
    /// Names of removed jobs by revision, until their records' removal comes.
    removed: BTreeMap<u64, Fqn>,
    switches: Subscription,
    known: HashMap<JobId, Fqn>,
    /// Sent first, so that a client knows that it listens.
    greeting: Option<Bytes>,
    _seat: Seat,
}

impl Teller {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        loop {
            let told = tokio::select! {
                change = self.jobs.next() => match change {
                    Ok(change) => self.job(change).await,
                    Err(error) => return self.broken(&error),
                },
                change = self.names.next() => match change {
                    Ok(change) => { self.name(change); None }
                    Err(error) => return self.broken(&error),
                },
                next = self.switches.next() => match next {
                    Some(Next::Message(message)) => match message.decode() {
                        Ok(switch) => self.switch(&switch).await,
                        Err(_) => None,
                    },
                    Some(Next::Lost(_)) => None,
                    None => return None,
                },
                () = tokio::time::sleep(BEAT) => Some(stream::alive()),
            };
            if told.is_some() {
                return told;
            }
        }
    }

    /// The client comes back and is told then what can be told.
    fn broken(&self, error: &StoreError) -> Option<Bytes> {
        tracing::debug!(%error, principal = self.who.name, "a listener to events is sent away");
        None
    }

    fn name(&mut self, change: Change) {
        let fqn: Option<Fqn> = change.key.strip_prefix(NAMES).and_then(|fqn| fqn.parse().ok());
        if let (None, Some(fqn)) = (&change.record, fqn) {
            self.removed.insert(change.revision, fqn);
            if self.removed.len() > NAMES_MAX {
                self.removed.pop_first();
            }
        }
    }

    async fn job(&mut self, change: Change) -> Option<Bytes> {
        let id = job_of_key(&change.key)?;
        let (fqn, time_ms, payload) = match &change.record {
            Some(record) => {
                let job = decode(record).ok()?;
                self.know(id, &job.fqn);
                let action = if record.version == 1 { "job_create" } else { "job_update" };
                let time_ms = job.updated_at.map_or(0, wire::Timestamp::unix_ms);
                let payload = of_job(action, &job);
                (job.fqn, time_ms, payload)
            }
            None => {
                let fqn = self.removed_at(change.revision).await?;
                let payload = json!({ "action": "job_delete", "job_uuid": id });
                (fqn, self.api.now_ms(), payload)
            }
        };
        self.tell(Some(change.revision), "api_server", &fqn, time_ms, payload)
    }

    /// The name that was removed with a record.
    async fn removed_at(&mut self, revision: u64) -> Option<Fqn> {
        let deadline = tokio::time::Instant::now() + NAME_WAIT;
        loop {
            if let Some(fqn) = self.removed.remove(&revision) {
                return Some(fqn);
            }
            let change = tokio::time::timeout_at(deadline, self.names.next()).await.ok()?.ok()?;
            self.name(change);
        }
    }

    async fn switch(&mut self, switch: &Switch) -> Option<Bytes> {
        let seen = &switch.instance;
        let fqn = match self.known.get(&seen.job) {
            Some(fqn) => fqn.clone(),
            None => {
                let record = self.api.store.get(&job_key(seen.job)).await.ok()??;
                let job = decode(&record).ok()?;
                self.know(seen.job, &job.fqn);
                job.fqn
            }
        };
        let payload = json!({
            "action": "instance_state",
            "instance_uuid": seen.id,
            "instance_manager": switch.im,
            "job_uuid": seen.job,
            "job_fqn": fqn,
            "job_version_id": seen.job_version,
            "from": switch.from,
            "state": seen.state,
            "ended": switch.ended,
        });
        self.tell(None, "instance_manager", &fqn, seen.since_ms, payload)
    }

    fn know(&mut self, id: JobId, fqn: &Fqn) {
        if self.known.len() == NAMES_MAX {
            self.known.clear();
        }
        self.known.insert(id, fqn.clone());
    }

    fn tell(
        &self,
        id: Option<u64>,
        source: &str,
        fqn: &Fqn,
        time_ms: u64,
        payload: Value,
    ) -> Option<Bytes> {
        if !self.realm.covers(fqn) || authorize(&self.who, Action::Read, fqn).is_err() {
            return None;
        }
        let event = Event {
            resource: fqn.to_string(),
            event_source: source.to_owned(),
            time: time_ms.saturating_mul(1_000_000),
            kind: 0,
            payload,
        };
        Some(stream::event(id, "event", &event))
    }
}

fn of_job(action: &str, job: &Job) -> Value {
    json!({
        "action": action,
        "job_uuid": job.uuid,
        "created_by": job.created_by,
        "create_time": job.created_at,
        "update_time": job.updated_at,
        "updated_by": job.updated_by,
        "state": job.state,
        "version_id": job.version_id,
        "num_instances": job.num_instances,
        "labels": job.labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a realm covers what lies beneath it and no neighbour, a name covers itself and its parts.
    #[test]
    fn realms_cover_what_is_beneath() {
        let covers = |realm: &str, fqn: &str| {
            Realm::read(Some(realm)).unwrap().covers(&fqn.parse().unwrap())
        };
        assert!(covers("job::/", "job::/a::b") && covers("job::/a", "job::/a/c::b"));
        assert!(!covers("job::/a", "job::/ab::b") && !covers("package::/a", "job::/a::b"));
        assert!(covers("job::/a::b", "job::/a::b") && covers("job::/a::b", "job::/a::b/c"));
        assert!(!covers("job::/a::b", "job::/a::bc") && !covers("job::/a::b", "job::/a/b::b"));
        assert!(Realm::read(Some("nonsense")).is_err());
        assert!(Realm::read(None).unwrap().covers(&"job::/a::b".parse().unwrap()));
    }
}
