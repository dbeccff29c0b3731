//! Carries out the steps of a plan for one job: asks instance managers, writes the job's state, tells the user.
//!
//! Stops and updates come first and are answered before anything is started, so that the bounds of an update hold at the
//! instance managers too. Whatever fails is not tried again here: the next look plans anew. Deliberately absent: what
//! to do (`plan.rs`) and whom to take (`choose.rs`).

use super::choose::surrender;
use super::leases::Held;
use super::mind::Mind;
use super::plan::{Reason, Step};
use super::{place, why};
use crate::hm::notes;
use crate::jobs;
use bus::{Bus, BusError, Until};
use futures_util::StreamExt as _;
use futures_util::stream;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;
use store::{Store, StoreError};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use wire::health::{JobView, View, ViewRequest};
use wire::placement::{Done, ReversePlacement, Stop, Surrender, Update};
use wire::{ImId, InstanceId, Job, JobId, JobState, subject};

/// Rounds of bids at the same time, over all jobs: each is answered by every instance manager.
pub const ROUNDS_IN_FLIGHT_MAX: usize = 32;
/// Requests to single instance managers at the same time, for one job.
pub const CALLS_IN_FLIGHT_MAX: usize = 64;
/// How long an instance manager may take to answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the health manager may take to answer.
pub(super) const VIEW_TIMEOUT: Duration = Duration::from_secs(2);
/// How long answers to a reverse bid are waited for: all are wanted, and all who live answer at once.
pub(super) const SURRENDER_WAIT: Duration = Duration::from_millis(250);
/// Answers to a reverse bid.
const SURRENDERS_MAX: usize = 2_000;
/// An unsettled job is looked at again after this time at the latest.
pub const PERIOD_MS: u64 = 2_000;

/// What all jobs of one job manager share.
pub(super) struct Env {
    pub(super) bus: Bus,
    pub(super) store: Store,
    pub(super) held: watch::Receiver<Held>,
    pub(super) rounds: Semaphore,
    pub(super) bid_window_ms: u64,
    /// Nothing new is begun once this is cancelled; what was asked of somebody is waited for.
    pub(super) stop: CancellationToken,
}

impl Env {
    pub(super) fn now_ms(&self) -> u64 {
        self.bus.clock().unix_ms()
    }

    /// Whether the job is still ours to act for.
    pub(super) fn may_act(&self, job: JobId) -> bool {
        !self.stop.is_cancelled() && self.held.borrow().of(job, self.now_ms()).is_some()
    }
}

/// The work on one job.
pub(super) struct Work {
    pub(super) id: JobId,
    /// None = there is no record.
    pub(super) job: Option<Arc<Job>>,
    pub(super) view: JobView,
    pub(super) steps: Vec<Step>,
    pub(super) mind: Mind,
    pub(super) rng: StdRng,
}

/// What became of it.
pub(super) struct Outcome {
    pub(super) id: JobId,
    pub(super) mind: Mind,
    pub(super) again_ms: u64,
}

/// Does what the plan says, and says when to look again.
pub(super) async fn act(env: Arc<Env>, mut work: Work) -> Outcome {
    let mut again_ms = env.now_ms() + PERIOD_MS;
    // A watch may lag behind the health manager: what we do not know may have been created a moment ago.
    if work.job.is_none() && !is_gone(&env, work.id).await {
        return Outcome { id: work.id, mind: work.mind, again_ms };
    }
    let (calls, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut work.steps)
        .into_iter()
        .partition(|step| matches!(step, Step::Stop { .. } | Step::Update { .. }));
    let all_heard = call_all(&env, &mut work, calls).await;
    for step in rest {
        if !env.may_act(work.id) {
            break;
        }
        // The plan counted those as gone: what it would start in their place must wait until they are.
        if !all_heard && matches!(step, Step::Bid { .. }) {
            continue;
        }
        match step {
            Step::Wait { until_ms } => again_ms = again_ms.min(until_ms),
            Step::Say(text) => say(&env, &mut work, text).await,
            Step::StopSurplus { count, keep } => stop_surplus(&env, &mut work, count, keep).await,
            Step::SetState { state, why } => set_state(&env, &mut work, state, why).await,
            Step::Bid { count } => {
                let wait_ms = place::place(&env, &mut work, count).await;
                again_ms = again_ms.min(env.now_ms() + wait_ms);
            }
            Step::Stop { .. } | Step::Update { .. } => {}
        }
    }
    Outcome { id: work.id, mind: work.mind, again_ms }
}

async fn is_gone(env: &Env, job: JobId) -> bool {
    match env.store.get(&jobs::job_key(job)).await {
        Ok(record) => record.is_none(),
        Err(mistake) => {
            tracing::warn!(%job, %mistake, "it is not known whether the job is gone");
            false
        }
    }
}

/// An id of ours.
pub(super) fn fresh(rng: &mut StdRng) -> uuid::Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// A generator of its own for work that runs beside others.
pub(super) fn branch(rng: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(rng.next_u64())
}

