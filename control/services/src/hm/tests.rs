//! Weather over what a health manager sees, and several health managers on one bus.

use super::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use uuid::Uuid;
use wire::health::{Beat, Ended, ImRecord, InstanceSeen, Switch, View, ViewRequest};
use wire::{ImId, InstanceId, InstanceState, Job, JobId, JobState};

// === a world to look at ===

pub(super) fn im(number: u128) -> ImId {
    ImId(Uuid::from_u128(number))
}

pub(super) fn job(number: u128) -> JobId {
    JobId(Uuid::from_u128(0x10_0000 + number))
}

pub(super) fn instance(number: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(0x20_0000 + number))
}

fn record(id: ImId, start_time_ms: u64) -> ImRecord {
    ImRecord {
        uuid: id,
        hostname: format!("host-{}", id.0.as_u128()),
        datacenter: "here".to_owned(),
        tags: Vec::new(),
        system_tags: Vec::new(),
        num_instances: 0,
        start_time_ms,
        resources_total: wire::job::Resources::default(),
        resources_provisioned: wire::job::Resources::default(),
        address: String::new(),
    }
}

pub(super) fn running(id: InstanceId, of: JobId, state: InstanceState) -> InstanceSeen {
    InstanceSeen {
        id,
        job: of,
        job_version: 1,
        state,
        created_ms: 1,
        since_ms: 1,
        addresses: BTreeMap::new(),
        legs: None,
        usage: None,
    }
}

pub(super) fn failed(id: InstanceId, of: JobId, at_ms: u64) -> Ended {
    Ended {
        id,
        job: of,
        job_version: 1,
        at_ms,
        ran_ms: 10,
        failed: true,
        asked: false,
        exit_code: Some(1),
        reason: "exited with status 1".to_owned(),
    }
}

/// What an instance manager would be: the truth, and every message that it ever sent.
pub(super) struct Im {
    record: ImRecord,
    seq: u64,
    instances: BTreeMap<InstanceId, InstanceSeen>,
    ended: Vec<Ended>,
}

#[derive(Clone)]
enum Said {
    Beat(Box<Beat>),
    Switch(Box<Switch>),
}

impl Im {
    pub(super) fn new(id: ImId, start_time_ms: u64) -> Self {
        let record = record(id, start_time_ms);
        Self { record, seq: 0, instances: BTreeMap::new(), ended: Vec::new() }
    }

    pub(super) fn beat(&mut self) -> Beat {
        self.seq += 1;
        Beat {
            im: self.record.clone(),
            seq: self.seq,
            instances: self.instances.values().cloned().collect(),
            ended: self.ended.clone(),
            leaving: false,
        }
    }

    pub(super) fn switch(&mut self, seen: InstanceSeen, ended: Option<Ended>) -> Switch {
        self.seq += 1;
        let before = self.instances.get(&seen.id).map(|seen| seen.state);
        if seen.state == InstanceState::Removed {
            self.instances.remove(&seen.id);
        } else {
            self.instances.insert(seen.id, seen.clone());
        }
        if let Some(ended) = &ended {
            self.ended.insert(0, ended.clone());
        }
        Switch {
            im: self.record.uuid,
            start_time_ms: self.record.start_time_ms,
            seq: self.seq,
            instance: seen,
            from: before,
            ended,
        }
    }

