//! Out of descriptors: accepting stops, is counted, and goes on when there are some again.
//!
//! One test alone in its process, because it lowers the process's limit.
#![allow(unsafe_code, clippy::unwrap_used, reason = "a test that sets a limit of its process")]

mod common;

use std::net::TcpStream;

use common::{Epoll, Pair, Uring, World};
use engine::Engine;

fn limit(descriptors: u64) {
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: 20_000 };
    // SAFETY: `limit` is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn accepting_goes_on<W: World>() {
    let mut pair = Pair::<W>::new();
    let clients: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(pair.address).unwrap()).collect();
    // The highest descriptor in use is that of the last client: five more, then none.
    let highest = std::os::fd::AsRawFd::as_raw_fd(clients.last().unwrap()).unsigned_abs();
    limit(u64::from(highest) + 6);
    pair.until("a failed accept", |pair| pair.a.engine.stats().accept_failed > 0);
    pair.settle();
    let inside = pair.a.accepted.len();
    assert!(inside < clients.len(), "all {inside} accepted below the limit");
    limit(10_000);
    pair.until("the others", |pair| pair.a.accepted.len() == clients.len());
}

#[test]
fn out_of_descriptors() {
    accepting_goes_on::<Epoll>();
    accepting_goes_on::<Uring>();
}