/// Stops and updates, many at once; whether all were answered.
async fn call_all(env: &Env, work: &mut Work, steps: Vec<Step>) -> bool {
    let job = work.job.clone();
    let calls = steps.into_iter().map(|step| call(env, job.as_deref(), step));
    let answers: Vec<_> = stream::iter(calls).buffer_unordered(CALLS_IN_FLIGHT_MAX).collect().await;
    let now_ms = env.now_ms();
    let all_heard = answers.iter().all(|(_, answer)| answer.is_ok());
    for (step, answer) in answers {
        match (&step, &answer) {
            // Refused: it is not there, and the view will say so.
            (Step::Stop { instance, .. }, Ok(_)) => work.mind.flights.stopped(*instance, now_ms),
            (Step::Update { instance, .. }, Ok(_)) => {
                let version = job.as_ref().map_or(0, |job| job.version_id);
                work.mind.flights.updated(*instance, version, now_ms);
            }
            _ => {}
        }
        match answer {
            Ok(Done::Accepted) => {}
            Ok(Done::Refused(why)) => tracing::info!(job = %work.id, ?step, why, "refused"),
            Err(mistake) => tracing::warn!(job = %work.id, ?step, %mistake, "not answered"),
        }
    }
    all_heard
}

async fn call(env: &Env, job: Option<&Job>, step: Step) -> (Step, Result<Done, BusError>) {
    let answer = match (&step, job) {
        (Step::Stop { im, instance, reason }, _) => stop(env, *im, *instance, *reason).await,
        (Step::Update { im, instance }, Some(job)) => {
            let update = Update { instance: *instance, job: job.clone() };
            env.bus.request(&subject::im_update(*im), &update, CALL_TIMEOUT).await
        }
        _ => Ok(Done::Refused("there is nothing to tell".to_owned())),
    };
    (step, answer)
}

async fn stop(env: &Env, im: ImId, instance: InstanceId, reason: Reason) -> Result<Done, BusError> {
    let stop = Stop { instance, reason: reason.to_string() };
    env.bus.request(&subject::im_stop(im), &stop, CALL_TIMEOUT).await
}

/// A reverse bid: those go that go most gladly, old versions first.
async fn stop_surplus(env: &Env, work: &mut Work, count: u32, keep: u32) {
    let request = fresh(&mut work.rng);
    let question = ReversePlacement { request, job: work.id, count };
    let until = Until { count: SURRENDERS_MAX, deadline: SURRENDER_WAIT };
    let answers: Vec<Surrender> =
        match env.bus.gather(subject::IM_REVERSE_BID, &question, until).await {
            Ok(answers) => answers,
            Err(mistake) => {
                return tracing::warn!(job = %work.id, %mistake, "nobody could be asked to stop");
            }
        };
    let known = |instance| {
        let on = work.view.instances.iter().find(|on| on.seen.id == instance)?;
        Some((on.seen.job_version, on.seen.state.is_running()))
    };
    let chosen = surrender(&answers, (count, keep), request, known);
    if !env.may_act(work.id) {
        return;
    }
    let reason = Reason::Surplus;
    let steps = chosen.into_iter().map(|(im, instance)| Step::Stop { im, instance, reason });
    call_all(env, work, steps.collect()).await;
}

async fn set_state(env: &Env, work: &mut Work, state: JobState, why: String) {
    let Some(job) = work.job.clone() else { return };
    let write = match jobs::set_state(&job, state, &env.bus.sender().id, env.now_ms()) {
        Ok((_, write)) => write,
        Err(mistake) => {
            return tracing::error!(job = %work.id, mistake = mistake.message, "no state is written");
        }
    };
    match env.store.commit(&[write]).await {
        Ok(_) => {
            tracing::info!(job = %work.id, fqn = %job.fqn, state = state.as_str(), "new state");
            if !why.is_empty() {
                say(env, work, why).await;
            }
        }
        // Somebody wrote the job first; the watch brings it, and with it another look.
        Err(StoreError::Conflict { .. }) => {}
        Err(mistake) => tracing::warn!(job = %work.id, %mistake, "the state was not written"),
    }
}

/// Puts a note into the job's log, unless it was the last thing said.
pub(super) async fn say(env: &Env, work: &mut Work, text: String) {
    if work.mind.said == text {
        return;
    }
    let at_ms = env.now_ms();
    let said = notes::change(&env.store, &env.bus, work.id, |notes| {
        let again = notes.notes.last().is_some_and(|note| note.text == text);
        if !again {
            notes.push(at_ms, text.clone());
        }
        !again
    });
    match said.await {
        Ok(_) => work.mind.said = text,
        Err(mistake) => tracing::warn!(job = %work.id, %mistake, text, "a note was not kept"),
    }
}

/// Tells the user that nobody takes the job, with the reason if one can be seen.
pub(super) async fn say_no_placement(env: &Env, work: &mut Work, job: &Job) {
    let request = ViewRequest { jobs: Vec::new(), ims: true };
    let reason = match env.bus.request::<_, View>(subject::HM_VIEW, &request, VIEW_TIMEOUT).await {
        Ok(view) => why::nobody_offers(job, &view.ims),
        Err(mistake) => {
            tracing::warn!(job = %work.id, %mistake, "no view of the instance managers");
            "no instance manager made an offer".to_owned()
        }
    };
    say(env, work, format!("no placement: {reason}")).await;
}