    /// A step of a random life.
    fn live(&mut self, rng: &mut StdRng, fresh: &mut u128, now_ms: u64) -> Said {
        let all: Vec<_> = self.instances.values().cloned().collect();
        match rng.random_range(0..10) {
            0..2 => Said::Beat(Box::new(self.beat())),
            2..6 => {
                *fresh += 1;
                let new =
                    running(instance(*fresh), job(rng.random_range(0..5)), InstanceState::New);
                Said::Switch(Box::new(self.switch(new, None)))
            }
            6..8 if !all.is_empty() => {
                let mut seen = all[rng.random_range(0..all.len())].clone();
                seen.state = InstanceState::Running;
                Said::Switch(Box::new(self.switch(seen, None)))
            }
            8 if !all.is_empty() => {
                let mut seen = all[rng.random_range(0..all.len())].clone();
                seen.state = InstanceState::Removed;
                let end = failed(seen.id, seen.job, now_ms);
                Said::Switch(Box::new(self.switch(seen, Some(end))))
            }
            9 if rng.random_range(0..4) == 0 => {
                // A new process that finds its instances again.
                self.record.start_time_ms += 1;
                self.seq = 0;
                Said::Beat(Box::new(self.beat()))
            }
            _ => Said::Beat(Box::new(self.beat())),
        }
    }
}

fn hear(seen: &mut Seen, said: Said, now_ms: u64) -> Changed {
    match said {
        Said::Beat(beat) => seen.beat(*beat, now_ms),
        Said::Switch(switch) => seen.switch(*switch),
    }
}

fn whole(seen: &Seen) -> View {
    let mut view =
        seen.view(&ViewRequest { jobs: (0..5).map(job).collect(), ims: true }, 1_000_000);
    for im in &mut view.ims {
        im.beat_age_ms = 0;
    }
    view
}

fn agreement(record: &ImRecord, lost: bool) -> Agreement {
    let start_time_ms = record.start_time_ms;
    Agreement { record: record.clone(), lost, start_time_ms, since_ms: 0 }
}

// === what is seen ===

/// Goal: whatever was lost, doubled or reordered, the view is the truth as soon as every last beat arrived.
/// Replay one life with its seed in the message.
#[test]
fn any_weather_ends_in_the_same_view() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ims: Vec<_> = (1..4).map(|number| Im::new(im(number), 100)).collect();
        let (mut fresh, mut said) = (0, Vec::new());
        for now_ms in 0..60 {
            let at = rng.random_range(0..ims.len());
            said.push(ims[at].live(&mut rng, &mut fresh, now_ms));
        }
        let mut weather: Vec<Said> = Vec::new();
        for message in said {
            let copies = [0, 1, 1, 2][rng.random_range(0..4)];
            weather.extend(std::iter::repeat_n(message, copies));
        }
        // Half of the lives are shuffled wildly, half only between neighbours.
        if seed % 2 == 0 {
            weather.shuffle(&mut rng);
        } else {
            weather.chunks_mut(4).for_each(|near| near.shuffle(&mut rng));
        }
        let (mut stormy, mut calm) = (Seen::new(0), Seen::new(0));
        for (now_ms, message) in weather.into_iter().enumerate() {
            hear(&mut stormy, message, now_ms as u64);
        }
        for im in &mut ims {
            let last = im.beat();
            calm.beat(last.clone(), 1_000);
            stormy.beat(last, 1_000);
        }
        assert_eq!(whole(&stormy), whole(&calm), "seed {seed}");
        let live: usize = ims.iter().map(|im| im.instances.len()).sum();
        let counted: usize = whole(&calm).jobs.values().map(|job| job.instances.len()).sum();
        assert_eq!(counted, live, "seed {seed}");
    }
}

/// Goal: in order and without loss, each message changes the view at once, and names exactly the jobs whose states or
/// ends differ.
#[test]
fn changes_are_named() {
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ims: Vec<_> = (1..3).map(|number| Im::new(im(number), 100)).collect();
        let (mut fresh, mut seen) = (0, Seen::new(0));
        for im in &mut ims {
            seen.beat(im.beat(), 0); // From now on their host names are known.
        }
        for now_ms in 0..80 {
            let before = whole(&seen);
            let at = rng.random_range(0..ims.len());
            let changed = hear(&mut seen, ims[at].live(&mut rng, &mut fresh, now_ms), now_ms);
            let after = whole(&seen);
            for id in (0..5).map(job) {
                let differs = before.jobs[&id] != after.jobs[&id];
                assert_eq!(changed.contains(&id), differs, "seed {seed} step {now_ms} {id}");
            }
        }
    }
}

