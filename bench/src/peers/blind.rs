//! The floor: a relay that reads no byte it moves. For rows where one client connection may be one origin
//! connection, it tells what the kernel alone costs.
//!
//! Deliberately absent: TLS, and a connection for each exchange; there a blind relay does other work than a proxy.

use super::{Protocol, Setup};

pub(super) fn arguments(setup: &Setup) -> Option<Vec<String>> {
    if setup.protocol == Protocol::Https {
        return None;
    }
    let words = ["--listen", &setup.listen.to_string(), "--origin", &setup.origin.to_string()];
    Some(words.map(str::to_owned).to_vec())
}
