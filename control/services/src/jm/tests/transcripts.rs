//! The plan, situation by situation.

use super::{ended, im, instance, job, on};
use crate::jm::flights::{FLIGHT_MS, Flights};
use crate::jm::plan::{Reason, Situation, Step, plan};
use wire::health::{InstanceOn, JobView};
use wire::job::{RestartMode, RolloutMode};
use wire::{InstanceState, Job, JobState};

const NOW: u64 = 1_000_000;

/// A situation in which nothing is unusual.
struct Scene {
    job: Option<Job>,
    view: JobView,
    complete: bool,
    flights: Flights,
    quiet_until_ms: u64,
}

impl Scene {
    fn new(job: Job, instances: Vec<InstanceOn>) -> Self {
        let view = JobView { instances, ..JobView::default() };
        Self {
            job: Some(job),
            view,
            complete: true,
            flights: Flights::default(),
            quiet_until_ms: 0,
        }
    }

    fn at(&self, now_ms: u64) -> String {
        let situation = Situation {
            job: self.job.as_ref(),
            view: &self.view,
            complete: self.complete,
            flights: &self.flights,
            quiet_until_ms: self.quiet_until_ms,
        };
        let steps: Vec<_> = plan(&situation, now_ms).iter().map(show).collect();
        steps.join(", ")
    }

    fn plan(&self) -> String {
        self.at(NOW)
    }
}

fn show(step: &Step) -> String {
    let name = |id: &wire::InstanceId| id.0.as_u128();
    match step {
        Step::Bid { count } => format!("bid {count}"),
        Step::StopSurplus { count, keep } => format!("surplus {count} keep {keep}"),
        Step::Stop { instance, reason: Reason::OldVersion, .. } => {
            format!("stop old {}", name(instance))
        }
        Step::Stop { instance, .. } => format!("stop {}", name(instance)),
        Step::Update { instance, .. } => format!("update {}", name(instance)),
        Step::SetState { state, .. } => state.as_str().to_owned(),
        Step::Say(text) => format!("say {text}"),
        Step::Wait { until_ms } => format!("wait {}", until_ms - NOW),
    }
}

fn many(
    job: &Job,
    version: u64,
    state: InstanceState,
    ids: std::ops::RangeInclusive<u128>,
) -> Vec<InstanceOn> {
    ids.map(|n| on(n, job.uuid, version, state)).collect()
}

/// Goal: missing copies are bid for, surplus ones are given up, the right number is left alone.
#[test]
fn counts_are_corrected() {
    let wanted = job(1, 3, RolloutMode::StopAll);
    let running = |n| Scene::new(wanted.clone(), many(&wanted, 1, InstanceState::Running, 1..=n));
    assert_eq!(running(1).plan(), "bid 2");
    assert_eq!(running(3).plan(), "");
    assert_eq!(running(5).plan(), "surplus 2 keep 3");
}

/// Goal: nothing is started on half the truth, nor while somebody else's last starts may be on their way; stops do not
/// have to wait for either.
#[test]
fn starts_wait_for_the_whole_truth() {
    let wanted = job(1, 3, RolloutMode::StopAll);
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 1, InstanceState::Running, 1..=1));
    scene.complete = false;
    assert_eq!(scene.plan(), "");
    scene.view.instances = many(&wanted, 1, InstanceState::Running, 1..=4);
    assert_eq!(scene.plan(), "surplus 1 keep 3");
    scene.complete = true;
    scene.view.instances.truncate(1);
    scene.quiet_until_ms = NOW + 700;
    assert_eq!(scene.plan(), "wait 700");
}

/// Goal: what was asked for counts until it is seen or its time is over, and once.
#[test]
fn starts_in_flight_count() {
    let wanted = job(1, 3, RolloutMode::StopAll);
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 1, InstanceState::Running, 1..=1));
    scene.flights.started(instance(1), 1, NOW);
    scene.flights.started(instance(2), 1, NOW);
    assert_eq!(scene.plan(), "bid 1");
    assert_eq!(scene.at(NOW + FLIGHT_MS), "bid 2");
    scene.view.ended = vec![ended(2, wanted.uuid, NOW, true)];
    assert_eq!(scene.plan(), "bid 2");
}