/// Goal: an instance that is gone stays gone, whatever older message names it.
#[test]
fn an_older_beat_does_not_revive() {
    let mut one = Im::new(im(1), 100);
    let mut seen = Seen::new(0);
    let born = one.switch(running(instance(1), job(1), InstanceState::Running), None);
    seen.switch(born.clone());
    let old = one.beat();
    let mut end = born.instance.clone();
    end.state = InstanceState::Removed;
    let gone = one.switch(end, Some(failed(instance(1), job(1), 5)));
    assert_eq!(seen.switch(gone), Changed::from([job(1)]));
    assert_eq!(seen.beat(old, 1), Changed::new());
    assert_eq!(seen.switch(born), Changed::new());
    let view = whole(&seen);
    assert_eq!((view.jobs[&job(1)].instances.len(), view.jobs[&job(1)].ended.len()), (0, 1));
}

/// Goal: two processes under one name are noticed once, when the older one goes on speaking; a late word of it is nothing.
#[test]
fn an_older_process_under_the_same_name_is_noticed() {
    let (mut first, mut second) = (Im::new(im(1), 100), Im::new(im(1), 200));
    let mut seen = Seen::new(0);
    seen.beat(first.beat(), 0);
    seen.beat(second.beat(), 1);
    let noticed: Vec<bool> = (2..7)
        .map(|now_ms| {
            assert_eq!(seen.beat(first.beat(), now_ms), Changed::new());
            let told = seen.shadowed(im(1), 100);
            seen.beat(second.beat(), now_ms);
            assert!(!seen.shadowed(im(1), 200), "the younger one is not told about");
            told
        })
        .collect();
    assert_eq!(noticed, [false, false, true, false, false]);
}

/// Goal: three missed beats are a loss, one life at a time; the silence of a deaf health manager is none.
#[test]
fn silence_becomes_a_loss() {
    let beat_ms = 5_000;
    let mut one = Im::new(im(1), 100);
    one.switch(running(instance(1), job(1), InstanceState::Running), None);
    let mut seen = Seen::new(0);
    seen.beat(one.beat(), 0);
    assert!(due(&seen, 1, beat_ms).is_empty(), "nothing is known of the store yet");
    assert!(!seen.complete());
    seen.agreed_all(&Default::default(), 1, 0);
    assert!(seen.complete());
    let steps = due(&seen, 1, beat_ms);
    assert_eq!((steps[0].verdict, steps[0].expect, steps.len()), (Verdict::Here, 0, 1));
    seen.agreed(im(1), steps[0].agreement.clone(), (1, 2), 0);
    assert!(due(&seen, 15_000, beat_ms).is_empty());
    seen.was_deaf(14_000);
    assert!(due(&seen, 15_001, beat_ms).is_empty());
    let steps = due(&seen, 29_001, beat_ms);
    assert_eq!((steps[0].verdict, steps[0].expect, steps[0].doubtful), (Verdict::Lost, 1, true));
    assert_eq!(whole(&seen).jobs[&job(1)].instances.len(), 1);
    let changed = seen.agreed(im(1), steps[0].agreement.clone(), (2, 3), 0);
    assert_eq!(changed, Changed::from([job(1)]));
    assert_eq!(whole(&seen).jobs[&job(1)].instances.len(), 0);
    assert!(seen.complete(), "a lost one is not waited for");
    assert_eq!(seen.losses().len(), 1);
    // It is heard again: its instances count at once, and the store is told.
    assert_eq!(seen.beat(one.beat(), 40_000), Changed::from([job(1)]));
    assert_eq!(whole(&seen).jobs[&job(1)].instances.len(), 1);
    let steps = due(&seen, 40_000, beat_ms);
    assert_eq!((steps[0].verdict, steps[0].expect, steps[0].doubtful), (Verdict::Back, 2, false));
    assert!(seen.losses().is_empty());
}

