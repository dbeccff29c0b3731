//! What a look at a job says about the task that waits for it.
//!
//! Pure: goal, record, view and time in, events out. Deliberately absent: reading and writing.

use super::{Entry, Goal};
use std::collections::BTreeSet;
use wire::api::{TASK_EVENTS_MAX, Task, TaskEvent, TaskState, TaskSubtask};
use wire::health::{Ended, InstanceOn, JobView};
use wire::{InstanceId, Job, JobState, Timestamp};

/// A task that is not done after this long is given up; its work goes on.
pub(super) const GIVEN_UP_MS: u64 = 15 * 60 * 1_000;
/// The newest of these events are for the end.
const END_EVENTS: usize = 2;

/// What was seen of the job.
pub(super) struct Look<'a> {
    /// None: the job is gone.
    pub job: Option<&'a Job>,
    /// None: nobody knows at the moment.
    pub view: Option<&'a JobView>,
    pub now_ms: u64,
}

/// The entry after this look; none when nothing is new.
pub(super) fn after(entry: &Entry, look: &Look<'_>) -> Option<Entry> {
    if entry.task.state != TaskState::Running {
        return None;
    }
    let mut pen = Pen { task: entry.task.clone(), goal: &entry.goal, now_ms: look.now_ms };
    if let Some(view) = look.view {
        pen.ends(view);
        pen.progress(view);
    }
    pen.conclude(look);
    (pen.task != entry.task).then(|| Entry { task: pen.task, goal: entry.goal.clone() })
}

/// Writes events.
struct Pen<'a> {
    task: Task,
    goal: &'a Goal,
    now_ms: u64,
}

impl Pen<'_> {
    fn stage(&self) -> &'static str {
        if self.goal.running == 0 { "Stopping" } else { "Starting" }
    }

    fn event(&mut self, kind: &str, stage: &str, index: u32, name: String) {
        let last = self.task.events.last().map_or(0, |event| event.time);
        self.task.events.push(TaskEvent {
            task_uuid: self.task.uuid,
            // Each event has a time of its own, so that "newer than" misses none.
            time: (self.now_ms * 1_000_000).max(last + 1),
            task_event_type: kind.to_owned(),
            thread: self.goal.fqn.to_string(),
            stage: stage.to_owned(),
            subtask: TaskSubtask { index, name, total: self.goal.running },
            payload: serde_json::Value::Null,
        });
    }

    fn has_room(&self) -> bool {
        self.task.events.len() < TASK_EVENTS_MAX - END_EVENTS
    }

    /// Instances that failed since the work began, each told once.
    fn ends(&mut self, view: &JobView) {
        let told: BTreeSet<String> =
            self.task.events.iter().filter_map(|event| instance_of(&event.payload)).collect();
        let failed = view.ended.iter().rev().filter(|ended| {
            ended.failed
                && ended.at_ms >= self.goal.begun_ms
                && ended.job_version >= self.goal.restart_version
                && !told.contains(&ended.id.to_string())
        });
        for ended in failed.collect::<Vec<_>>() {
            if self.has_room() && self.goal.running > 0 {
                self.event("event", "Starting", 0, failure(ended));
                if let Some(event) = self.task.events.last_mut() {
                    event.payload = serde_json::json!({
                        "instance_uuid": ended.id, "exit_code": ended.exit_code,
                    });
                }
            }
        }
    }

    /// How many are there, when the number is another than the last that was told.
    fn progress(&mut self, view: &JobView) {
        let (index, name) = if self.goal.running == 0 {
            let left = view.instances.len();
            (u32::try_from(left).unwrap_or(u32::MAX), format!("{left} instances left"))
        } else {
            let running = running(self.goal, view);
            (running, format!("{running} of {} instances running", self.goal.running))
        };
        let stage = self.stage();
        let last = self.task.events.iter().rev().find(|event| event.payload.is_null());
        if self.has_room() && last.is_none_or(|event| event.subtask.name != name) {
            self.event("event", stage, index, name);
        }
    }

    fn conclude(&mut self, look: &Look<'_>) {
        let superseded = "the job was changed again";
        match look.job {
            None if self.goal.running > 0 => self.end(TaskState::Stopped, Some("the job is gone")),
            Some(job) if job.state == JobState::Errored => {
                self.end(TaskState::Complete, Some("the job failed too often and is errored"));
            }
            Some(job) if moved_on(self.goal, job) => self.end(TaskState::Stopped, Some(superseded)),
            _ => {
                if look.view.is_some_and(|view| done(self.goal, look.job, view)) {
                    self.end(TaskState::Complete, None);
                } else if look.view.is_some_and(|view| view.flapping) && self.goal.running > 0 {
                    self.end(TaskState::Complete, Some("the instances fail again and again"));
                } else if look.now_ms.saturating_sub(self.goal.begun_ms) > GIVEN_UP_MS {
                    self.end(TaskState::Stopped, Some("not done in time; the work goes on"));
                }
            }
        }
    }

    fn end(&mut self, state: TaskState, why_not: Option<&str>) {
        if let Some(why) = why_not {
            "errored".clone_into(&mut self.task.errored);
            self.event("error", self.stage(), 0, why.to_owned());
            if let Some(event) = self.task.events.last_mut() {
                event.payload = serde_json::json!({ "error": why });
            }
        }
        let last = if why_not.is_some() { "execution failed" } else { "execution was successful" };
        self.event("eos", "Finish", self.goal.running, last.to_owned());
        self.task.state = state;
        self.task.time_completed = Some(Timestamp::from_unix_ms(self.now_ms));
    }
}

