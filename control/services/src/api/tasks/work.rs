//! The dull loop behind tasks: look at what is open, note what is new, remove what is old.
//!
//! Woken by a new task, by the health manager's word that counts changed, and by its period. Every API server runs it; an
//! open task is left to its owner as long as that one is alive, and two that act at once do no harm, since each write
//! compares versions. Deliberately absent: what a look means (`plan.rs`).

use super::plan::{Look, after};
use super::{Entry, LEASE_MS, Mark, OPEN, TASKS, open_key, task_key};
use crate::api::once::{IDEMPOTENCY, KEPT_MS, Stored};
use crate::api::respond::Failure;
use crate::api::seen;
use crate::api::state::{Api, Shared, decode, put};
use crate::jobs;
use bus::{Next, Subscription};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{Expect, Record, StoreError, Write};
use tokio::time::Instant;
use wire::api::TaskState;
use wire::health::JobView;
use wire::{Job, JobId, TaskId, subject};

/// Between two looks when nobody wakes the loop.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks when everybody does.
const PAUSE: Duration = Duration::from_millis(25);
/// Open tasks in one look; the others have their turn when these are done.
const OPEN_MAX: u32 = 512;
/// Between two clearances of what has expired.
const CLEAR_PERIOD: Duration = Duration::from_secs(10 * 60);
/// Records that one clearance removes; the rest waits for the next.
const CLEAR_MAX: usize = 10_000;
/// Before the bus is asked again for a subscription.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the server ends.
pub(in crate::api) async fn run(api: Shared) {
    let stop = api.stop.clone();
    stop.run_until_cancelled(looking(&api)).await;
}

async fn looking(api: &Shared) {
    let mut looks: Option<Subscription> = None;
    let mut retry_at = Instant::now();
    let mut clear_at = Instant::now() + CLEAR_PERIOD;
    loop {
        if looks.is_none() && retry_at <= Instant::now() {
            looks = api.bus.subscribe(subject::HM_LOOK, None).await.ok();
            retry_at = Instant::now() + RETRY;
        }
        let busy = match look(api).await {
            Ok(open) => open > 0,
            Err(Failure(error)) => {
                tracing::warn!(error = error.message, "tasks were not looked at");
                false
            }
        };
        if clear_at <= Instant::now() {
            clear(api).await;
            clear_at = Instant::now() + CLEAR_PERIOD;
        }
        tokio::time::sleep(PAUSE).await;
        wake(api, &mut looks, busy).await;
    }
}

/// Waits for a reason to look. Counts that changed matter only while something is open.
async fn wake(api: &Shared, looks: &mut Option<Subscription>, busy: bool) {
    let counts = async {
        match looks {
            Some(subscription) if busy => match subscription.next().await {
                Some(Next::Message(_) | Next::Lost(_)) => true,
                None => false,
            },
            _ => std::future::pending().await,
        }
    };
    let heard = tokio::select! {
        () = api.tasks.notified() => true,
        heard = counts => heard,
        () = tokio::time::sleep(PERIOD) => true,
    };
    if !heard {
        *looks = None;
    }
}

/// One look at all open tasks that are ours, or nobody's. How many are open.
async fn look(api: &Shared) -> Result<usize, Failure> {
    let open = api.store.list(OPEN, None, OPEN_MAX).await?.records;
    let mut ours: Vec<(TaskId, Record)> = Vec::new();
    for record in &open {
        let Some(id) = record.key.strip_prefix(OPEN).and_then(|id| id.parse().ok()) else {
            continue;
        };
        let mark: Mark = decode(record)?;
        if let Some(record) = hold(api, record, &mark).await? {
            ours.push((id, record));
        }
    }
    let mut entries: Vec<(TaskId, Record, Entry, u64)> = Vec::new();
    for (id, mark) in ours {
        match api.read::<Entry>(&task_key(id)).await? {
            Some((entry, record)) => entries.push((id, mark, entry, record.version)),
            // A mark without a task has nothing to tell.
            None => drop(commit(api, &[close(&mark)]).await?),
        }
    }
    let ids: Vec<JobId> = entries.iter().map(|(_, _, entry, _)| entry.goal.job).collect();
    // A health manager that has not heard everybody would make a stop look done.
    let views = seen::jobs(api, &ids).await.ok().filter(|views| views.complete);
    let views = views.map(|views| views.jobs);
    for (id, mark, entry, version) in entries {
        note(api, id, &mark, &entry, version, views.as_ref()).await?;
    }
    Ok(open.len())
}