/// Goal: a job that is not to run is stopped, once per instance; a deleted one too; an errored one is left alone.
#[test]
fn what_shall_not_run_is_stopped() {
    let mut wanted = job(1, 2, RolloutMode::StopAll);
    for state in [JobState::Stopped, JobState::Ready, JobState::Finished, JobState::Created] {
        wanted.state = state;
        let mut scene = Scene::new(wanted.clone(), many(&wanted, 1, InstanceState::Running, 1..=2));
        assert_eq!(scene.plan(), "stop 1, stop 2");
        scene.flights.stopped(instance(1), NOW);
        assert_eq!(scene.plan(), "stop 2");
        assert_eq!(scene.at(NOW + FLIGHT_MS), "stop 1, stop 2");
        scene.job = None;
        assert_eq!(scene.plan(), "stop 2");
    }
    wanted.state = JobState::Errored;
    assert_eq!(
        Scene::new(wanted.clone(), many(&wanted, 1, InstanceState::Running, 1..=1)).plan(),
        ""
    );
}

/// Goal: a stop-all update stops all old ones, waits until the last has left, then starts.
#[test]
fn stop_all_stops_all_first() {
    let mut wanted = job(1, 2, RolloutMode::StopAll);
    (wanted.version_id, wanted.restart_version) = (5, 5);
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 4, InstanceState::Running, 1..=2));
    assert_eq!(scene.plan(), "stop old 1, stop old 2");
    scene.view.instances[0].seen.state = InstanceState::StoppingWait;
    scene.flights.stopped(instance(2), NOW);
    assert_eq!(scene.plan(), "");
    scene.view.instances = many(&wanted, 4, InstanceState::Teardown, 1..=2);
    assert_eq!(scene.plan(), "bid 2");
}

/// Goal: a rolling update goes one by one, each old one stops when a new one runs, to the end.
#[test]
fn rolling_is_make_before_break() {
    let mut wanted = job(1, 3, RolloutMode::Rolling);
    (wanted.version_id, wanted.restart_version) = (5, 5);
    let old = |range| many(&wanted, 4, InstanceState::Running, range);
    let new = |range, state| many(&wanted, 5, state, range);
    let scene = |old: Vec<InstanceOn>, new: Vec<InstanceOn>| {
        Scene::new(wanted.clone(), old.into_iter().chain(new).collect())
    };
    assert_eq!(scene(old(1..=3), vec![]).plan(), "bid 1");
    assert_eq!(scene(old(1..=3), new(4..=4, InstanceState::Starting)).plan(), "");
    assert_eq!(scene(old(1..=3), new(4..=4, InstanceState::Running)).plan(), "stop old 1, bid 1");
    assert_eq!(scene(old(3..=3), new(4..=6, InstanceState::Running)).plan(), "stop old 3");
    assert_eq!(scene(vec![], new(4..=6, InstanceState::Running)).plan(), "");
    // One of the old ones has died: two may come, and none must go.
    assert_eq!(scene(old(1..=2), vec![]).plan(), "bid 2");
    // An old one that does not serve yet protects nothing.
    assert_eq!(
        scene(many(&wanted, 4, InstanceState::Starting, 1..=1), vec![]).plan(),
        "stop old 1, bid 3"
    );
}

/// Goal: three new ones that fail end a rolling update, once, and the old ones stay.
#[test]
fn rolling_is_given_up_after_three_failures() {
    let mut wanted = job(1, 3, RolloutMode::Rolling);
    (wanted.version_id, wanted.restart_version) = (5, 5);
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 4, InstanceState::Running, 1..=3));
    for n in 0..3 {
        let mut end = ended(10 + n, wanted.uuid, NOW - 100_000, true);
        end.job_version = 5;
        scene.view.ended.push(end);
    }
    assert_eq!(
        scene.plan(),
        "say the update to version 5 is given up: 3 new instances failed, 3 of the old ones stay"
    );
    scene.view.ended.truncate(2);
    assert_eq!(scene.plan(), "bid 1");
}

/// Goal: when no further new instance finds a place, one old one makes room after its time, not before, and only once a
/// new one runs.
#[test]
fn an_old_one_makes_room_after_its_time() {
    let mut wanted = job(1, 3, RolloutMode::Rolling);
    (wanted.version_id, wanted.restart_version) = (5, 5);
    wanted.rollout.force_stop_old_instances_after = 120;
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 4, InstanceState::Running, 1..=2));
    scene.view.instances.push(on(4, wanted.uuid, 5, InstanceState::Running));
    scene.view.instances[2].seen.since_ms = NOW - 119_000;
    assert_eq!(scene.plan(), "bid 1, wait 1000");
    assert_eq!(scene.at(NOW + 1_000), "bid 1, stop old 1");
    scene.view.instances.pop();
    assert_eq!(scene.at(NOW + 1_000_000), "bid 2");
}

/// Goal: a change that instances can take over is told to those that are behind, once.
#[test]
fn dynamic_changes_are_told() {
    let mut wanted = job(1, 2, RolloutMode::StopAll);
    (wanted.version_id, wanted.restart_version) = (7, 5);
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 6, InstanceState::Running, 1..=2));
    scene.view.instances[1].seen.job_version = 7;
    assert_eq!(scene.plan(), "update 1");
    scene.flights.updated(instance(1), 7, NOW);
    assert_eq!(scene.plan(), "");
}

