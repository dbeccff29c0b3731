//! Which routers live, by their beats: for whom a stop waits.
//!
//! Pure. Deliberately absent: asking them (`drain`).

use std::collections::BTreeMap;
use wire::RouterId;
use wire::routing::{ROUTER_SILENT_MS, ROUTING_BEAT_MS, RouterBeat};

/// Routers that are kept in mind; more than a cluster has.
pub const ROUTERS_MAX: usize = 4_096;
/// After listening for so long every living router was heard.
const SETTLED_MS: u64 = ROUTING_BEAT_MS + ROUTING_BEAT_MS / 2;

/// Routers and when each was heard last.
#[derive(Clone, Debug)]
pub struct Routers {
    heard: BTreeMap<RouterId, u64>,
    listening_since_ms: u64,
}

impl Routers {
    /// Listening since now.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { heard: BTreeMap::new(), listening_since_ms: now_ms }
    }

    /// A router spoke.
    pub fn hear(&mut self, beat: &RouterBeat, now_ms: u64) {
        if beat.leaving {
            self.heard.remove(&beat.router);
        } else if self.heard.len() < ROUTERS_MAX || self.heard.contains_key(&beat.router) {
            self.heard.insert(beat.router, now_ms);
        }
        self.heard.retain(|_, at| now_ms.saturating_sub(*at) <= ROUTER_SILENT_MS);
    }

    /// Beats may have been missed: nobody is known to be dead until everybody had time to speak again.
    pub fn lost(&mut self, now_ms: u64) {
        self.listening_since_ms = now_ms;
        self.heard.values_mut().for_each(|at| *at = now_ms);
    }

    /// Those that spoke lately.
    #[must_use]
    pub fn alive(&self, now_ms: u64) -> Vec<RouterId> {
        let lately = |at: u64| now_ms.saturating_sub(at) <= ROUTER_SILENT_MS;
        self.heard.iter().filter(|(_, at)| lately(**at)).map(|(id, _)| *id).collect()
    }

    /// How long until whoever lives must have been heard; 0 = now.
    #[must_use]
    pub fn settles_in_ms(&self, now_ms: u64) -> u64 {
        (self.listening_since_ms + SETTLED_MS).saturating_sub(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn beat(id: u128, leaving: bool) -> RouterBeat {
        RouterBeat {
            router: RouterId(Uuid::from_u128(id)),
            hostname: String::new(),
            revision: 0,
            cores: 1,
            table_version: 0,
            routes: 0,
            endpoints: 0,
            listeners: Vec::new(),
            leaving,
            ims: Vec::new(),
        }
    }

    /// Goal: the silent and those who said goodbye are not waited for; a gap in hearing kills nobody.
    #[test]
    fn who_is_waited_for() {
        let mut routers = Routers::new(1_000);
        assert_eq!((routers.settles_in_ms(1_000), routers.settles_in_ms(2_600)), (1_500, 0));
        routers.hear(&beat(1, false), 1_000);
        routers.hear(&beat(2, false), 4_000);
        assert_eq!(routers.alive(4_500).len(), 2);
        assert_eq!(routers.alive(4_501), [RouterId(Uuid::from_u128(2))]);
        routers.hear(&beat(2, true), 4_600);
        assert!(routers.alive(4_600).is_empty());
        routers.hear(&beat(3, false), 5_000);
        routers.lost(8_400);
        assert_eq!((routers.alive(9_000).len(), routers.settles_in_ms(9_000)), (1, 900));
    }
}