fn instance_of(payload: &serde_json::Value) -> Option<String> {
    payload.get("instance_uuid")?.as_str().map(str::to_owned)
}

fn failure(ended: &Ended) -> String {
    let id: InstanceId = ended.id;
    match ended.exit_code {
        Some(code) => format!("instance {} ended with status {code}: {}", id.short(), ended.reason),
        None => format!("instance {} ended: {}", id.short(), ended.reason),
    }
}

fn running(goal: &Goal, view: &JobView) -> u32 {
    let counts = |on: &&InstanceOn| {
        on.seen.state.is_running() && on.seen.job_version >= goal.restart_version
    };
    u32::try_from(view.instances.iter().filter(counts).count()).unwrap_or(u32::MAX)
}

/// Somebody asked for something else since: this goal will not be reached, another task tells about the other.
fn moved_on(goal: &Goal, job: &Job) -> bool {
    let wants = if job.state == JobState::Started { job.num_instances } else { 0 };
    job.version_id > goal.version
        && job.state != JobState::Finished
        && (wants != goal.running || job.restart_version > goal.version)
}

fn done(goal: &Goal, job: Option<&Job>, view: &JobView) -> bool {
    if goal.running == 0 {
        return view.instances.is_empty();
    }
    if job.is_some_and(|job| job.state == JobState::Finished) {
        return true;
    }
    let old = |on: &InstanceOn| on.seen.job_version < goal.restart_version;
    running(goal, view) >= goal.running && !view.instances.iter().any(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wire::health::InstanceSeen;
    use wire::{ImId, InstanceState, JobId, TaskId};

    fn entry(running: u32) -> Entry {
        let (job, fqn) = (JobId(uuid::Uuid::from_u128(1)), "job::/a::b".parse().unwrap());
        let goal = Goal { job, fqn, version: 3, restart_version: 3, running, begun_ms: 1_000 };
        let task = Task {
            uuid: TaskId(uuid::Uuid::from_u128(9)),
            state: TaskState::Running,
            errored: "unerrored".to_owned(),
            time_started: Timestamp::from_unix_ms(1_000),
            time_completed: None,
            events: Vec::new(),
            job: Some(job),
        };
        Entry { task, goal }
    }

    fn job(state: JobState, version: u64) -> Job {
        let mut job = Job::named("job::/a::b".parse().unwrap());
        (job.state, job.version_id, job.num_instances) = (state, version, 2);
        job.restart_version = 3;
        job
    }

    fn on(n: u128, version: u64, state: InstanceState) -> InstanceOn {
        let seen = InstanceSeen {
            id: InstanceId(uuid::Uuid::from_u128(n << 100)),
            job: JobId(uuid::Uuid::from_u128(1)),
            job_version: version,
            state,
            created_ms: 0,
            since_ms: 0,
            addresses: BTreeMap::new(),
            legs: None,
            usage: None,
        };
        InstanceOn { im: ImId(uuid::Uuid::nil()), host: String::new(), seen }
    }

    fn crash(n: u128) -> Ended {
        Ended {
            id: InstanceId(uuid::Uuid::from_u128(n << 100)),
            job: JobId(uuid::Uuid::from_u128(1)),
            job_version: 3,
            at_ms: 2_000,
            ran_ms: 10,
            failed: true,
            asked: false,
            exit_code: Some(7),
            reason: "the process ended".to_owned(),
        }
    }

    /// Plays looks one after another and tells what was written.
    fn play(running: u32, looks: &[(Option<Job>, Vec<InstanceOn>, Vec<Ended>)]) -> String {
        let mut entry = entry(running);
        for (at, (job, instances, ended)) in looks.iter().enumerate() {
            let view = JobView {
                instances: instances.clone(),
                ended: ended.clone(),
                ..JobView::default()
            };
            let now_ms = 2_000 + at as u64;
            let look = Look { job: job.as_ref(), view: Some(&view), now_ms };
            if let Some(next) = after(&entry, &look) {
                entry = next;
            }
            assert_eq!(after(&entry, &look), None, "a look twice tells nothing new");
        }
        let told = entry.task.events.iter();
        let mut told: Vec<_> = told
            .map(|e| format!("{}/{}: {}", e.task_event_type, e.stage, e.subtask.name))
            .collect();
        told.push(format!("{:?} {}", entry.task.state, entry.task.errored));
        told.join(" | ")
    }

    use InstanceState::{Running, Starting, Stopping};
    use JobState::{Errored, Started, Stopped};

    #[test]
    fn a_start_is_told_to_its_end() {
        let started = || Some(job(Started, 3));
        let looks = [
            (started(), vec![], vec![]),
            (started(), vec![on(1, 3, Running), on(2, 3, Starting)], vec![]),
            (started(), vec![on(1, 3, Running)], vec![crash(2)]),
            // An instance of the old version still runs: not yet.
            (started(), vec![on(1, 3, Running), on(4, 3, Running), on(5, 2, Running)], vec![]),
            (started(), vec![on(1, 3, Running), on(4, 3, Running)], vec![crash(2)]),
        ];
        assert_eq!(
            play(2, &looks),
            "event/Starting: 0 of 2 instances running | event/Starting: 1 of 2 instances running | \
             event/Starting: instance 00000000 ended with status 7: the process ended | \
             event/Starting: 2 of 2 instances running | eos/Finish: execution was successful | \
             Complete unerrored"
                .replace("00000000", &crash(2).id.short())
        );
    }

    #[test]
    fn a_stop_is_done_when_nothing_is_left_even_of_a_job_that_is_gone() {
        let looks =
            [(Some(job(Stopped, 3)), vec![on(1, 2, Stopping)], vec![]), (None, vec![], vec![])];
        assert_eq!(
            play(0, &looks),
            "event/Stopping: 1 instances left | event/Stopping: 0 instances left | \
             eos/Finish: execution was successful | Complete unerrored"
        );
    }

    #[test]
    fn what_cannot_come_any_more_is_not_waited_for() {
        let gone = play(2, &[(None, vec![], vec![])]);
        assert!(gone.ends_with(
            "error/Starting: the job is gone | eos/Finish: execution failed | Stopped errored"
        ));
        let errored = play(2, &[(Some(job(Errored, 4)), vec![], vec![])]);
        assert!(errored.ends_with("Complete errored"), "{errored}");
        let other = play(2, &[(Some(job(Stopped, 4)), vec![], vec![])]);
        assert!(other.contains("the job was changed again") && other.ends_with("Stopped errored"));
        let unrelated = play(2, &[(Some(job(Started, 8)), vec![], vec![])]);
        assert!(unrelated.ends_with("Running unerrored"), "{unrelated}");
    }

    /// Goal: a task that nobody can finish ends, and a stormy one keeps within its bound with `eos` last.
    #[test]
    fn every_task_ends_within_its_bound() {
        let mut entry = entry(2);
        let started = job(Started, 3);
        for n in 0..2_000u64 {
            let view = JobView { ended: vec![crash(u128::from(n))], ..JobView::default() };
            let now_ms = 1_000 + n * 1_000;
            let look = Look { job: Some(&started), view: Some(&view), now_ms };
            if let Some(next) = after(&entry, &look) {
                entry = next;
            }
        }
        assert_eq!(entry.task.state, TaskState::Stopped);
        assert_eq!(entry.task.events.len(), TASK_EVENTS_MAX);
        assert_eq!(entry.task.events.last().unwrap().task_event_type, "eos");
        assert!(entry.task.events.is_sorted_by(|a, b| a.time < b.time));
    }
}