/// Goal: a farewell is a loss at once, without doubt.
#[test]
fn a_farewell_is_a_loss_at_once() {
    let mut one = Im::new(im(1), 100);
    let mut seen = Seen::new(0);
    seen.agreed_all(&Default::default(), 1, 0);
    seen.agreed(im(1), Some(agreement(&one.record, false)), (1, 2), 0);
    let mut last = one.beat();
    last.leaving = true;
    seen.beat(last, 1);
    let steps = due(&seen, 1, 5_000);
    assert_eq!((steps[0].verdict, steps[0].doubtful), (Verdict::Left, false));
    assert!(steps[0].agreement.as_ref().is_some_and(|agreement| agreement.lost));
    seen.agreed(im(1), steps[0].agreement.clone(), (2, 3), 0);
    assert!(due(&seen, 2, 5_000).is_empty(), "its farewell does not bring it back");
    // A new process of the same is here again.
    one.record.start_time_ms += 1;
    one.seq = 0;
    seen.beat(one.beat(), 3);
    assert_eq!(due(&seen, 3, 5_000)[0].verdict, Verdict::Back);
}

/// Goal: an instance manager that only the store knows is waited for, then lost, then forgotten.
#[test]
fn who_never_speaks_is_lost_and_forgotten() {
    let mut seen = Seen::new(0);
    seen.agreed(im(1), Some(agreement(&record(im(1), 100), false)), (4, 9), 0);
    seen.agreed_all(&[im(1)].into(), 9, 0);
    assert!(!seen.complete());
    let lost = due(&seen, 15_001, 5_000).remove(0);
    assert_eq!((lost.verdict, lost.expect), (Verdict::Lost, 4));
    seen.agreed(im(1), lost.agreement, (5, 10), 0);
    assert!(seen.complete() && due(&seen, FORGET_MS, 5_000).is_empty());
    let gone = due(&seen, 15_001 + FORGET_MS + 1, 5_000).remove(0);
    assert_eq!((gone.verdict, gone.expect, gone.agreement), (Verdict::Forgotten, 5, None));
    seen.agreed(im(1), None, (0, 11), 0);
    seen.forget_strangers(20_000_000_000, 15_000);
    assert!(whole(&seen).ims.is_empty() && seen.complete());
    // An older word of the store, told late, does not bring it back.
    let mut seen = Seen::new(0);
    seen.agreed(im(1), None, (0, 11), 0);
    seen.agreed(im(1), Some(agreement(&record(im(1), 100), true)), (5, 10), 0);
    assert!(seen.losses().is_empty());
}

/// Goal: an answer fits one message of the bus, and is never estimated smaller than it is; a job is whole or not there,
/// except one that alone is too large.
#[test]
fn a_view_fits_a_message() {
    let mut seen = Seen::new(u64::MAX);
    for number in 1..=20 {
        let mut one = Im::new(im(number), u64::MAX);
        one.record.hostname = "\"".repeat(30);
        for copy in 0..400 {
            let id = instance(number * 1_000 + copy);
            let mut some = running(id, job(copy % 8), InstanceState::FirstRunning);
            (some.job_version, some.created_ms, some.since_ms) = (u64::MAX, u64::MAX, u64::MAX);
            some.addresses = (1..4).map(|p| (p, "10.20.30.40:12345".parse().unwrap())).collect();
            let (asked, setup, spawn) = (u64::MAX, u64::MAX, u64::MAX);
            let (listen, routed) = (u64::MAX, Some(u64::MAX));
            some.legs = Some(wire::health::Legs { asked, setup, spawn, listen, routed });
            let (cpu, memory, disk) = (u64::MAX, u64::MAX, u64::MAX);
            some.usage = Some(wire::health::Usage { cpu, memory, disk });
            one.instances.insert(some.id, some);
        }
        let huge = running(instance(number * 1_000 + 999), job(8), InstanceState::Running);
        for copy in 0..300 {
            let id = instance(1_000_000 + number * 1_000 + copy);
            one.instances.insert(id, InstanceSeen { id, ..huge.clone() });
        }
        seen.beat(one.beat(), 1);
    }
    let size = |view: &View| serde_json::to_vec(view).unwrap().len();
    let ask = |from: u128| ViewRequest { jobs: (from..9).map(job).collect(), ims: true };
    let mut from = 0;
    while from < 8 {
        let view = seen.view(&ask(from), 1);
        assert!(size(&view) < VIEW_BYTES_MAX, "{}", size(&view));
        assert!(view.jobs.values().all(|job| job.instances.len() == 1_000));
        assert!(!view.jobs.is_empty(), "nobody would ever learn of job {from}");
        from += view.jobs.len() as u128;
    }
    let view = seen.view(&ask(8), 1);
    let told = view.jobs[&job(8)].instances.len();
    assert!(size(&view) < VIEW_BYTES_MAX && (1_500..6_000).contains(&told), "{told}");
    seen.agreed_all(&Default::default(), 1, 0);
    assert!(seen.complete() && !seen.view(&ask(8), 1).complete, "half a list is not complete");
}

