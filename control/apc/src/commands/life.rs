//! Writing a job record, and waiting until instances are what it says.
//!
//! ```text
//! read → edit → write ─ conflict ─▶ read again (bounded)
//!                 └─ requires_restart ─▶ write with restart
//! ```
//!
//! Deliberately absent: what is edited.

use crate::cli::{Named, Wait};
use crate::client::Answer;
use crate::failure::{Exit, Failure};
use crate::session::{LIVE_TIMEOUT_MS, Session, live_report};
use crate::units;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use wire::job::RolloutMode;
use wire::routing::LiveReport;
use wire::{ErrorCode, InstanceId, InstanceRecord, InstanceState, Job, JobState};

/// Times that a record is read again because somebody else wrote it.
const CONFLICTS_MAX: u32 = 8;
/// Failed instances after which nobody waits any longer; the number that counts as flapping by default.
const FAILURES_MAX: usize = 3;
/// Between looks at the instances.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Until all routers have a running instance; without an answer it is accessible all the same, perhaps a moment later.
const ROUTED_TIMEOUT: Duration = Duration::from_secs(2);
/// For packages to arrive, beside the job's own times.
const SETUP_ALLOWANCE: Duration = Duration::from_secs(60);

/// What came of a write.
#[derive(Debug)]
pub(super) struct Saved {
    /// The record as it is now.
    pub(super) job: Job,
    /// What the routers said.
    pub(super) live: Option<LiveReport>,
    /// Whether anything was written.
    pub(super) written: bool,
    /// Whether instances are replaced.
    pub(super) restarted: bool,
}

/// Reads, edits, writes. `may_restart`: a change that running instances cannot take over replaces them.
pub(super) async fn save(
    session: &Session,
    mut job: Job,
    may_restart: bool,
    edit: impl Fn(&mut Job) -> Result<(), Failure>,
) -> Result<Saved, Failure> {
    let client = session.client()?;
    let mut restart = false;
    for _ in 0..CONFLICTS_MAX {
        let mut wanted = job.clone();
        edit(&mut wanted)?;
        if wanted == job {
            return Ok(Saved { job, live: None, written: false, restarted: false });
        }
        wanted.health = None;
        let query = if restart { "&restart=true" } else { "" };
        let path = format!("/jobs/{}?wait=live&timeout_ms={LIVE_TIMEOUT_MS}{query}", job.uuid);
        let written: Result<Answer<Job>, Failure> = client.put(&path, &wanted).await;
        match written {
            Ok(answer) => {
                let live = live_report(&answer);
                return Ok(Saved { job: answer.body, live, written: true, restarted: restart });
            }
            Err(failure) if failure.requires_restart() && may_restart && !restart => restart = true,
            Err(failure) if failure.code() == Some(ErrorCode::Conflict) => {
                let now: Job = client.get(&format!("/jobs/{}", job.uuid)).await?;
                if now.version_id == job.version_id {
                    return Err(failure.while_doing("updating job"));
                }
                job = now;
            }
            Err(failure) => return Err(failure.while_doing("updating job")),
        }
    }
    Err(Failure::new(
        Exit::Conflict,
        format!("{} was changed by somebody else {CONFLICTS_MAX} times", job.fqn),
    )
    .hint("the same again"))
}

/// `apc app start`
pub(super) async fn start(session: &Session, named: &Named) -> Result<(), Failure> {
    let job = session.job(&named.name).await?;
    let job = begin(session, job).await?;
    await_running(session, &job, &named.wait).await?;
    finish(session, &job).await
}

/// Sets a job to `started`.
pub(super) async fn begin(session: &Session, job: Job) -> Result<Job, Failure> {
    let step = session.screen.step("Starting the job");
    let saved = save(session, job, false, |job| {
        job.state = JobState::Started;
        Ok(())
    })
    .await?;
    step.done();
    Ok(saved.job)
}

/// `apc app stop`
pub(super) async fn stop(session: &Session, named: &Named) -> Result<(), Failure> {
    let job = session.job(&named.name).await?;
    let step = session.screen.step("Stopping the job");
    let saved = save(session, job, false, |job| {
        if job.state != JobState::Ready {
            job.state = JobState::Stopped;
        }
        Ok(())
    })
    .await?;
    await_stopped(session, &saved.job, &named.wait).await?;
    step.done();
    finish(session, &saved.job).await
}

/// `apc app restart`
pub(super) async fn restart(session: &Session, named: &Named) -> Result<(), Failure> {
    let job = session.job(&named.name).await?;
    let job = replace(session, &job).await?;
    await_running(session, &job, &named.wait).await?;
    finish(session, &job).await
}

