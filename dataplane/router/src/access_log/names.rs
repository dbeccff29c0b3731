//! Names for the log, from the table.
//!
//! Keeps the two newest tables that it has seen, so that a route that was just removed still has its name. Runs on the
//! writer's thread. Deliberately absent: a longer memory; the address of the instance is in the record anyway.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use route::{JobSlot, RouteSlot, Table};

use super::Names;
use crate::hub::Hub;

/// See the module head. The hub comes later than the log: it is set when the cores are up.
pub struct TableNames {
    hub: Arc<OnceLock<Arc<Hub>>>,
    seen: RefCell<[Option<Arc<Table>>; 2]>,
}

impl TableNames {
    /// For the table of a hub that may not be there yet.
    pub fn new(hub: Arc<OnceLock<Arc<Hub>>>) -> Self {
        Self { hub, seen: RefCell::default() }
    }

    fn find<T>(&self, look: impl Fn(&Table) -> Option<T>) -> Option<T> {
        let hub = self.hub.get()?;
        let mut seen = self.seen.borrow_mut();
        if seen[0].as_ref().is_none_or(|table| table.version() != hub.version()) {
            let newest = Some(hub.table());
            seen[1] = std::mem::replace(&mut seen[0], newest);
        }
        seen.iter().flatten().find_map(|table| look(table))
    }
}

impl Names for TableNames {
    fn route(&self, slot: RouteSlot) -> Option<String> {
        self.find(|table| table.route(slot).map(|route| route.endpoint.to_string()))
    }

    fn job(&self, slot: JobSlot) -> Option<String> {
        self.find(|table| table.job(slot).map(|job| job.name.to_string()))
    }
}
