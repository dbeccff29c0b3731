//! The plan in random weather: starts that fail, get lost or are refused, views that are late or incomplete, hosts that
//! vanish and return, users that change their minds. Replay one life with `SEED=17 cargo test -p services any_weather`.

use super::{ended, im, job, on};
use crate::jm::flights::Flights;
use crate::jm::plan::{Situation, Step, plan};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use wire::health::{InstanceOn, JobView};
use wire::job::RolloutMode;
use wire::{InstanceId, InstanceState, Job, JobState};

const LIVES: u64 = 400;
const STEPS: usize = 120;
const CALM_STEPS_MAX: usize = 400;

/// Instance managers, a health manager that may be late, and one job manager's memory.
struct Sky {
    rng: StdRng,
    job: Job,
    now_ms: u64,
    truth: BTreeMap<InstanceId, InstanceOn>,
    /// Hosts that nobody sees.
    hidden: BTreeSet<u128>,
    view: JobView,
    flights: Flights,
    looked_ms: u64,
    next: u128,
    /// Instances came back, or the user asked for fewer: there may be more than planned.
    surplus: bool,
    calm: bool,
}

impl Sky {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mode = if rng.random() { RolloutMode::Rolling } else { RolloutMode::StopAll };
        let instances = rng.random_range(1..6);
        Self {
            rng,
            job: job(1, instances, mode),
            now_ms: 1_000_000,
            truth: BTreeMap::new(),
            hidden: BTreeSet::new(),
            view: JobView::default(),
            flights: Flights::default(),
            looked_ms: 0,
            next: 100,
            surplus: false,
            calm: false,
        }
    }

    fn roll(&mut self, one_in: u32) -> bool {
        !self.calm && self.rng.random_range(0..one_in) == 0
    }

    /// Something happens to each instance, and perhaps to hosts and to the record.
    fn weather(&mut self) {
        self.now_ms += if self.calm { 3_000 } else { self.rng.random_range(1..4_000) };
        self.flights.expire(self.now_ms);
        let ids: Vec<_> = self.truth.keys().copied().collect();
        for id in ids {
            self.live_on(id);
        }
        if self.roll(15) {
            let host = self.rng.random_range(0..10);
            self.hidden.insert(host);
        }
        if self.calm || self.roll(8) {
            self.surplus |= !self.hidden.is_empty();
            self.hidden.clear();
        }
        if self.roll(20) {
            self.job.version_id += 1;
            match self.rng.random_range(0..4) {
                0 => self.job.num_instances = self.rng.random_range(1..6),
                1 => self.job.state = JobState::Stopped,
                2 => {}
                _ => self.job.restart_version = self.job.version_id,
            }
            if self.job.state == JobState::Stopped && self.rng.random() {
                self.job.state = JobState::Started;
                self.job.restart_version = self.job.version_id;
            }
            self.surplus = true;
        }
        // The health manager may be late, but not by more than a beat of an instance manager.
        let beat = self.now_ms >= self.looked_ms + wire::health::BEAT_MS;
        if self.calm || beat || !self.roll(3) {
            self.look();
        }
    }

    fn live_on(&mut self, id: InstanceId) {
        use InstanceState as S;
        let fails = self.roll(12);
        let moves = self.calm || self.rng.random();
        let now_ms = self.now_ms;
        let Some(on) = self.truth.get_mut(&id) else { return };
        let next = match on.seen.state {
            S::New => S::Starting,
            S::Starting => S::Running,
            S::StoppingWait => S::Teardown,
            S::Teardown => S::Removed,
            state => state,
        };
        if fails && on.seen.state.is_live() {
            let mut end = ended(id.0.as_u128(), on.seen.job, now_ms, true);
            end.job_version = on.seen.job_version;
            // Sound for long enough, so that this life has no failures in a row.
            end.ran_ms = 100_000;
            self.view.ended.insert(0, end);
            self.view.ended.truncate(wire::health::JOB_ENDED_MAX);
            self.truth.remove(&id);
        } else if moves && next == S::Removed {
            self.truth.remove(&id);
        } else if moves && next != on.seen.state {
            on.seen.state = next;
            on.seen.since_ms = now_ms;
        }
    }

    fn look(&mut self) {
        self.looked_ms = self.now_ms;
        let seen = self.truth.values().filter(|on| !self.hidden.contains(&on.im.0.as_u128()));
        self.view.instances = seen.cloned().collect();
    }

    fn plan(&mut self) -> Vec<Step> {
        let complete = self.calm || self.rng.random_range(0..6) != 0;
        let situation = Situation {
            job: Some(&self.job),
            view: &self.view,
            complete,
            flights: &self.flights,
            quiet_until_ms: 0,
        };
        let steps = plan(&situation, self.now_ms);
        assert_eq!(steps, plan(&situation, self.now_ms), "the same facts, the same steps");
        steps
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        let mut all_heard = true;
        for step in steps {
            match step {
                // As in `act.rs`: nothing is started in the place of what may still be there.
                Step::Bid { .. } if !all_heard => {}
                Step::Bid { count } => (0..count).for_each(|_| self.start()),
                Step::Stop { instance, .. } => all_heard &= self.stop(instance),
                Step::StopSurplus { count, keep } => {
                    let mut live: Vec<_> =
                        self.truth.values().filter(|on| on.seen.state.is_live()).cloned().collect();
                    live.sort_by_key(|on| on.seen.state.is_running());
                    let live: Vec<_> = live.iter().map(|on| on.seen.id).collect();
                    let surplus = live.len().saturating_sub(keep as usize).min(count as usize);
                    live[..surplus].iter().for_each(|id| all_heard &= self.stop(*id));
                }
                Step::Update { instance, .. } => {
                    if let Some(on) = self.truth.get_mut(&instance) {
                        on.seen.job_version = self.job.version_id;
                        self.flights.updated(instance, self.job.version_id, self.now_ms);
                    }
                }
                Step::SetState { .. } | Step::Say(_) | Step::Wait { .. } => {}
            }
        }
    }

    /// Taken, refused, or lost without a word.
    fn start(&mut self) {
        self.next += 1;
        let fate = if self.calm { 0 } else { self.rng.random_range(0..6) };
        let instance = on(self.next, self.job.uuid, self.job.version_id, InstanceState::New);
        if fate != 1 {
            self.flights.started(instance.seen.id, self.job.version_id, self.now_ms);
        }
        if fate > 1 || fate == 0 {
            self.truth.insert(instance.seen.id, instance);
        }
    }

    /// Whether it was heard.
    fn stop(&mut self, id: InstanceId) -> bool {
        if self.roll(8) {
            return false;
        }
        self.flights.stopped(id, self.now_ms);
        let reachable =
            self.truth.get(&id).is_some_and(|on| !self.hidden.contains(&on.im.0.as_u128()));
        if let Some(on) = self.truth.get_mut(&id)
            && reachable
            && on.seen.state.is_live()
        {
            on.seen.state = InstanceState::StoppingWait;
        }
        true
    }

    /// Live at the instance managers, wherever they are.
    fn live(&self) -> usize {
        self.truth.values().filter(|on| on.seen.state.is_live()).count()
    }

    fn serving(&self) -> usize {
        let serves = |on: &&InstanceOn| on.seen.state.is_running();
        self.truth
            .values()
            .filter(|on| !self.hidden.contains(&on.im.0.as_u128()))
            .filter(serves)
            .count()
    }

    fn bound(&self) -> usize {
        self.job.num_instances as usize + usize::from(self.job.rollout.mode == RolloutMode::Rolling)
    }
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..LIVES,
    }
}