/// Asks for new instances in place of all that run.
pub(super) async fn replace(session: &Session, job: &Job) -> Result<Job, Failure> {
    let client = session.client()?;
    if job.state != JobState::Started {
        return begin(session, job.clone()).await;
    }
    let step = session.screen.step("Restarting the job");
    let path = format!("/jobs/{}/restart", job.uuid);
    let _: Answer<Value> = client
        .post(&path, &Value::Null)
        .await
        .map_err(|failure| failure.while_doing("restarting job"))?;
    let now = client.get(&format!("/jobs/{}", job.uuid)).await?;
    step.done();
    Ok(now)
}

/// The end of a command that changed a job.
pub(super) async fn finish(session: &Session, job: &Job) -> Result<(), Failure> {
    if session.globals.json {
        let now: Job = session.client()?.get(&format!("/jobs/{}", job.uuid)).await?;
        session.print_json(&now)?;
    }
    session.screen.success();
    Ok(())
}

/// What the instances of a job say about its start.
#[derive(Debug, Default, PartialEq, Eq)]
struct Standing {
    running: usize,
    routed: usize,
    /// Of any version, and there.
    live: usize,
    /// Of this version, and ended.
    ended: usize,
    /// Of this version, and ended badly.
    failed: Vec<(InstanceId, Option<String>)>,
}

fn standing(job: &Job, instances: &[InstanceRecord]) -> Standing {
    let mut standing = Standing::default();
    for instance in instances {
        let current = instance.job_version_id >= job.restart_version;
        standing.live += usize::from(instance.state.is_live() && !instance.exited);
        standing.ended += usize::from(instance.exited && instance.job_version_id >= job.version_id);
        if current && instance.state.is_running() && !instance.exited {
            standing.running += 1;
            standing.routed += usize::from(instance.legs.is_some_and(|legs| legs.routed.is_some()));
        }
        if instance.failed && instance.job_version_id >= job.version_id {
            standing.failed.push((instance.uuid, instance.reason.clone()));
        }
    }
    standing
}

