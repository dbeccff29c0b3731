//! Following the rest of the process: new tables, settings, the end. One load per turn when nothing changed.
//!
//! Deliberately absent: waiting, and freeing of old tables (the hub keeps the last handle).

use std::sync::atomic::Ordering;

use engine::Engine;
use http1::{HeadLimits, TrustedProxies};
use route::{Delta, Table};

use super::conn::{Kind, Stage};
use super::{Core, DoorKind, open_door};
use crate::hub::Phase as Life;

impl<E: Engine> Core<E> {
    /// Called once per turn, after the poll and before its events.
    pub(super) fn refresh(&mut self) {
        if self.hub.version() != self.table.version() {
            self.adopt_table();
        }
        if self.hub.settings_version() != self.settings_version {
            self.settings_version = self.hub.settings_version();
            self.adopt_settings();
        }
        let life = self.hub.phase();
        if life != self.life {
            self.life = life;
            if life == Life::Draining {
                self.begin_drain();
            }
        }
    }

    pub(super) fn adopt_settings(&mut self) {
        self.settings = self.hub.settings();
        let limits = &self.settings.limits;
        self.head_limits = HeadLimits {
            bytes_max: limits.head_bytes_max as usize,
            target_bytes_max: limits.target_bytes_max as usize,
            fields_max: limits.fields_max.into(),
        };
        let networks: Vec<String> =
            self.settings.trusted_proxies.iter().map(ToString::to_string).collect();
        self.trusted = TrustedProxies::parse(networks.iter().map(String::as_str))
            .expect("a network parses from its own text");
    }

    fn adopt_table(&mut self) {
        // A delta is queued before its table is published, so all up to the version read here have come,
        // unless the queue was full once: then there is a gap, and the whole view is rebuilt.
        let mut reached = self.table.version();
        self.table = Table::clone(&self.hub.table());
        let version = self.table.version();
        let mut gap = false;
        while reached < version {
            let Some(delta) = self.shared.deltas.pop() else { break };
            if delta.version <= reached {
                continue;
            }
            gap |= delta.version != reached + 1;
            reached = delta.version;
            if !gap {
                self.follow(&delta);
            }
        }
        if gap || reached != version {
            self.adopt_whole_table();
        } else {
            self.acknowledge();
        }
    }

    pub(super) fn adopt_whole_table(&mut self) {
        let table = self.table.clone();
        let mut closing = Vec::new();
        self.origins.refresh_all(&table, |conn| closing.push(conn));
        for conn in closing {
            self.close(conn);
        }
        let gone: Vec<_> = self
            .tcp_doors
            .keys()
            .copied()
            .filter(|addr| table.tcp_route(*addr).is_none())
            .collect();
        gone.into_iter().for_each(|addr| self.close_tcp_door(addr));
        for addr in table.routes().filter_map(|route| route.endpoint.tcp()) {
            self.open_tcp_door(addr);
        }
        self.acknowledge();
    }

    /// One commit. Nothing here depends on the size of the table.
    fn follow(&mut self, delta: &Delta) {
        let table = self.table.clone();
        let mut closing = Vec::new();
        for &job in delta.jobs_changed.iter().chain(&delta.jobs_removed) {
            self.origins.refresh(job, &table, |conn| closing.push(conn));
        }
        for conn in closing {
            self.close(conn);
        }
        for route in &delta.routes_removed {
            if let Some(splitter) = self.splitters.get_mut(route.0.index as usize) {
                *splitter = None;
            }
        }
        for &addr in &delta.tcp_removed {
            // A later commit may have brought it back.
            if table.tcp_route(addr).is_none() {
                self.close_tcp_door(addr);
            }
        }
        for &addr in &delta.tcp_added {
            if table.tcp_route(addr).is_some() {
                self.open_tcp_door(addr);
            }
        }
    }

    fn open_tcp_door(&mut self, addr: std::net::SocketAddr) {
        if self.tcp_doors.contains_key(&addr) || self.life != Life::Serving {
            return;
        }
        // The hub bound the address before the commit. Should it fail here all the same, the other
        // cores serve it, and the count tells.
        match open_door(&mut self.engine, &mut self.doors, addr, DoorKind::Tcp(addr)) {
            Ok(listener) => drop(self.tcp_doors.insert(addr, listener)),
            Err(_) => self.shared.stats.accept_failed.add(1),
        }
    }

    fn close_tcp_door(&mut self, addr: std::net::SocketAddr) {
        if let Some(listener) = self.tcp_doors.remove(&addr) {
            self.engine.unlisten(listener);
            if let Some(door) = self.doors.get_mut(listener.0 as usize) {
                *door = None;
            }
        }
    }

    fn acknowledge(&self) {
        self.shared.stats.table_version.set(self.table.version());
        self.shared.serving.store(self.table.version(), Ordering::SeqCst);
        self.hub.note_progress();
    }

    fn begin_drain(&mut self) {
        // The doors stay in memory: requests of those who came before still say by which one.
        for (index, door) in (0_u32..).zip(&self.doors) {
            if door.is_some() {
                self.engine.unlisten(engine::ListenerId(index));
            }
        }
        self.tcp_doors.clear();
        let mut closing = Vec::new();
        self.origins.close_idle(|conn| closing.push(conn));
        for conn in self.conns.ids() {
            let idle = matches!(
                self.conns.get(conn),
                Some(Kind::Client(client))
                    if client.stage == Stage::Head && client.partial.is_none() && client.served > 0
            );
            if idle {
                self.client_goodbye(conn);
            }
        }
        for conn in closing {
            self.close(conn);
        }
    }
}