// === flapping ===

/// Goal: the rule of failures, share and window, at each of its edges.
#[test]
fn the_rule_of_flapping() {
    let mut web = Job::named("job::/sandbox/admin::x".parse().unwrap());
    web.state = JobState::Started;
    let ends = |count: u128, at_ms| -> Vec<Ended> {
        (0..count).map(|number| failed(instance(number), job(1), at_ms)).collect()
    };
    let now_ms = 1_000_000;
    let count = |job: &Job, ends: &[Ended]| flapping(job, ends.iter(), now_ms, 0);
    assert_eq!(count(&web, &ends(2, now_ms)), None);
    assert_eq!(count(&web, &ends(3, now_ms - 300_000)), Some(3));
    assert_eq!(count(&web, &ends(3, now_ms - 300_001)), None);
    assert_eq!(flapping(&web, ends(3, now_ms - 300_001).iter(), now_ms, 1), Some(3));
    let mut asked = ends(3, now_ms);
    asked[0].failed = false;
    assert_eq!(count(&web, &asked), None);
    web.num_instances = 8;
    assert_eq!(count(&web, &ends(3, now_ms)), None);
    assert_eq!(count(&web, &ends(4, now_ms)), Some(4));
    web.restart_version = 2;
    assert_eq!(count(&web, &ends(4, now_ms)), None, "older versions failed, not this one");
    web.restart_version = 1;
    web.state = JobState::Stopped;
    assert_eq!(count(&web, &ends(4, now_ms)), None);
}

/// Goal: the line is the original's, byte for byte.
#[test]
fn the_line_of_flapping() {
    let web = Job::named("job::/sandbox/admin::x".parse().unwrap());
    let mut notes = notes::JobNotes::default();
    notes.push(7, line(&web, 3));
    assert_eq!(
        notes.notes[0].line(job(1)).shown(),
        "[system-error] \"job::/sandbox/admin::x\" now considered flapping, having failed 3 times within 5m0s"
    );
    let shown: Vec<_> = [0, 45, 60, 300, 3_600, 3_725].into_iter().map(duration).collect();
    assert_eq!(shown, ["0s", "45s", "1m0s", "5m0s", "1h0m0s", "1h2m5s"]);
}

/// Goal: notes are bounded in number and size, and their numbers go on.
#[test]
fn notes_are_bounded() {
    let mut notes = notes::JobNotes::default();
    for at_ms in 0..60 {
        notes.push(at_ms, "ä".repeat(2_000));
    }
    assert_eq!(notes.notes.len(), notes::NOTES_MAX);
    assert_eq!((notes.notes[0].seq, notes.notes[49].seq), (11, 60));
    assert_eq!(notes.notes[0].text.len(), notes::NOTE_BYTES_MAX);
}
