//! Finds instances of an earlier process again, before the first word is said to anybody.
//!
//! What was announced and lives is announced again at once: routers that ask the new process for the whole find
//! everything. Deliberately absent: how a driver finds a process.

use super::Manager;
use super::instance::Instance;
use crate::driver::Found;
use crate::keep::Kept;
use crate::life::{Event, Exit, Life, Phase};
use crate::spec::terms;
use std::collections::BTreeSet;

impl Manager {
    pub(super) async fn resume(&mut self) {
        let Some(keep) = self.keep.clone() else { return };
        let mut known = BTreeSet::new();
        for kept in keep.instances() {
            known.insert(kept.instance);
            if self.ended.iter().any(|end| end.id == kept.instance) {
                self.driver.destroy(kept.instance).await.ok();
                keep.remove(kept.instance);
                continue;
            }
            self.find(kept).await;
        }
        // Nobody knows whose these are, so nobody would ever stop them.
        for stray in self.driver.list().await {
            if !known.contains(&stray) {
                tracing::warn!(instance = %stray, "a stray instance is removed");
                self.driver.destroy(stray).await.ok();
            }
        }
    }

    async fn find(&mut self, kept: Kept) {
        let id = kept.instance;
        let found = match self.driver.adopt(id).await {
            Ok(found) => found,
            Err(why) => {
                tracing::error!(instance = %id, %why, "not found again");
                Found::Never
            }
        };
        let now_ms = self.now_ms();
        let unborn = matches!(kept.phase, Phase::New | Phase::Setup)
            || kept.phase == Phase::Starting { spawned: false };
        let fresh = unborn && found == Found::Never && kept.asked.is_none();
        let phase = match (kept.phase, fresh) {
            (_, true) => Phase::New,
            (Phase::Draining { .. }, _) => Phase::Draining { spawned: true },
            (Phase::Teardown | Phase::Removed, _) => Phase::Stopping { killed: true },
            _ if unborn => Phase::Starting { spawned: true },
            (phase, _) => phase,
        };
        let life = Life::resumed(
            terms(&kept.job),
            phase,
            kept.asked.clone(),
            kept.failure.clone(),
            kept.running_since_ms,
        );
        let numbers: Vec<_> = kept.ports.iter().map(|(_, number)| *number).collect();
        self.ports.keep(&numbers);
        let mut instance = Instance::new(kept, life, now_ms);
        instance.found = !fresh;
        self.count(&instance);
        if !instance.told.is_live() {
            self.uncount(&instance);
        }
        let job = instance.job_id();
        self.instances.insert(id, instance);
        if fresh {
            self.step(id, Event::Begin);
            return;
        }
        self.logs.follow(id, job).await;
        tracing::info!(instance = %id.short(), ?found, "found again");
        match found {
            Found::Alive => {
                self.watch_end(id);
                self.go_on(id, now_ms);
            }
            Found::Ended(exit) => self.step(id, Event::Exited(exit)),
            Found::Never => self.step(id, Event::Exited(Exit { code: None, at_ms: now_ms })),
        }
    }

    fn go_on(&mut self, id: wire::InstanceId, now_ms: u64) {
        let Some(mut instance) = self.instances.remove(&id) else { return };
        for action in instance.life.resume(now_ms) {
            self.act(&mut instance, action);
        }
        self.instances.insert(id, instance);
        self.keep_instance(id);
    }
}
