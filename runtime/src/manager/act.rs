//! Carries out what a life asks for: each action is a task, or a word to others.
//!
//! Deliberately absent: which action when; that is `life`.

use super::Manager;
use super::instance::Instance;
use super::note::Note;
use crate::drain;
use crate::driver::{Driver, Signal};
use crate::environment::{self, Given};
use crate::life::{Action, End, Event};
use crate::spec::{Command, Spec};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tell::Out;
use tokio::sync::mpsc;
use wire::health::ENDED_MAX;
use wire::logs::{LogLine, LogStream};
use wire::routing::{Await, Awaited};
use wire::subject::ROUTER_AWAIT;
use wire::{InstanceId, InstanceState};

use super::tell;

/// Between two attempts on the ports of a starting instance: at first, and at most.
const PROBE_PAUSE_MS: std::ops::RangeInclusive<u64> = 2..=50;
/// Attempts on the ports of a running instance before it counts as deaf.
const DEAF_ATTEMPTS: u32 = 3;
/// Between them.
const DEAF_PAUSE: Duration = Duration::from_secs(1);
/// For routers to have a new instance; one that does not answer must not keep it from counting.
const ROUTED_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to destroy an instance.
const DESTROY_PAUSE: Duration = Duration::from_secs(1);
/// Attempts to destroy; then what is left of its files is left.
const DESTROY_ATTEMPTS: u32 = 5;

impl Manager {
    /// Something happened in a life: what follows is done.
    pub(super) fn step(&mut self, id: InstanceId, event: Event) {
        let now_ms = self.now_ms();
        // Taken out and put back, so that an action can use the whole manager.
        let Some(mut instance) = self.instances.remove(&id) else { return };
        let spawned = event == Event::Spawned;
        let before = instance.life.phase();
        if event == Event::Prepared {
            instance.legs.setup = instance.leg(now_ms);
        }
        let actions = instance.life.step(event, now_ms);
        if spawned {
            instance.legs.spawn = instance.leg(now_ms);
        }
        for action in actions {
            self.act(&mut instance, action);
        }
        let moved = instance.life.phase() != before;
        let gone = instance.told == InstanceState::Removed;
        if gone {
            self.forget(&instance);
            return;
        }
        self.instances.insert(id, instance);
        if moved {
            self.keep_instance(id);
        }
    }

    pub(super) fn act(&mut self, instance: &mut Instance, action: Action) {
        let id = instance.id;
        match action {
            Action::Switch(to) => {
                if to == InstanceState::FirstRunning {
                    instance.legs.listen = instance.leg(self.now_ms());
                }
                self.switch(instance, to);
            }
            Action::Prepare => self.prepare(instance),
            Action::Abandon => instance.abandoned.cancel(),
            Action::Spawn => self.begin(instance),
            Action::Probe => self.probe(instance),
            Action::Announce => self.announce(instance),
            Action::Withdraw => {
                instance.unwatched.cancel();
                if let Some(change) = self.announcements.down(id) {
                    self.post(Out::Announcement(change));
                }
            }
            Action::Drain => self.drain(instance),
            Action::Tell => self.tell_to_end(instance),
            Action::Term => self.signal(id, Signal::Term),
            Action::Kill => self.signal(id, Signal::Kill),
            Action::Take(version) => tracing::debug!(instance = %id, version, "updated"),
            Action::Arm(ms) => self.arm(instance, ms),
            Action::Destroy(end) => self.destroy(instance, &end),
        }
    }

    fn prepare(&mut self, instance: &mut Instance) {
        let (id, job, packages) = (instance.id, instance.job.clone(), instance.packages.clone());
        let (ports, host_ip) = (instance.ports.clone(), self.settings.advertise);
        let (driver, cache) = (Arc::clone(&self.driver), self.cache.clone());
        let (notes, abandoned) = (self.notes.clone(), instance.abandoned.clone());
        let work = async move {
            let root = driver.prepare(id).await.map_err(|why| why.to_string())?;
            if let (Some(root), Some(cache)) = (&root, &cache) {
                cache.lay_out(&packages, root, &abandoned).await.map_err(|why| why.to_string())?;
            }
            let command = job.process().and_then(Command::start_of);
            let command = command.ok_or_else(|| "the job has no start command".to_owned())?;
            let given = Given {
                job: &job,
                job_id: job.uuid,
                instance: id,
                packages: &packages,
                root: root.as_deref().unwrap_or_else(|| Path::new("/")),
                host_ip,
                ports: &ports,
            };
            let (environment, directory) = environment::build(&given);
            let directory = directory.to_string_lossy().into_owned();
            Ok::<_, String>(Spec { instance: id, command, environment, directory })
        };
        let before = instance.work.take();
        instance.work = Some(self.spawn(async move {
            after(before).await;
            let note = match work.await {
                Ok(spec) => Note::Ready(id, Box::new(spec)),
                Err(why) => Note::Life(id, Event::Failed(why)),
            };
            notes.send(note).await.ok();
        }));
    }

