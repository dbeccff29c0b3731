//! What the manager says on its own account: switches, beats, announcements, samples.
//!
//! Letters leave in order through one task; when too many wait they are dropped, and the next beat repairs it.
//! Deliberately absent: answers to questions (`answer`).

use super::Manager;
use super::instance::Instance;
use bus::Bus;
use tokio::sync::mpsc;
use wire::InstanceState;
use wire::announce::{AnnounceBeat, Announcement};
use wire::health::{Beat, ImRecord, InstanceSeen, Switch};
use wire::subject::{IM_BEAT, IM_ENDPOINTS, IM_ENDPOINTS_BEAT, IM_SWITCH, IM_USAGE};

/// Letters that wait.
pub(super) const LETTERS_MAX: usize = 8_192;
/// Instances in one message of samples.
const USAGE_MAX: usize = 500;

/// One letter.
pub(super) enum Out {
    Switch(Box<Switch>),
    Beat(Box<Beat>),
    Announcement(Announcement),
    AnnounceBeat(AnnounceBeat),
    Usage(Vec<InstanceSeen>),
}

/// Sends letters until there are no more.
pub(super) async fn send_all(bus: Bus, mut letters: mpsc::Receiver<Out>) {
    while let Some(letter) = letters.recv().await {
        let sent = match &letter {
            Out::Switch(body) => bus.publish(IM_SWITCH, body).await,
            Out::Beat(body) => bus.publish(IM_BEAT, body).await,
            Out::Announcement(body) => bus.publish(IM_ENDPOINTS, body).await,
            Out::AnnounceBeat(body) => bus.publish(IM_ENDPOINTS_BEAT, body).await,
            Out::Usage(body) => bus.publish(IM_USAGE, body).await,
        };
        if let Err(why) = sent {
            tracing::debug!(%why, "a letter was not sent");
        }
    }
}

impl Manager {
    pub(super) fn post(&mut self, letter: Out) {
        if self.out.try_send(letter).is_err() {
            self.untold = true;
        }
    }

    pub(super) fn beat(&mut self, leaving: bool) {
        self.untold = false;
        let beat = self.report(leaving);
        self.post(Out::Beat(Box::new(beat)));
    }

    pub(super) fn announce_beat(&mut self) {
        self.post(Out::AnnounceBeat(self.announcements.beat()));
    }

    /// Everything, as a beat says it.
    pub(super) fn report(&mut self, leaving: bool) -> Beat {
        self.seq += 1;
        let ip = self.settings.advertise;
        Beat {
            im: self.record(),
            seq: self.seq,
            instances: self.instances.values().map(|one| one.seen(ip)).collect(),
            ended: self.ended.iter().cloned().collect(),
            leaving,
        }
    }

    fn record(&self) -> ImRecord {
        let live = self.instances.values().filter(|one| one.told.is_live()).count();
        ImRecord {
            uuid: self.id,
            hostname: self.settings.hostname.clone(),
            datacenter: self.settings.datacenter.clone(),
            tags: self.settings.tags.clone(),
            system_tags: self.settings.system_tags.clone(),
            num_instances: u32::try_from(live).unwrap_or(u32::MAX),
            start_time_ms: self.epoch,
            resources_total: self.settings.resources_total,
            resources_provisioned: self.host.used.as_resources(),
            address: self.settings.advertise.to_string(),
        }
    }

    /// The instance stands here now.
    pub(super) fn switch(&mut self, instance: &mut Instance, to: InstanceState) {
        let from = instance.told;
        tracing::info!(instance = %instance.id.short(), job = %instance.job.fqn, "Switching state: {from} -> {to}");
        instance.told = to;
        instance.since_ms = self.now_ms();
        if from.is_live() && !to.is_live() {
            self.uncount(instance);
        }
        self.tell_switch(instance, Some(from));
    }

    pub(super) fn tell_switch(&mut self, instance: &Instance, from: Option<InstanceState>) {
        self.seq += 1;
        let switch = Switch {
            im: self.id,
            start_time_ms: self.epoch,
            seq: self.seq,
            instance: instance.seen(self.settings.advertise),
            from,
            ended: instance.ended.clone().filter(|_| instance.told == InstanceState::Removed),
        };
        self.post(Out::Switch(Box::new(switch)));
    }

    pub(super) fn tell_usage(&mut self) {
        let ip = self.settings.advertise;
        let all: Vec<_> = self.instances.values().map(|one| one.seen(ip)).collect();
        for part in all.chunks(USAGE_MAX) {
            self.post(Out::Usage(part.to_vec()));
        }
    }
}
