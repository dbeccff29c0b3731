//! What others ask of the manager: bids, starts, stops, updates, reports.
//!
//! Deliberately absent: what follows from a start or a stop (`act`).

use super::Manager;
use super::instance::Instance;
use super::note::Note;
use crate::driver::Stats;
use crate::keep::Kept;
use crate::life::{Event, Life, Phase};
use crate::spec::terms;
use crate::taint::{delay_us, scores, surrender};
use bus::Delivery;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use wire::health::{Legs, Usage};
use wire::placement::{Done, Offer, Placement, ReversePlacement, Start, Stop, Surrender, Update};
use wire::{InstanceId, InstanceState};

/// Added to the delay of an offer by chance, so that equal hosts do not speak at once.
const JITTER_US_MAX: u64 = 5_000;

impl Manager {
    pub(super) fn hear(&mut self, note: Note) {
        match note {
            Note::Bid(ask, delivery) => self.bid(&ask, delivery),
            Note::ReverseBid(ask, delivery) => self.reverse_bid(&ask, delivery),
            Note::Report(delivery) => {
                let report = self.report(false);
                self.reply(delivery, report);
            }
            Note::Start(start, delivery) => {
                let done = self.accept(*start);
                self.reply(delivery, done);
            }
            Note::Stop(stop, delivery) => {
                let done = self.stop(&stop);
                self.reply(delivery, done);
            }
            Note::Update(update, delivery) => {
                let done = self.update(*update);
                self.reply(delivery, done);
            }
            Note::Endpoints(delivery) => {
                let all = self.announcements.all();
                self.reply(delivery, all);
            }
            Note::Logs(request, delivery) => self.logs.page(request, delivery),
            Note::Router(beat) => {
                let now_ms = self.now_ms();
                let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
                routers.hear(&beat, now_ms);
            }
            Note::Lost => self.lost(),
            Note::Ready(id, spec) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.spec = Some(*spec);
                }
                self.step(id, Event::Prepared);
            }
            Note::Life(id, event) => self.step(id, event),
            Note::TimeUp(id, number) => {
                if self.instances.get(&id).is_some_and(|one| one.timer_number == number) {
                    self.step(id, Event::TimeUp);
                }
            }
            Note::Routed(id, ms) => {
                if let Some(instance) = self.instances.get_mut(&id)
                    && ms.is_some()
                {
                    instance.legs.routed = ms;
                    self.untold = true;
                }
                self.step(id, Event::Routed);
                self.keep_instance(id);
            }
            Note::Usage(samples) => self.sampled(&samples),
        }
    }

    fn reply<T: serde::Serialize + Send + Sync + 'static>(&self, delivery: Delivery, body: T) {
        self.spawn(async move {
            if let Err(why) = delivery.reply(&body).await {
                tracing::debug!(%why, "an answer was not sent");
            }
        });
    }

    fn lost(&mut self) {
        let now_ms = self.now_ms();
        self.routers.lock().unwrap_or_else(PoisonError::into_inner).lost(now_ms);
        // Whoever missed us meanwhile hears where we stand.
        self.beat(false);
        self.announce_beat();
    }

    fn bid(&mut self, ask: &Placement, delivery: Delivery) {
        if self.leaving || !delivery.wants_reply() {
            return;
        }
        let now_ms = self.now_ms();
        if self.keep.as_ref().is_some_and(|keep| !keep.has_room(now_ms)) {
            return;
        }
        let scores = scores(&self.host, ask);
        let Some(first) = scores.first() else { return };
        let foreign = |port: &u16| {
            !self.driver.is_free(SocketAddr::new(self.settings.advertise, *port), false)
        };
        if ask.fixed_ports.iter().any(foreign) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.offers).try_acquire_owned() else { return };
        let wait_us = delay_us(*first, ask.window_ms) + self.jitter_us(JITTER_US_MAX);
        let offer = Offer { im: self.id, request: ask.request, scores };
        self.spawn(async move {
            let _permit = permit;
            tokio::time::sleep(Duration::from_micros(wait_us)).await;
            delivery.reply(&offer).await.ok();
        });
    }

    fn reverse_bid(&mut self, ask: &ReversePlacement, delivery: Delivery) {
        let copies: Vec<_> = self
            .instances
            .values()
            .filter(|one| one.job_id() == ask.job && one.told.is_live())
            .map(|one| (one.id, one.told.is_running(), one.created_ms))
            .collect();
        if copies.is_empty() {
            return;
        }
        let ages: Vec<_> = copies.iter().map(|(_, runs, at)| (*runs, *at)).collect();
        let scores = surrender(&self.host, &ages);
        let copies = copies.iter().zip(scores).map(|((id, ..), score)| (*id, score)).collect();
        self.reply(delivery, Surrender { im: self.id, request: ask.request, copies });
    }

    fn accept(&mut self, start: Start) -> Done {
        if self.instances.contains_key(&start.instance) {
            return Done::Accepted;
        }
        match self.take_in(start) {
            Ok(id) => {
                self.step(id, Event::Begin);
                Done::Accepted
            }
            Err(why) => Done::Refused(why),
        }
    }

    /// Looks once more at what the offer looked at: an offer reserved nothing.
    fn take_in(&mut self, start: Start) -> Result<InstanceId, String> {
        let now_ms = self.now_ms();
        if self.leaving {
            return Err("this instance manager stops".to_owned());
        }
        if self.ended.iter().any(|end| end.id == start.instance) {
            return Err("this instance has ended already".to_owned());
        }
        if self.host.room == 0 {
            return Err("no room for another instance".to_owned());
        }
        let mut load = self.host.used;
        load.add(&start.job.resources);
        if self.host.share(&load) > 1.0 {
            return Err("no resources for another instance".to_owned());
        }
        let mut wanted: Vec<u16> = Vec::new();
        for port in &start.job.ports {
            if !wanted.contains(&port.number) {
                wanted.push(port.number);
            }
        }
        let (ip, driver) = (self.settings.advertise, &self.driver);
        let numbers = self
            .ports
            .take(&wanted, |number, any| driver.is_free(SocketAddr::new(ip, number), any))
            .map_err(|port| match port {
                0 => "no free port".to_owned(),
                port => format!("port {port} is taken"),
            })?;
        let asked = now_ms.saturating_sub(start.asked_ms);
        let kept = Kept {
            instance: start.instance,
            created_ms: now_ms,
            ports: wanted.into_iter().zip(numbers).collect(),
            packages: start.packages,
            phase: Phase::New,
            asked: None,
            failure: None,
            running_since_ms: None,
            legs: Legs { asked, ..Legs::default() },
            spec: None,
            job: start.job,
        };
        // Without a record nobody would find it again: better elsewhere.
        if let Some(keep) = &self.keep
            && let Err(why) = keep.put(&kept)
        {
            keep.note_full(&why, now_ms);
            self.ports.give_back(&kept.ports.iter().map(|(_, number)| *number).collect::<Vec<_>>());
            return Err(format!("its record cannot be kept: {why}"));
        }
        let life = Life::new(terms(&kept.job));
        let instance = Instance::new(kept, life, now_ms);
        let id = instance.id;
        self.count(&instance);
        self.tell_switch(&instance, None);
        self.instances.insert(id, instance);
        Ok(id)
    }

    fn stop(&mut self, stop: &Stop) -> Done {
        if self.instances.contains_key(&stop.instance) {
            self.step(stop.instance, Event::Stop(stop.reason.clone()));
            return Done::Accepted;
        }
        if self.ended.iter().any(|end| end.id == stop.instance) {
            return Done::Accepted;
        }
        Done::Refused("this instance is not here".to_owned())
    }

    fn update(&mut self, update: Update) -> Done {
        let Some(instance) = self.instances.get_mut(&update.instance) else {
            return Done::Refused("this instance is not here".to_owned());
        };
        if instance.job_id() != update.job.uuid {
            return Done::Refused("this instance is of another job".to_owned());
        }
        let version = update.job.version_id;
        if version <= instance.job.version_id {
            return Done::Accepted;
        }
        match instance.told {
            InstanceState::Running => {
                instance.job = update.job;
                self.step(update.instance, Event::Update(version));
                self.keep_instance(update.instance);
                Done::Accepted
            }
            state if state.is_live() => Done::Refused(format!("it is still {state}")),
            state => Done::Refused(format!("it ends: {state}")),
        }
    }

    /// Samples every so often, in a task of its own, because looking at all processes takes its time.
    pub(super) fn sample_usage(&mut self) {
        let (driver, notes, period) =
            (Arc::clone(&self.driver), self.notes.clone(), self.settings.usage_period);
        let ids: Vec<_> = self.instances.keys().copied().collect();
        self.spawn(async move {
            tokio::time::sleep(period).await;
            let stats = driver.stats(&ids).await;
            let both = ids.into_iter().zip(stats);
            let samples = both.filter_map(|(id, stats)| Some((id, stats?))).collect();
            notes.send(Note::Usage(samples)).await.ok();
        });
    }

    fn sampled(&mut self, samples: &[(InstanceId, Stats)]) {
        let now_ms = self.now_ms();
        for (id, stats) in samples {
            let Some(instance) = self.instances.get_mut(id) else { continue };
            let cpu = match instance.sample {
                Some((before, at_ms)) if now_ms > at_ms => {
                    let used_ns = stats.cpu_ns.saturating_sub(before.cpu_ns);
                    used_ns.saturating_mul(1_000) / (now_ms - at_ms)
                }
                _ => 0,
            };
            instance.sample = Some((*stats, now_ms));
            instance.usage = Some(Usage { cpu, memory: stats.memory, disk: stats.disk });
        }
        self.tell_usage();
        self.sample_usage();
    }
}