/// Goal: the first end is replaced at once, further ones in a row wait 1, 2, 4 … 60 seconds; a sound run, an asked end
/// and a restart begin anew.
#[test]
fn replacements_back_off() {
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    let mut scene = Scene::new(wanted.clone(), vec![]);
    let mut waits = Vec::new();
    for n in 0..10 {
        waits.push(scene.plan());
        scene.view.ended.insert(0, ended(n, wanted.uuid, NOW, true));
    }
    let expected = [
        "bid 1",
        "bid 1",
        "wait 1000",
        "wait 2000",
        "wait 4000",
        "wait 8000",
        "wait 16000",
        "wait 32000",
        "wait 60000",
        "wait 60000",
    ];
    assert_eq!(waits, expected);
    scene.view.ended[0].ran_ms = 60_000;
    assert_eq!(scene.plan(), "bid 1");
    scene.view.ended[0].ran_ms = 10;
    scene.view.ended.truncate(2);
    scene.view.ended[0].asked = true;
    assert_eq!(scene.plan(), "bid 1");
    scene.view.ended[0].asked = false;
    // Not a failure, but with `always` it would otherwise spin.
    scene.view.ended[0].failed = false;
    assert_eq!(scene.plan(), "wait 1000");
    (wanted.version_id, wanted.restart_version) = (2, 2);
    scene.job = Some(wanted);
    assert_eq!(scene.plan(), "bid 1");
}

/// Goal: restart modes: `no` replaces nothing, `failure` only failures; who has run to the end is finished, or errored.
#[test]
fn restart_modes_decide_what_an_end_means() {
    let play = |mode, ends: &[bool], attempts| {
        let mut wanted = job(1, 2, RolloutMode::StopAll);
        wanted.restart.restart_mode = mode;
        wanted.restart.maximum_attempts = attempts;
        let mut scene = Scene::new(wanted.clone(), vec![]);
        scene.view.ended =
            (0..).zip(ends).map(|(n, failed)| ended(n, wanted.uuid, 0, *failed)).collect();
        scene.plan()
    };
    assert_eq!(play(RestartMode::No, &[], 0), "bid 2");
    assert_eq!(play(RestartMode::No, &[false], 0), "bid 1");
    assert_eq!(play(RestartMode::No, &[false, false], 0), "finished");
    assert_eq!(play(RestartMode::No, &[false, true], 0), "errored");
    assert_eq!(play(RestartMode::Failure, &[false, true], 0), "bid 1");
    assert_eq!(play(RestartMode::Failure, &[false, true, false], 0), "finished");
    assert_eq!(play(RestartMode::Always, &[false, false], 0), "bid 2");
    assert_eq!(play(RestartMode::Always, &[true, true, true], 2), "bid 2");
    assert_eq!(play(RestartMode::Always, &[true, true, true, true], 2), "errored");
    assert_eq!(play(RestartMode::Failure, &[true, true, true, false, true], 2), "bid 1");
}

/// Goal: a job that flaps for longer than its window is errored; without a window never.
#[test]
fn long_flapping_is_errored() {
    let mut wanted = job(1, 2, RolloutMode::StopAll);
    wanted.rollout.errored_state_window = 60;
    let mut scene = Scene::new(wanted.clone(), many(&wanted, 1, InstanceState::Running, 1..=2));
    scene.view.flapping_since_ms = Some(NOW - 59_999);
    assert_eq!(scene.plan(), "");
    assert_eq!(scene.at(NOW + 1), "errored");
    wanted.rollout.errored_state_window = 0;
    scene.job = Some(wanted);
    assert_eq!(scene.at(NOW + 1), "");
}

/// Goal: a stop names where the instance is.
#[test]
fn a_stop_goes_to_the_right_place() {
    let mut wanted = job(1, 1, RolloutMode::StopAll);
    wanted.state = JobState::Stopped;
    let view = JobView {
        instances: vec![on(13, wanted.uuid, 1, InstanceState::New)],
        ..JobView::default()
    };
    let flights = Flights::default();
    let situation = Situation {
        job: Some(&wanted),
        view: &view,
        complete: true,
        flights: &flights,
        quiet_until_ms: 0,
    };
    let reason = Reason::State(JobState::Stopped);
    assert_eq!(plan(&situation, NOW), [Step::Stop { im: im(3), instance: instance(13), reason }]);
    assert_eq!(reason.to_string(), "the job is stopped");
}