/// Goal: whatever the weather, stops never take the last serving instance of a rolling job that shall run; nothing is
/// started beyond the bound; and when the weather calms, exactly what is wanted runs and the plan is empty.
#[test]
fn any_weather_ends_in_what_is_wanted() {
    for seed in seeds() {
        let mut sky = Sky::new(seed);
        for _ in 0..STEPS {
            sky.weather();
            let steps = sky.plan();
            let (live, serving) = (sky.live(), sky.serving());
            let knew = sky.view_is_true();
            sky.carry_out(steps.clone());
            let bids: u32 =
                steps.iter().map(|s| if let Step::Bid { count } = s { *count } else { 0 }).sum();
            assert!(bids as usize <= sky.bound(), "seed {seed}: {bids} at once");
            // Nobody vanished or failed unseen, so the plan knew everything: the bound holds at the instance managers.
            if !sky.surplus && sky.hidden.is_empty() && bids > 0 {
                assert!(sky.live() <= sky.bound().max(live), "seed {seed}: {} live", sky.live());
            }
            let rolling =
                sky.job.rollout.mode == RolloutMode::Rolling && sky.job.state == JobState::Started;
            let stopped = steps.iter().any(|s| matches!(s, Step::Stop { .. }));
            if rolling && stopped && serving > 0 && knew {
                assert!(sky.serving() > 0, "seed {seed}: the last serving instance was stopped");
            }
        }
        sky.calm = true;
        sky.job.state = JobState::Started;
        let mut steps_taken = 0;
        loop {
            sky.weather();
            let steps = sky.plan();
            let done = steps.is_empty() && sky.flights.is_empty() && sky.serving() == sky.live();
            if done && sky.truth.len() == sky.job.num_instances as usize {
                break;
            }
            steps_taken += 1;
            assert!(steps_taken < CALM_STEPS_MAX, "seed {seed}: {steps:?} {:?}", sky.truth);
            sky.carry_out(steps);
        }
        assert!(
            sky.truth.values().all(|on| on.seen.job_version == sky.job.version_id),
            "seed {seed}"
        );
    }
}

impl Sky {
    /// The health manager is not late, and nobody is hidden.
    fn view_is_true(&self) -> bool {
        let states = |on: &InstanceOn| (on.seen.id, on.seen.state);
        let seen: Vec<_> = self.view.instances.iter().map(states).collect();
        self.hidden.is_empty() && seen == self.truth.values().map(states).collect::<Vec<_>>()
    }
}

/// Goal: the quiet life: from nothing to running, a rolling or a stop-all update, and the number of live instances at
/// every moment within its bound.
#[test]
fn updates_in_calm_weather_keep_their_bounds() {
    for (mode, most, least_serving) in [(RolloutMode::Rolling, 5, 4), (RolloutMode::StopAll, 4, 0)]
    {
        let mut sky = Sky::new(1);
        sky.calm = true;
        sky.job = job(1, 4, mode);
        let settle = |sky: &mut Sky, least: usize| {
            for _ in 0..CALM_STEPS_MAX {
                sky.weather();
                let steps = sky.plan();
                if steps.is_empty() && sky.flights.is_empty() && sky.serving() == 4 {
                    return;
                }
                sky.carry_out(steps);
                assert!(sky.live() <= most, "{mode:?}: {}", sky.live());
                assert!(sky.serving() >= least, "{mode:?}: {} serving", sky.serving());
            }
            panic!("{mode:?} never settles");
        };
        settle(&mut sky, 0);
        (sky.job.version_id, sky.job.restart_version) = (2, 2);
        settle(&mut sky, least_serving);
        assert!(sky.truth.values().all(|on| on.seen.job_version == 2));
        assert!(sky.truth.values().all(|on| on.im != im(99)));
    }
}
