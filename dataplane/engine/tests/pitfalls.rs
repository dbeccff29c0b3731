//! One test for each pitfall that was met while the engines were measured against each other.
//!
//! Run over both real worlds where the pitfall concerns both. Deliberately absent: what every world promises anyway
//! (`conformance.rs`), and the descriptor limit, which needs a process of its own (`descriptors.rs`).
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::{Epoll, Pair, Uring, World, key, pattern};
use engine::{
    CLOSES_PER_POLL_MAX, Chunk, ConnId, EVENTS_PER_POLL_MAX, Engine, EngineOptions, LARGE_BYTES,
    Waker,
};

macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod epoll { $(#[test] fn $name() { super::$name::<super::Epoll>(); })+ }
        mod uring { $(#[test] fn $name() { super::$name::<super::Uring>(); })+ }
    };
}

over_both!(
    a_loop_that_never_waits_still_reaps,
    a_caller_that_wakes_itself_starves_nobody,
    starved_receives_are_armed_again,
    a_slow_reader_does_not_take_all_buffers,
    small_messages_arrive_whole,
    the_port_is_free_when_the_engine_is_gone,
    late_completions_never_reach_the_successor,
    the_peer_address_is_the_peers,
    a_fire_hose_starves_nobody,
    closing_a_crowd_is_spread_over_polls,
    closing_with_everything_in_flight_leaks_nothing,
);

/// Deferred task work runs only in a call that asks for events: also when the caller never waits.
fn a_loop_that_never_waits_still_reaps<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    for round in 0..200u32 {
        pair.b.send(b, &round.to_le_bytes());
        let wanted = 4 * (round as usize + 1);
        pair.until("an echo without waiting", |pair| {
            pair.a.pump(Duration::ZERO);
            pair.a.seen(a).bytes.len() == wanted
        });
    }
}

/// Waking oneself in every turn does not push the sockets aside.
fn a_caller_that_wakes_itself_starves_nobody<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    let waker = pair.a.engine.waker();
    for round in 0..200usize {
        pair.b.send(b, b"x");
        pair.until("a byte beside the waking", |pair| {
            waker.wake();
            pair.a.seen(a).bytes.len() == round + 1
        });
    }
    assert!(pair.a.woken >= 200);
}

/// A multishot receive that found no buffer stays silent until it is armed again; with many at once, all must be.
fn starved_receives_are_armed_again<W: World>() {
    let options = EngineOptions { page_bytes_max: 16 * LARGE_BYTES };
    let mut pair = Pair::<W>::with(&options, &EngineOptions::default());
    let conns: Vec<(ConnId, ConnId)> = (0..100).map(|_| pair.connected()).collect();
    pair.a.hoarding = true;
    let bytes = pattern(30_000);
    for (_, b) in &conns {
        pair.b.send(*b, &bytes);
    }
    pair.until("starvation", |pair| pair.a.engine.stats().starved > 20);
    pair.settle();
    // The hoard goes back bit by bit, as slow readers would give it back.
    pair.until("everybody has everything", |pair| {
        if let Some(seen) = pair.a.conns.values_mut().find(|seen| !seen.hoard.is_empty()) {
            seen.hoard.clear();
        }
        pair.a.conns.values().all(|seen| seen.bytes.len() == bytes.len())
    });
    assert!(pair.a.conns.values().all(|seen| seen.bytes == bytes));
    assert_eq!(conns.len(), pair.a.conns.len());
}

/// Chunks that are held do not keep their places in the ring: others go on receiving.
fn a_slow_reader_does_not_take_all_buffers<W: World>() {
    let mut pair = Pair::<W>::new();
    let (slow, b_slow) = pair.connected();
    let (quick, b_quick) = pair.connected();
    pair.a.hoarding = true;
    // More than a ring of buffers holds.
    pair.b.send(b_slow, &pattern(200 * LARGE_BYTES));
    pair.until("the hoard", |pair| pair.a.seen(slow).bytes.len() == 200 * LARGE_BYTES);
    assert!(pair.a.engine.stats().pages_held >= 200);
    pair.b.send(b_quick, b"hello");
    pair.until("hello", |pair| pair.a.seen(quick).bytes == b"hello");
}

/// A message is split by the network only, never by the end of a buffer.
fn small_messages_arrive_whole<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.a.hoarding = true;
    for _ in 0..500 {
        pair.b.send(b, &[7; 100]);
        let before = pair.a.seen(a).bytes.len();
        pair.until("a message", |pair| pair.a.seen(a).bytes.len() == before + 100);
        assert_eq!(pair.a.seen(a).hoard.last().unwrap().len(), 100);
    }
}

/// The end of a ring is asynchronous; the end of an engine is not: a successor can bind at once, without reuse of ports.
fn the_port_is_free_when_the_engine_is_gone<W: World>() {
    for _ in 0..10 {
        let mut pair = Pair::<W>::new();
        let (_, b) = pair.connected();
        pair.b.send(b, &pattern(100_000));
        let waiting = TcpStream::connect(pair.address).unwrap();
        let Pair { a, address, .. } = pair;
        drop(a);
        TcpListener::bind(address).unwrap();
        drop(waiting);
    }
}