    fn begin(&mut self, instance: &mut Instance) {
        let Some(spec) = instance.spec.clone() else { return };
        let (driver, notes, logs) =
            (Arc::clone(&self.driver), self.notes.clone(), self.logs.clone());
        let (id, job, before) = (instance.id, instance.job_id(), instance.work.take());
        let tasks = self.tasks.clone();
        instance.work = Some(self.spawn(async move {
            after(before).await;
            if let Err(why) = driver.start(&spec).await {
                notes.send(Note::Life(id, Event::Failed(why.to_string()))).await.ok();
                return;
            }
            logs.follow(id, job).await;
            notes.send(Note::Life(id, Event::Spawned)).await.ok();
            tasks.spawn(tell_end(driver, id, notes));
        }));
    }

    /// Watches for the end of an instance that was found again.
    pub(super) fn watch_end(&self, id: InstanceId) {
        self.spawn(tell_end(Arc::clone(&self.driver), id, self.notes.clone()));
    }

    fn probe(&mut self, instance: &Instance) {
        let (id, addrs) = (instance.id, instance.probed(self.settings.advertise));
        let (driver, notes) = (Arc::clone(&self.driver), self.notes.clone());
        let unwatched = instance.unwatched.clone();
        self.spawn(async move {
            let listening = async {
                for addr in addrs {
                    let mut pause_ms = *PROBE_PAUSE_MS.start();
                    while !driver.probe(addr).await {
                        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                        pause_ms = (pause_ms * 2).min(*PROBE_PAUSE_MS.end());
                    }
                }
                notes.send(Note::Life(id, Event::Listening)).await.ok();
            };
            unwatched.run_until_cancelled(listening).await.unwrap_or_default();
        });
    }

    fn announce(&mut self, instance: &Instance) {
        let ip = self.settings.advertise;
        let mut routed = false;
        if let Some(change) = self.announcements.up(instance.id, instance.endpoints(ip)) {
            self.post(Out::Announcement(change));
            routed = instance.job.routes().next().is_some();
        }
        self.await_routed(instance.id, routed);
        self.check_ports(instance);
    }