/// Waits until as many instances run as shall, no fewer and no more, and the routers have them. False when the job has
/// done its work and no instance runs any longer.
pub(super) async fn await_running(
    session: &Session,
    job: &Job,
    wait: &Wait,
) -> Result<bool, Failure> {
    if wait.no_wait {
        return Ok(true);
    }
    if job.num_instances == 0 {
        return await_stopped(session, job, wait).await.map(|()| true);
    }
    let screen = &session.screen;
    screen.say("Waiting for the application to start...");
    screen.resume_with(format!("apc app instances {}", job.fqn));
    let bound = time_to_wait(job, wait)?;
    let began = Instant::now();
    let wanted = job.num_instances as usize;
    let mut shown: BTreeMap<InstanceId, InstanceState> = BTreeMap::new();
    let mut running_since = None;
    loop {
        let instances = look(session, job).await?;
        tell(session, &mut shown, &instances, job, began);
        let now = standing(job, &instances);
        if now.running == wanted {
            let since = *running_since.get_or_insert_with(Instant::now);
            let routes = job.routes().next().is_some();
            if !routes || now.routed >= wanted || since.elapsed() >= ROUTED_TIMEOUT {
                screen.clear_live_line();
                return Ok(true);
            }
        } else {
            running_since = None;
            let end = end_of(session, job, &now).await?;
            let given_up = end == Some(JobState::Errored) && !now.failed.is_empty();
            if given_up || now.running < wanted && now.failed.len() >= FAILURES_MAX {
                screen.clear_live_line();
                return Err(failed_start(session, job, &now).await);
            }
            if end == Some(JobState::Finished) {
                screen.clear_live_line();
                screen.say("It has ended well and is not started again");
                return Ok(false);
            }
        }
        if began.elapsed() >= bound {
            screen.clear_live_line();
            return Err(late(job, bound, &format!("{} of {wanted} instances run", now.running)));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// The state in which a job stays that starts nothing any more; none while something may still come.
async fn end_of(session: &Session, job: &Job, now: &Standing) -> Result<Option<JobState>, Failure> {
    if now.live > 0 || now.ended == 0 {
        return Ok(None);
    }
    let job: Job = session.client()?.get(&format!("/jobs/{}", job.uuid)).await?;
    Ok(Some(job.state).filter(|state| matches!(state, JobState::Finished | JobState::Errored)))
}

/// Waits until no instance is left.
pub(super) async fn await_stopped(
    session: &Session,
    job: &Job,
    wait: &Wait,
) -> Result<(), Failure> {
    if wait.no_wait {
        return Ok(());
    }
    session.screen.resume_with(format!("apc app instances {}", job.fqn));
    let bound = time_to_wait(job, wait)?;
    let began = Instant::now();
    loop {
        let instances = look(session, job).await?;
        let left = instances
            .iter()
            .filter(|one| one.state != InstanceState::Removed && !one.exited)
            .count();
        if left == 0 {
            return Ok(());
        }
        if began.elapsed() >= bound {
            return Err(late(job, bound, &format!("{left} instances are left")));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// Those that ended too: they tell why the others do not come.
async fn look(session: &Session, job: &Job) -> Result<Vec<InstanceRecord>, Failure> {
    session.client()?.list(&format!("/jobs/{}/instances?ended=true", job.uuid)).await
}

fn time_to_wait(job: &Job, wait: &Wait) -> Result<Duration, Failure> {
    if let Some(text) = &wait.wait_timeout {
        return units::seconds(text).map(Duration::from_secs);
    }
    let process = job.process().cloned().unwrap_or_default();
    let one = process.start_command_timeout.saturating_add(process.stop_timeout.saturating_mul(2));
    let rounds = if job.rollout.mode == RolloutMode::Rolling {
        u64::from(job.num_instances.max(1))
    } else {
        1
    };
    Ok(SETUP_ALLOWANCE + Duration::from_secs(one.saturating_mul(rounds).min(86_400)))
}

fn late(job: &Job, bound: Duration, how: &str) -> Failure {
    Failure::new(Exit::TimedOut, format!("{} is not ready after {} s", job.fqn, bound.as_secs()))
        .because(format!("{how}; the cluster goes on"))
        .hint(format!("apc app instances {}", job.fqn))
}

/// One live line on a terminal, one line per change elsewhere.
fn tell(
    session: &Session,
    shown: &mut BTreeMap<InstanceId, InstanceState>,
    instances: &[InstanceRecord],
    job: &Job,
    began: Instant,
) {
    let (wanted, since) = (job.num_instances, job.version_id);
    let running = instances.iter().filter(|one| one.state.is_running() && !one.exited).count();
    // What ended before this start is not news.
    let news = |one: &&InstanceRecord| !one.exited || one.job_version_id >= since;
    for one in instances.iter().filter(news) {
        if shown.insert(one.uuid, one.state) != Some(one.state) {
            let code = one.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
            session.screen.change(&format!("[{}] {}{code}", one.uuid.short(), one.state));
        }
    }
    let states: Vec<String> = instances
        .iter()
        .filter(|one| one.state.is_live() && !one.state.is_running())
        .take(3)
        .map(|one| format!("[{}] {}", one.uuid.short(), one.state))
        .collect();
    session.screen.live_line(&format!(
        "{running}/{wanted} running, {} s  {}",
        began.elapsed().as_secs(),
        states.join("  ")
    ));
}

/// Nobody should have to ask for the reason: the last lines are shown.
async fn failed_start(session: &Session, job: &Job, now: &Standing) -> Failure {
    for line in super::logs::last_lines(session, job).await {
        session.screen.say(line);
    }
    let reason = now.failed.iter().rev().find_map(|(_, reason)| reason.as_deref());
    let how = reason.map(|reason| format!("of the last one: {reason}")).unwrap_or_default();
    let count = now.failed.len();
    let failed = if count == 1 { "one instance".to_owned() } else { format!("{count} instances") };
    Failure::failed(format!("{} does not start: {failed} failed", job.fqn))
        .because(how)
        .hint(format!("apc app logs {}", job.fqn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state: &str, version: u64, failed: bool) -> InstanceRecord {
        serde_json::from_value(serde_json::json!({
            "uuid": uuid::Uuid::new_v4(), "host": "h", "instance_manager": uuid::Uuid::new_v4(),
            "job_version_id": version, "state": state, "created_time": "2026-01-01T00:00:00Z",
            "failed": failed, "exited": failed, "exit_code": if failed { Some(1) } else { None },
        }))
        .unwrap()
    }

    /// Goal: old instances do not count as started, failures of before do not count as failures.
    #[test]
    fn only_this_version_counts() {
        let mut job = Job::named("job::/a::b".parse().unwrap());
        (job.version_id, job.restart_version) = (9, 5);
        let seen = [
            instance("RUNNING", 4, false),
            instance("RUNNING", 5, false),
            instance("FIRST_RUNNING", 9, false),
            instance("STARTING", 9, false),
            instance("REMOVED", 8, true),
            instance("REMOVED", 9, true),
        ];
        let now = standing(&job, &seen);
        assert_eq!((now.running, now.routed, now.failed.len()), (2, 0, 1));
        assert_eq!((now.live, now.ended), (4, 1));
    }

    /// Goal: the wait is what is asked for, or follows from the job's own times.
    #[test]
    fn waits_are_bounded() {
        let mut job = Job::named("job::/a::b".parse().unwrap());
        let of = |job: &Job, text: Option<&str>| {
            time_to_wait(job, &Wait { wait_timeout: text.map(str::to_owned), no_wait: false })
                .unwrap()
                .as_secs()
        };
        assert_eq!((of(&job, Some("5s")), of(&job, None)), (5, 100));
        job.rollout.mode = RolloutMode::Rolling;
        job.num_instances = 10;
        assert_eq!(of(&job, None), 460);
    }
}