/// Slots are reused while the kernel still has completions for their former owners.
fn late_completions_never_reach_the_successor<W: World>() {
    let mut pair = Pair::<W>::new();
    for round in 0..60u8 {
        let before = pair.a.accepted.len();
        let crowd: Vec<ConnId> = (0..8).map(|_| pair.b.connect(pair.address)).collect();
        pair.until("a crowd", |pair| pair.a.accepted.len() == before + 8);
        for conn in &crowd {
            pair.b.send(*conn, &[round; 50_000]);
        }
        // In the midst of it: some are closed with bytes under way in both directions.
        pair.a.pump(Duration::ZERO);
        pair.b.pump(Duration::ZERO);
        for index in before..before + 8 {
            let conn = pair.a.accepted[index].1;
            pair.a.send(conn, &[round; 20_000]);
            pair.a.pump(Duration::ZERO);
            if index % 2 == 0 { pair.a.abort(conn) } else { pair.a.close(conn) }
        }
        for conn in crowd {
            pair.b.abort(conn);
        }
        for node in [&pair.a, &pair.b] {
            let foreign = node.conns.values().find(|seen| {
                seen.bytes.first().is_some_and(|first| seen.bytes.iter().any(|byte| byte != first))
            });
            assert!(foreign.is_none(), "round {round}: bytes of another connection");
        }
        pair.a.conns.clear();
        pair.b.conns.clear();
    }
    pair.settle();
    pair.until("nothing is left", |pair| {
        let held = |stats: engine::EngineStats| stats.pages_held;
        pair.a.engine.lingering() == 0
            && held(pair.a.engine.stats()) == 0
            && held(pair.b.engine.stats()) == 0
    });
}

/// Multishot accept gives no address: it is asked for.
fn the_peer_address_is_the_peers<W: World>() {
    let mut pair = Pair::<W>::new();
    for _ in 0..3 {
        let known = pair.a.accepted.len();
        let client = TcpStream::connect(pair.address).unwrap();
        pair.until("accepted", |pair| pair.a.accepted.len() > known);
        assert_eq!(pair.a.accepted[known].2, client.local_addr().unwrap());
    }
}

/// One connection that always has bytes does not delay another, and one batch of events is bounded.
fn a_fire_hose_starves_nobody<W: World>() {
    let mut pair = Pair::<W>::new();
    let (hose, b_hose) = pair.connected();
    let (calm, b_calm) = pair.connected();
    let block = pattern(LARGE_BYTES);
    let mut page = pair.b.engine.pages().large().unwrap();
    page.extend(&block).unwrap();
    let block: Chunk = page.freeze();
    for round in 1..=100usize {
        while pair.b.engine.backlog(b_hose) < 64 * LARGE_BYTES {
            pair.b.engine.send(b_hose, block.clone());
        }
        pair.b.send(b_calm, b"x");
        let hosed = pair.a.seen(hose).bytes.len();
        let mut turns = 0;
        pair.until("the calm byte", |pair| {
            turns += 1;
            pair.a.seen(calm).bytes.len() == round
        });
        assert!(turns < 50, "{turns} turns and {hosed} bytes for one byte");
        pair.a.conns.get_mut(&key(hose)).unwrap().bytes.clear();
    }
    assert!(pair.a.batch_max <= EVENTS_PER_POLL_MAX);
}

/// Closing many sockets takes long: it is spread, so that nobody waits for it.
fn closing_a_crowd_is_spread_over_polls<W: World>() {
    let crowd = 3 * CLOSES_PER_POLL_MAX;
    let mut pair = Pair::<W>::new();
    for _ in 0..crowd {
        pair.b.connect(pair.address);
    }
    pair.until("all in", |pair| pair.a.accepted.len() == crowd);
    pair.until("all up", |pair| pair.b.conns.values().all(|seen| seen.connected));
    for (_, conn, _) in pair.a.accepted.clone() {
        pair.a.close(conn);
    }
    let ended = |pair: &Pair<W>| pair.b.conns.values().filter(|seen| seen.eof).count();
    for poll in 1..3 {
        pair.a.pump(Duration::ZERO);
        for _ in 0..4 {
            pair.b.pump(Duration::ZERO);
        }
        assert!(ended(&pair) <= poll * CLOSES_PER_POLL_MAX, "{} after {poll}", ended(&pair));
    }
    pair.until("all ended", |pair| ended(pair) == crowd);
}

/// Whatever is in flight when a connection is closed or an engine dropped: all pages come back to the pool.
fn closing_with_everything_in_flight_leaks_nothing<W: World>() {
    for abort in [true, false] {
        let mut pair = Pair::<W>::new();
        let pages = pair.a.engine.pages().clone();
        for turn in 0..12usize {
            let (a, b) = pair.connected();
            pair.b.engine.pause(b);
            pair.a.send(a, &pattern(6_000_000));
            pair.b.send(b, &pattern(300_000));
            for _ in 0..turn % 4 {
                pair.a.pump(Duration::ZERO);
                pair.b.pump(Duration::ZERO);
            }
            if turn % 3 == 0 {
                pair.a.engine.pause(a);
            }
            if abort {
                pair.a.abort(a);
            } else {
                pair.a.close(a);
            }
        }
        if !abort {
            // The peers leave without reading: the sends in flight fail.
            let peers: Vec<(u32, u32)> = pair.b.conns.keys().copied().collect();
            for (slot, generation) in peers {
                pair.b.abort(ConnId { slot, generation });
            }
        }
        pair.until("nothing lingers", |pair| pair.a.engine.lingering() == 0);
        pair.until("all pages back", |pair| pair.a.engine.stats().pages_held == 0);
        drop(pair);
        assert_eq!(pages.held(), 0);
    }
}

/// The probe gives io_uring, or an operator's sentence.
#[test]
fn the_probe_decides_by_trying() {
    match engine::probe::io_uring() {
        Ok(()) => assert!(engine::uring::UringEngine::new(&EngineOptions::default()).is_ok()),
        Err(why) => assert!(why.to_string().starts_with("io_uring is not available: ")),
    }
}