/// The mark as ours: renewed when half of it is over, taken over when its owner let it expire; none when it is another's.
async fn hold(api: &Api, record: &Record, mark: &Mark) -> Result<Option<Record>, Failure> {
    let now = api.now_ms();
    let mine = mark.owner == api.id.to_string();
    if !mine && mark.until_ms > now {
        return Ok(None);
    }
    if mine && mark.until_ms > now + LEASE_MS / 2 {
        return Ok(Some(record.clone()));
    }
    let mark = Mark { owner: api.id.to_string(), until_ms: now + LEASE_MS };
    let write = put(record.key.clone(), &mark, Expect::Version(record.version))?;
    let Write::Put { value, .. } = &write else { return Ok(None) };
    let held = Record { value: value.clone(), version: record.version + 1, ..record.clone() };
    Ok(commit(api, &[write]).await?.then_some(held))
}

async fn note(
    api: &Api,
    id: TaskId,
    mark: &Record,
    entry: &Entry,
    version: u64,
    views: Option<&BTreeMap<JobId, JobView>>,
) -> Result<(), Failure> {
    let record = api.store.get(&jobs::job_key(entry.goal.job)).await?;
    let job: Option<Job> = record.as_ref().map(jobs::decode).transpose()?;
    let view = views.and_then(|views| views.get(&entry.goal.job));
    let look = Look { job: job.as_ref(), view, now_ms: api.now_ms() };
    let over = entry.task.state != TaskState::Running;
    let mut writes = Vec::new();
    let next = after(entry, &look);
    if let Some(next) = &next {
        writes.push(put(task_key(id), next, Expect::Version(version))?);
    }
    if over || next.is_some_and(|next| next.task.state != TaskState::Running) {
        writes.push(close(mark));
    }
    if !writes.is_empty() {
        commit(api, &writes).await?;
    }
    Ok(())
}

fn close(mark: &Record) -> Write {
    debug_assert!(mark.key.starts_with(OPEN), "{} is no mark", mark.key);
    Write::Delete { key: mark.key.clone(), expect: Expect::Any }
}

/// False: somebody else wrote first, the next look sees what.
async fn commit(api: &Api, writes: &[Write]) -> Result<bool, Failure> {
    match api.store.commit(writes).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes tasks and stored answers that are older than a day.
async fn clear(api: &Shared) {
    let now = api.now_ms();
    let old_task = |record: &Record| {
        // The names of tasks are in the order of their beginnings.
        let id: Option<uuid::Uuid> = record.key.strip_prefix(TASKS).and_then(|id| id.parse().ok());
        let begun = id.and_then(|id| id.get_timestamp()).map_or(0, |at| at.to_unix().0 * 1_000);
        begun + KEPT_MS <= now
    };
    let old_answer = |record: &Record| {
        serde_json::from_slice::<Stored>(&record.value).is_ok_and(|kept| kept.expires_ms <= now)
    };
    for (prefix, old) in
        [(TASKS, &old_task as &(dyn Fn(&Record) -> bool + Sync)), (IDEMPOTENCY, &old_answer)]
    {
        if let Err(Failure(error)) = clear_prefix(api, prefix, old).await {
            tracing::warn!(error = error.message, prefix, "old records were not cleared");
        }
    }
}

async fn clear_prefix(
    api: &Shared,
    prefix: &str,
    old: &(dyn Fn(&Record) -> bool + Sync),
) -> Result<(), Failure> {
    let mut pages = api.store.pages(prefix);
    let mut removed = 0;
    while removed < CLEAR_MAX
        && let Some(page) = pages.next().await?
    {
        for record in page.records.iter().filter(|record| old(record)) {
            let mut writes = vec![Write::Delete {
                key: record.key.clone(),
                expect: Expect::Version(record.version),
            }];
            if let Some(id) = record.key.strip_prefix(TASKS).and_then(|id| id.parse().ok()) {
                writes.push(Write::Delete { key: open_key(id), expect: Expect::Any });
            }
            removed += usize::from(commit(api, &writes).await?);
        }
    }
    Ok(())
}