    /// Measures until every live router has it; ends in `Routed`, at once when nobody routes to it.
    fn await_routed(&self, id: InstanceId, routed: bool) {
        let now_ms = self.now_ms();
        let routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if routed { routers.alive(now_ms).len() } else { 0 };
        drop(routers);
        let (bus, notes) = (self.bus.clone(), self.notes.clone());
        let timeout_ms = u64::try_from(ROUTED_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
        let question = Await {
            revision: 0,
            job: None,
            announced: Some(self.announcements.stand()),
            timeout_ms,
        };
        self.spawn(async move {
            let until = bus::Until { count, deadline: ROUTED_TIMEOUT };
            let mut ms = None;
            if count > 0 {
                let answers = bus.gather::<_, Awaited>(ROUTER_AWAIT, &question, until).await;
                let live = |answer: &Awaited| answer.cores == answer.cores_total;
                let all = answers.is_ok_and(|all| all.len() == count && all.iter().all(live));
                ms = all.then(|| bus.clock().unix_ms().saturating_sub(now_ms));
            }
            notes.send(Note::Routed(id, ms)).await.ok();
        });
    }

    /// From time to time: a process may live and listen no more.
    pub(super) fn check_ports(&self, instance: &Instance) {
        let (id, addrs) = (instance.id, instance.probed(self.settings.advertise));
        if addrs.is_empty() {
            return;
        }
        let (driver, notes) = (Arc::clone(&self.driver), self.notes.clone());
        let (period, unwatched) = (self.settings.port_check, instance.unwatched.clone());
        let found = instance.found;
        let watching = async move {
            // One that was found again is looked at at once: nobody knows how long it was alone.
            let mut pause = if found { Duration::ZERO } else { period };
            loop {
                tokio::time::sleep(pause).await;
                pause = period;
                for addr in &addrs {
                    if is_deaf(driver.as_ref(), *addr).await {
                        let why = format!("nothing accepts connections on port {}", addr.port());
                        notes.send(Note::Life(id, Event::Deaf(why))).await.ok();
                        return;
                    }
                }
            }
        };
        self.spawn(async move {
            unwatched.run_until_cancelled(watching).await.unwrap_or_default();
        });
    }

    fn drain(&mut self, instance: &Instance) {
        let (id, stop_ms) = (instance.id, crate::spec::terms(&instance.job).stop_ms);
        let endpoints = instance.endpoints(self.settings.advertise);
        let (bus, routers, notes) =
            (self.bus.clone(), Arc::clone(&self.routers), self.notes.clone());
        let stand = self.announcements.stand();
        let limit = Duration::from_millis(stop_ms);
        self.spawn(async move {
            if !drain::confirmed(&bus, &routers, stand, endpoints, limit).await {
                tracing::warn!(instance = %id.short(), "stopped with requests in flight");
            }
            notes.send(Note::Life(id, Event::Drained)).await.ok();
        });
    }

    fn tell_to_end(&mut self, instance: &Instance) {
        instance.unwatched.cancel();
        let command = instance.job.process().and_then(Command::stop_of);
        let (Some(command), Some(spec)) = (command, instance.spec.clone()) else {
            self.signal(instance.id, Signal::Term);
            return;
        };
        let limit = Duration::from_millis(crate::spec::terms(&instance.job).stop_ms);
        let (id, driver, notes) = (instance.id, Arc::clone(&self.driver), self.notes.clone());
        self.spawn(async move {
            if let Err(why) = driver.run(&Spec { command, ..spec }, limit).await {
                tracing::warn!(instance = %id.short(), %why, "TERM instead");
                notes.send(Note::Life(id, Event::StopCommandFailed)).await.ok();
            }
        });
    }

    fn signal(&self, id: InstanceId, signal: Signal) {
        let driver = Arc::clone(&self.driver);
        self.spawn(async move {
            if let Err(why) = driver.signal(id, signal).await {
                tracing::warn!(instance = %id.short(), %why, "not signalled");
            }
        });
    }

    fn arm(&mut self, instance: &mut Instance, ms: u64) {
        instance.timer_number += 1;
        let (id, number, notes) = (instance.id, instance.timer_number, self.notes.clone());
        let timer = self.spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            notes.send(Note::TimeUp(id, number)).await.ok();
        });
        if let Some(old) = instance.timer.replace(timer) {
            old.abort();
        }
    }

    fn destroy(&mut self, instance: &mut Instance, end: &End) {
        instance.unwatched.cancel();
        let ended = instance.end(end, self.now_ms());
        if end.failed {
            self.note(instance, &end.reason);
        }
        let (id, before) = (instance.id, instance.work.take());
        let (driver, keep, logs) = (Arc::clone(&self.driver), self.keep.clone(), self.logs.clone());
        let notes = self.notes.clone();
        instance.work = Some(self.spawn(async move {
            after(before).await;
            logs.finish(id).await;
            // Kept before the files go: whatever happens in between, its status is in one place at least.
            if let Some(Err(why)) = keep.as_ref().map(|keep| keep.put_ended(&ended)) {
                tracing::error!(instance = %id.short(), %why, "an end was not kept");
            }
            for _ in 0..DESTROY_ATTEMPTS {
                let Err(why) = driver.destroy(id).await else { break };
                tracing::warn!(instance = %id.short(), %why, "not removed");
                tokio::time::sleep(DESTROY_PAUSE).await;
            }
            notes.send(Note::Life(id, Event::Destroyed)).await.ok();
        }));
    }

    /// A line in the job's own log about a failure.
    fn note(&self, instance: &Instance, text: &str) {
        self.logs.note(LogLine {
            job: instance.job_id(),
            instance: Some(instance.id),
            stream: LogStream::SystemError,
            seq: 1,
            at_ms: self.now_ms(),
            text: format!("instance failed: {text}"),
        });
    }

    /// Nothing is left of it but its end.
    fn forget(&mut self, instance: &Instance) {
        self.host.used.remove(&instance.job.resources);
        self.host.room += 1;
        let numbers: Vec<_> = instance.ports.iter().map(|(_, number)| *number).collect();
        self.ports.give_back(&numbers);
        self.host.ports.clone_from(self.ports.taken());
        if let Some(ended) = &instance.ended {
            self.ended.push_front(ended.clone());
            self.ended.truncate(ENDED_MAX);
        }
        if let Some(keep) = &self.keep {
            keep.remove(instance.id);
        }
    }

    /// It takes its part of the host.
    pub(super) fn count(&mut self, instance: &Instance) {
        self.host.used.add(&instance.job.resources);
        self.host.room = self.host.room.saturating_sub(1);
        self.host.ports.clone_from(self.ports.taken());
        let name = || (instance.job.fqn.clone(), 0);
        self.host.copies.entry(instance.job_id()).or_insert_with(name).1 += 1;
    }

    /// It is no live copy of its job any more.
    pub(super) fn uncount(&mut self, instance: &Instance) {
        let job = instance.job_id();
        let left = self.host.copies.get_mut(&job).map(|(_, count)| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            self.host.copies.remove(&job);
        }
    }

    pub(super) fn keep_instance(&self, id: InstanceId) {
        let (Some(keep), Some(instance)) = (&self.keep, self.instances.get(&id)) else { return };
        if let Err(why) = keep.put(&instance.kept()) {
            tracing::error!(instance = %id.short(), %why, "a record was not kept");
            keep.note_full(&why, self.now_ms());
        }
    }
}

async fn after(before: Option<tokio::task::JoinHandle<()>>) {
    if let Some(before) = before {
        before.await.ok();
    }
}

async fn tell_end(driver: Arc<dyn Driver>, id: InstanceId, notes: mpsc::Sender<Note>) {
    let exit = driver.wait(id).await;
    notes.send(Note::Life(id, Event::Exited(exit))).await.ok();
}

async fn is_deaf(driver: &dyn Driver, addr: std::net::SocketAddr) -> bool {
    for attempt in 1..=DEAF_ATTEMPTS {
        if driver.probe(addr).await {
            return false;
        }
        if attempt < DEAF_ATTEMPTS {
            tokio::time::sleep(DEAF_PAUSE).await;
        }
    }
    true
}
