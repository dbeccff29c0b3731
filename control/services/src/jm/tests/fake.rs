//! An instance manager without processes: it offers, starts, stops, beats, on the bus, in virtual time.
//!
//! Deliberately absent: everything that the real one has beyond its words on the bus.

use bus::{Bus, Delivery, Next};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinSet;
use wire::health::{Beat, Ended, ImRecord, InstanceSeen, Switch};
use wire::job::Resources;
use wire::placement::{Done, Offer, Placement, ReversePlacement, Start, Stop, Surrender, Update};
use wire::{ImId, InstanceId, InstanceState, JobId, subject};

/// How an instance lives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Runs,
    /// Ends by itself after so many milliseconds, failed or not.
    Ends(u64, bool),
}

#[derive(Default)]
struct State {
    instances: BTreeMap<InstanceId, InstanceSeen>,
    ended: Vec<Ended>,
    seq: u64,
    /// Neither hears nor speaks.
    away: bool,
    fates: BTreeMap<JobId, Fate>,
    /// Every start that it took, for the tests.
    starts: Vec<InstanceId>,
}

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) id: ImId,
    tags: Vec<String>,
    score: f64,
    bus: Bus,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(super) fn new(bus: &Bus, n: u128, score: f64, tags: &[&str]) -> Self {
        let id = super::im(n);
        Self {
            id,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            score,
            bus: bus.speaking_as(bus::Sender::new("im", id)),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn now_ms(&self) -> u64 {
        self.bus.clock().unix_ms()
    }

    pub(super) fn away(&self, away: bool) {
        self.state().away = away;
    }

    pub(super) fn fate(&self, job: JobId, fate: Fate) {
        self.state().fates.insert(job, fate);
    }

    /// Versions of the live instances of a job.
    pub(super) fn live(&self, job: JobId) -> Vec<u64> {
        let state = self.state();
        let live = state.instances.values().filter(|i| i.job == job && i.state.is_live());
        live.map(|i| i.job_version).collect()
    }

    pub(super) fn serving(&self, job: JobId) -> usize {
        let state = self.state();
        state.instances.values().filter(|i| i.job == job && i.state.is_running()).count()
    }

    pub(super) fn starts(&self) -> usize {
        self.state().starts.len()
    }

    pub(super) async fn run(self) {
        let mut bids = self.bus.subscribe(subject::IM_BID, None).await.unwrap();
        let mut reverse = self.bus.subscribe(subject::IM_REVERSE_BID, None).await.unwrap();
        let mut reports = self.bus.subscribe(subject::IM_REPORT, None).await.unwrap();
        let mut starts = self.bus.subscribe(&subject::im_start(self.id), None).await.unwrap();
        let mut stops = self.bus.subscribe(&subject::im_stop(self.id), None).await.unwrap();
        let mut updates = self.bus.subscribe(&subject::im_update(self.id), None).await.unwrap();
        let mut beat = tokio::time::interval(Duration::from_millis(wire::health::BEAT_MS));
        let mut lives = JoinSet::new();
        loop {
            let (message, kind) = tokio::select! {
                m = bids.next() => (m, 'b'),
                m = reverse.next() => (m, 'r'),
                m = reports.next() => (m, 'p'),
                m = starts.next() => (m, 's'),
                m = stops.next() => (m, 'x'),
                m = updates.next() => (m, 'u'),
                _ = beat.tick() => {
                    if !self.state().away {
                        let beat = self.beat();
                        self.bus.publish(subject::IM_BEAT, &beat).await.unwrap();
                    }
                    continue;
                }
                Some(_) = lives.join_next() => continue,
            };
            let Some(Next::Message(message)) = message else { continue };
            if self.state().away {
                continue;
            }
            match kind {
                'b' => drop(lives.spawn(self.clone().offer(message))),
                'r' => self.surrender(&message).await,
                'p' => message.reply(&self.beat()).await.unwrap(),
                's' => {
                    let start: Start = message.decode().unwrap();
                    message.reply(&Done::Accepted).await.unwrap();
                    lives.spawn(self.clone().live_one(start));
                }
                'x' => {
                    let stop: Stop = message.decode().unwrap();
                    message.reply(&Done::Accepted).await.unwrap();
                    lives.spawn(self.clone().stop_one(stop));
                }
                _ => {
                    let update: Update = message.decode().unwrap();
                    message.reply(&Done::Accepted).await.unwrap();
                    let switched = self.switch(update.instance, |seen| {
                        seen.job_version = update.job.version_id;
                        None
                    });
                    self.tell(switched).await;
                }
            }
        }
    }

    fn beat(&self) -> Beat {
        let mut state = self.state();
        state.seq += 1;
        let all =
            Resources { cpu: 1 << 20, memory: 1 << 40, disk: 1 << 40, network: 1 << 40, netmax: 0 };
        let none = Resources { cpu: 0, memory: 0, disk: 0, network: 0, netmax: 0 };
        Beat {
            im: ImRecord {
                uuid: self.id,
                hostname: format!("host-{}", self.id.short()),
                datacenter: String::new(),
                tags: self.tags.clone(),
                system_tags: Vec::new(),
                num_instances: 0,
                start_time_ms: 1,
                resources_total: all,
                resources_provisioned: none,
                address: String::new(),
            },
            seq: state.seq,
            instances: state.instances.values().cloned().collect(),
            ended: state.ended.clone(),
            leaving: false,
        }
    }

    async fn offer(self, message: Delivery) {
        let placement: Placement = message.decode().unwrap();
        if placement.hard_tags.iter().any(|tag| !self.tags.contains(tag)) {
            return;
        }
        let here = u32::try_from(self.live(placement.job).len()).unwrap();
        let score = |copy: u32| self.score + 20.0 * f64::from(here + copy);
        let scores: Vec<_> = (0..placement.count).map(score).collect();
        let delay_ms = scores[0] / 100.0 * placement.window_ms as f64;
        tokio::time::sleep(Duration::from_secs_f64(delay_ms / 1_000.0)).await;
        let offer = Offer { im: self.id, request: placement.request, scores };
        drop(message.reply(&offer).await);
    }

    async fn surrender(&self, message: &Delivery) {
        let request: ReversePlacement = message.decode().unwrap();
        let copies: Vec<_> = {
            let state = self.state();
            let live =
                state.instances.values().filter(|i| i.job == request.job && i.state.is_live());
            live.map(|i| (i.id, 1.0)).collect()
        };
        if !copies.is_empty() {
            let answer = Surrender { im: self.id, request: request.request, copies };
            message.reply(&answer).await.unwrap();
        }
    }

    async fn live_one(self, start: Start) {
        let (id, job) = (start.instance, start.job.uuid);
        let now_ms = self.now_ms();
        let born = {
            let mut state = self.state();
            let new = !state.starts.contains(&id);
            if new {
                state.starts.push(id);
                let seen = InstanceSeen {
                    id,
                    job,
                    job_version: start.job.version_id,
                    state: InstanceState::New,
                    created_ms: now_ms,
                    since_ms: now_ms,
                    addresses: BTreeMap::new(),
                    legs: None,
                    usage: None,
                };
                state.instances.insert(id, seen);
            }
            new
        };
        if !born {
            return;
        }
        self.become_(id, InstanceState::New).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let fate = self.state().fates.get(&job).copied().unwrap_or(Fate::Runs);
        self.become_(id, InstanceState::Running).await;
        if let Fate::Ends(after_ms, failed) = fate {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            self.end(id, after_ms, failed, false).await;
        }
    }

    async fn stop_one(self, stop: Stop) {
        self.become_(stop.instance, InstanceState::StoppingWait).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.end(stop.instance, 1, false, true).await;
    }

    async fn become_(&self, id: InstanceId, next: InstanceState) {
        let now_ms = self.now_ms();
        let switched = self.switch(id, |seen| {
            if next > seen.state || next == InstanceState::New {
                seen.state = next;
                seen.since_ms = now_ms;
            }
            None
        });
        self.tell(switched).await;
    }

    async fn end(&self, id: InstanceId, ran_ms: u64, failed: bool, asked: bool) {
        let at_ms = self.now_ms();
        let switched = self.switch(id, |seen| {
            seen.state = InstanceState::Removed;
            Some(Ended {
                id,
                job: seen.job,
                job_version: seen.job_version,
                at_ms,
                ran_ms,
                failed,
                asked,
                exit_code: Some(i32::from(failed)),
                reason: String::new(),
            })
        });
        self.tell(switched).await;
    }

    fn switch(
        &self,
        id: InstanceId,
        change: impl FnOnce(&mut InstanceSeen) -> Option<Ended>,
    ) -> Option<Switch> {
        let mut state = self.state();
        let seen = state.instances.get_mut(&id)?;
        let from = Some(seen.state);
        let ended = change(seen);
        let instance = seen.clone();
        if let Some(ended) = &ended {
            state.instances.remove(&id);
            state.ended.insert(0, ended.clone());
        }
        state.seq += 1;
        let seq = state.seq;
        (!state.away).then_some(Switch {
            im: self.id,
            start_time_ms: 1,
            seq,
            instance,
            from,
            ended,
        })
    }

    async fn tell(&self, switch: Option<Switch>) {
        if let Some(switch) = switch {
            self.bus.publish(subject::IM_SWITCH, &switch).await.unwrap();
        }
    }
}
