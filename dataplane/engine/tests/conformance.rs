//! What every world must do alike. One list of promises, run over each engine.
//!
//! Deliberately absent: what only one world can do (see `pitfalls.rs`) and speed.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Node, Pair, World, key, pattern};
use engine::{Chunk, ConnId, Engine, EngineOptions, Errno, LARGE_BYTES, SpliceEnd, Waker};
use std::time::Duration;

/// Bytes go both ways, in order; `Sent` says when all is with the kernel.
fn bytes_arrive_in_order<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    let peer = pair.a.accepted[0].2;
    assert!(peer.ip().is_loopback() && peer.port() != 0);
    let (up, down) = (pattern(100_000), pattern(70_001));
    pair.b.send(b, &up);
    pair.a.send(a, &down);
    assert_eq!(pair.a.engine.backlog(a), down.len());
    pair.until("all bytes", |pair| {
        pair.a.seen(a).bytes.len() == up.len() && pair.b.seen(b).bytes.len() == down.len()
    });
    assert!(pair.a.seen(a).bytes == up && pair.b.seen(b).bytes == down);
    pair.until("sent", |pair| pair.a.seen(a).left == Some(0) && pair.b.seen(b).left == Some(0));
    assert_eq!(pair.a.engine.backlog(a), 0);
}

/// Many small chunks between two polls are one stream; static chunks too; empty ones are nothing.
fn many_small_chunks_are_one_stream<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    let mut wanted = Vec::new();
    for round in 0..1_000u32 {
        pair.b.engine.send(b, Chunk::from_static(b"one two three "));
        pair.b.engine.send(b, Chunk::default());
        pair.b.send(b, round.to_string().as_bytes());
        wanted.extend_from_slice(b"one two three ");
        wanted.extend_from_slice(round.to_string().as_bytes());
    }
    pair.until("all bytes", |pair| pair.a.seen(a).bytes.len() == wanted.len());
    assert!(pair.a.seen(a).bytes == wanted);
}

/// FIN leaves after what is queued; the other direction lives on.
fn half_close_lets_the_answer_through<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    let request = pattern(300_000);
    pair.b.send(b, &request);
    pair.b.engine.shutdown_write(b);
    pair.b.engine.shutdown_write(b);
    pair.b.send(b, b"too late");
    pair.until("eof", |pair| pair.a.seen(a).eof);
    assert!(pair.a.seen(a).bytes == request);
    pair.a.send(a, b"answer");
    pair.until("the answer", |pair| pair.b.seen(b).bytes == b"answer");
    pair.a.close(a);
    pair.until("the end", |pair| pair.b.seen(b).eof);
    assert_eq!(pair.b.seen(b).broken, None);
}

/// `close` lets the queue leave first, and tells nothing more of that connection.
fn close_lets_the_queue_leave<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    let bytes = pattern(5_000_000);
    pair.b.engine.pause(b);
    pair.a.send(a, &bytes);
    pair.a.close(a);
    pair.settle();
    assert_eq!(pair.a.engine.lingering(), 1, "the reader is paused: bytes must be left");
    pair.b.engine.resume(b);
    pair.until("eof", |pair| pair.b.seen(b).eof);
    assert!(pair.b.seen(b).bytes == bytes);
    pair.until("nothing lingers", |pair| pair.a.engine.lingering() == 0);
    assert_eq!(pair.a.engine.backlog(a), 0);
}

/// A connection that lingers can be aborted; its queue is dropped and its pages come back.
fn abort_ends_what_lingers<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.b.engine.pause(b);
    pair.a.send(a, &pattern(8_000_000));
    pair.a.close(a);
    pair.settle();
    assert_eq!(pair.a.engine.lingering(), 1);
    pair.a.engine.abort(a);
    pair.until("nothing lingers", |pair| pair.a.engine.lingering() == 0);
    pair.b.engine.resume(b);
    pair.until("the reset", |pair| pair.b.seen(b).broken.is_some() || pair.b.seen(b).eof);
    assert!(pair.b.seen(b).bytes.len() < 8_000_000);
    pair.settle();
    assert_pages_are_back(&mut pair);
}

fn assert_pages_are_back<W: World>(pair: &mut Pair<W>) {
    pair.until("all pages are back", |pair| {
        pair.a.engine.stats().pages_held == 0 && pair.b.engine.stats().pages_held == 0
    });
}

/// `abort` is a reset for the other side.
fn abort_is_a_reset<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.a.abort(a);
    pair.until("broken", |pair| pair.b.seen(b).broken.is_some());
    assert_eq!(pair.b.seen(b).broken, Some(Errno(libc::ECONNRESET)));
    assert!(!pair.b.seen(b).eof);
    pair.b.send(b, b"into the void");
    pair.b.close(b);
    pair.settle();
}

/// What the peer sent before it left is told before the failure of our own sending.
fn an_answer_is_told_before_the_failure<W: World>() {
    for _ in 0..20 {
        let mut pair = Pair::<W>::new();
        let (a, b) = pair.connected();
        pair.a.send(a, b"413 and away");
        pair.until("sent", |pair| pair.a.seen(a).left == Some(0));
        pair.a.close(a);
        // The body of the request goes on: the closed peer answers it with RST.
        pair.b.send(b, &pattern(600_000));
        pair.until("an end", |pair| pair.b.seen(b).eof || pair.b.seen(b).broken.is_some());
        assert_eq!(pair.b.seen(b).bytes, b"413 and away");
        pair.b.close(b);
        pair.settle();
    }
}

fn a_refused_connect_is_told<W: World>() {
    let mut pair = Pair::<W>::new();
    let dead = pair.world.dead_address();
    let conn = pair.b.connect(dead);
    pair.until("refusal", |pair| pair.b.seen(conn).connect_failed.is_some());
    assert_eq!(pair.b.seen(conn).connect_failed, Some(Errno(libc::ECONNREFUSED)));
    pair.b.close(conn);
    pair.settle();
}

/// Closing before the outcome is known: no event, no leak.
fn a_connect_can_be_given_up<W: World>() {
    let mut pair = Pair::<W>::new();
    for abort in [false, true] {
        let conn = pair.b.connect(pair.address);
        pair.b.send(conn, b"never wanted");
        if abort {
            pair.b.abort(conn);
        } else {
            pair.b.close(conn);
        }
    }
    pair.settle();
    assert_eq!(pair.b.engine.lingering(), 0);
    assert_pages_are_back(&mut pair);
}

/// Bytes may be queued before the connection is up.
fn sending_before_connected_works<W: World>() {
    let mut pair = Pair::<W>::new();
    let conn = pair.b.connect(pair.address);
    pair.b.send(conn, b"early");
    pair.b.engine.shutdown_write(conn);
    pair.until("the bytes", |pair| {
        pair.a.accepted.first().is_some_and(|(_, a, _)| pair.a.seen(*a).eof)
    });
    let a = pair.a.accepted[0].1;
    assert_eq!(pair.a.seen(a).bytes, b"early");
}

/// After `Paused` nothing comes, and what arrived meanwhile comes after `resume`.
fn pause_holds_and_resume_goes_on<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.b.send(b, b"before ");
    pair.until("before", |pair| pair.a.seen(a).bytes == b"before ");
    pair.paused_at_a(a);
    let length = pair.a.seen(a).bytes.len();
    pair.b.send(b, &pattern(1_000_000));
    pair.b.engine.shutdown_write(b);
    pair.settle();
    assert_eq!((pair.a.seen(a).bytes.len(), pair.a.seen(a).eof), (length, false));
    pair.a.engine.pause(a);
    pair.settle();
    assert_eq!(pair.a.seen(a).paused, 1, "one confirmation for one run of pauses");
    pair.a.engine.resume(a);
    pair.until("the rest", |pair| pair.a.seen(a).eof);
    assert!(pair.a.seen(a).bytes[length..] == pattern(1_000_000));
}

/// `resume` before `Paused` came takes the pause back; nothing is lost and reading goes on.
fn a_pause_can_be_taken_back<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    let bytes = pattern(400_000);
    for (round, part) in bytes.chunks(4_000).enumerate() {
        pair.b.send(b, part);
        pair.a.engine.pause(a);
        if round % 3 == 0 {
            pair.a.pump(Duration::ZERO);
        }
        pair.a.engine.resume(a);
        if round % 7 == 0 {
            pair.a.engine.pause(a);
            pair.a.engine.resume(a);
        }
        pair.b.pump(Duration::ZERO);
    }
    pair.until("all bytes", |pair| pair.a.seen(a).bytes.len() == bytes.len());
    assert!(pair.a.seen(a).bytes == bytes);
    let before = pair.a.seen(a).paused;
    pair.settle();
    assert_eq!(pair.a.seen(a).paused, before, "a confirmation without a pause");
}

/// A sender is held back by a paused reader: memory stays bounded by the sockets.
fn a_paused_reader_holds_the_sender<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.paused_at_a(a);
    pair.b.send(b, &pattern(16_000_000));
    pair.settle();
    assert!(pair.b.engine.backlog(b) > 0);
    assert_eq!(pair.a.engine.stats().pages_held, 0);
    pair.a.engine.resume(a);
    pair.until("all", |pair| pair.a.seen(a).bytes.len() == 16_000_000);
    assert_pages_are_back(&mut pair);
}

/// Three connections at `a`: source, target; the two far ends at `b`.
fn relay<W: World>() -> (Pair<W>, ConnId, ConnId, ConnId, ConnId) {
    let mut pair = Pair::<W>::new();
    let (source, writer) = pair.connected();
    let (target, reader) = pair.connected();
    (pair, source, target, writer, reader)
}

/// A splice moves everything to the end of the stream, and says so.
fn a_splice_moves_to_the_end<W: World>() {
    let (mut pair, source, target, writer, reader) = relay::<W>();
    pair.paused_at_a(source);
    pair.a.send(target, b"head ");
    pair.a.engine.splice(source, target, None);
    let bytes = pattern(9_000_000);
    pair.b.send(writer, &bytes);
    pair.b.engine.shutdown_write(writer);
    pair.until("spliced", |pair| pair.a.seen(source).spliced.is_some());
    let wanted = Some((target, bytes.len() as u64, SpliceEnd::Eof));
    assert_eq!(pair.a.seen(source).spliced, wanted);
    pair.a.engine.shutdown_write(target);
    pair.until("the reader has all", |pair| pair.b.seen(reader).eof);
    assert!(pair.b.seen(reader).bytes[..5] == *b"head ");
    assert!(pair.b.seen(reader).bytes[5..] == bytes);
    assert!(pair.a.seen(source).bytes.is_empty());
    assert!(pair.a.engine.stats().spliced_bytes == bytes.len() as u64);
    assert!(pair.a.seen(source).progress > 0);
}

/// A splice from and to connections that are not up yet waits for them.
fn a_splice_waits_for_the_connection<W: World>() {
    let mut pair = Pair::<W>::new();
    let (source, writer) = pair.connected();
    pair.paused_at_a(source);
    let far = pair.b.engine.listen(pair.world.address(), &Default::default()).unwrap().1;
    let target = pair.a.connect(far);
    pair.a.engine.pause(target);
    pair.a.pump(Duration::ZERO);
    pair.a.engine.splice(source, target, None);
    pair.b.send(writer, b"through");
    pair.until("connected", |pair| pair.a.seen(target).connected && !pair.b.accepted.is_empty());
    let reader = pair.b.accepted[0].1;
    pair.until("through", |pair| pair.b.seen(reader).bytes == b"through");
    pair.until("paused", |pair| pair.a.seen(target).paused == 1);
    pair.a.engine.splice(target, source, None);
    pair.b.send(reader, b"and back");
    pair.until("and back", |pair| pair.b.seen(writer).bytes == b"and back");
    assert_eq!(pair.a.seen(source).spliced, None);
}

/// A limited splice takes not one byte more; what follows is read as ever.
fn a_splice_keeps_its_limit<W: World>() {
    let (mut pair, source, target, writer, reader) = relay::<W>();
    pair.paused_at_a(source);
    let bytes = pattern(1_000_000);
    pair.b.send(writer, &bytes);
    pair.b.send(writer, b"next request");
    pair.a.engine.splice(source, target, Some(bytes.len() as u64));
    pair.until("spliced", |pair| pair.a.seen(source).spliced.is_some());
    let wanted = Some((target, bytes.len() as u64, SpliceEnd::Limit));
    assert_eq!(pair.a.seen(source).spliced, wanted);
    pair.a.engine.resume(source);
    pair.until("what follows", |pair| pair.a.seen(source).bytes == b"next request");
    pair.until("the body", |pair| pair.b.seen(reader).bytes.len() == bytes.len());
    assert!(pair.b.seen(reader).bytes == bytes);
    // And once more over the same pair of connections.
    pair.paused_at_a(source);
    pair.a.engine.splice(source, target, Some(3));
    pair.b.send(writer, b"abc");
    pair.until("three more", |pair| pair.b.seen(reader).bytes.ends_with(b"abc"));
}

/// Two splices, one in each direction, as a TCP route has them.
fn splices_run_both_ways<W: World>() {
    let (mut pair, source, target, writer, reader) = relay::<W>();
    pair.paused_at_a(source);
    pair.paused_at_a(target);
    pair.a.engine.splice(source, target, None);
    pair.a.engine.splice(target, source, None);
    let (up, down) = (pattern(2_000_000), pattern(3_000_000));
    pair.b.send(writer, &up);
    pair.b.send(reader, &down);
    pair.until("both streams", |pair| {
        pair.b.seen(reader).bytes.len() == up.len() && pair.b.seen(writer).bytes.len() == down.len()
    });
    assert!(pair.b.seen(reader).bytes == up && pair.b.seen(writer).bytes == down);
    for round in 0..20u8 {
        pair.b.send(writer, &[round]);
        pair.until("ping", |pair| pair.b.seen(reader).bytes.last() == Some(&round));
        pair.b.send(reader, &[round]);
        pair.until("pong", |pair| pair.b.seen(writer).bytes.last() == Some(&round));
    }
    pair.b.engine.shutdown_write(writer);
    pair.until("one way has ended", |pair| pair.a.seen(source).spliced.is_some());
    assert_eq!(pair.a.seen(target).spliced, None);
    pair.a.engine.shutdown_write(target);
    pair.b.send(reader, b"still here");
    pair.until("the other way lives", |pair| pair.b.seen(writer).bytes.ends_with(b"still here"));
    pair.a.close(source);
    pair.a.close(target);
    pair.until("both ends know", |pair| {
        pair.b.seen(writer).eof && (pair.b.seen(reader).eof || pair.b.seen(reader).broken.is_some())
    });
    pair.settle();
}

/// A slow target holds the splice back; closing either side ends it without a word.
fn closing_ends_a_splice_silently<W: World>() {
    for close_source in [true, false] {
        let (mut pair, source, target, writer, reader) = relay::<W>();
        pair.b.engine.pause(reader);
        pair.paused_at_a(source);
        pair.a.engine.splice(source, target, None);
        pair.b.send(writer, &pattern(20_000_000));
        pair.settle();
        let moved = pair.a.seen(source).progress;
        assert!(moved > 0 && moved < 20_000_000, "the target is full, yet {moved} were moved");
        if close_source {
            pair.a.abort(source);
            pair.until("reset", |pair| pair.b.seen(writer).broken.is_some());
        } else {
            pair.a.abort(target);
            pair.b.engine.resume(reader);
            pair.until("reset", |pair| {
                pair.b.seen(reader).broken.is_some() || pair.b.seen(reader).eof
            });
        }
        pair.settle();
        assert_eq!(pair.a.seen(source).spliced, None);
        // Pipes are reused: what was left in the old one must not show up here.
        let (source, writer) = pair.connected();
        let (target, reader) = pair.connected();
        pair.paused_at_a(source);
        pair.a.engine.splice(source, target, Some(5));
        pair.b.send(writer, b"clean");
        pair.until("spliced", |pair| pair.a.seen(source).spliced.is_some());
        pair.until("five bytes", |pair| pair.b.seen(reader).bytes == b"clean");
        assert_eq!(pair.a.seen(target).broken, None);
    }
}

fn a_splice_tells_who_broke<W: World>() {
    for source_breaks in [true, false] {
        let (mut pair, source, target, writer, reader) = relay::<W>();
        pair.paused_at_a(source);
        pair.a.engine.splice(source, target, None);
        pair.b.send(writer, b"some");
        pair.until("some", |pair| pair.b.seen(reader).bytes == b"some");
        if source_breaks {
            pair.b.abort(writer);
        } else {
            pair.b.abort(reader);
            pair.until("the target's own reading notices", |pair| {
                pair.a.seen(target).broken.is_some()
            });
            pair.b.send(writer, &pattern(100_000));
        }
        pair.until("spliced", |pair| pair.a.seen(source).spliced.is_some());
        let end = pair.a.seen(source).spliced.unwrap().2;
        assert_eq!(matches!(end, SpliceEnd::SourceBroken(_)), source_breaks, "{end:?}");
        assert_eq!(matches!(end, SpliceEnd::TargetBroken(_)), !source_breaks, "{end:?}");
        pair.a.close(source);
        pair.a.close(target);
        pair.settle();
    }
}

/// Ids of closed connections name nothing: calls with them do nothing to the successor in the slot.
fn an_old_id_is_harmless<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.a.close(a);
    pair.until("eof", |pair| pair.b.seen(b).eof);
    pair.b.close(b);
    pair.settle();
    let (new_a, new_b) = pair.connected();
    assert_ne!(key(a), key(new_a));
    pair.a.send(a, b"to nobody");
    pair.a.engine.pause(a);
    pair.a.engine.shutdown_write(a);
    pair.a.engine.close(a);
    pair.a.engine.abort(a);
    pair.a.engine.resume(a);
    pair.a.engine.splice(a, new_a, None);
    assert_eq!(pair.a.engine.backlog(a), 0);
    pair.b.send(new_b, b"hello");
    pair.until("hello", |pair| pair.a.seen(new_a).bytes == b"hello");
    assert!(pair.b.seen(new_b).bytes.is_empty() && !pair.b.seen(new_b).eof);
}

/// A waker ends the wait, is told once, and costs nothing when used twice.
fn a_waker_ends_the_wait<W: World>() {
    let mut pair = Pair::<W>::new();
    let waker = pair.a.engine.waker();
    let thread = std::thread::spawn(move || {
        waker.wake();
        waker.wake();
    });
    thread.join().unwrap();
    pair.until("woken", |pair| pair.a.woken > 0);
    pair.settle();
    assert_eq!(pair.a.woken, 1);
    for _ in 0..50 {
        let before = pair.a.woken;
        pair.a.engine.waker().wake();
        pair.until("woken again", |pair| pair.a.woken == before + 1);
    }
}

/// After `unlisten` nobody gets in; who is in stays in.
fn unlisten_keeps_the_accepted<W: World>() {
    let mut pair = Pair::<W>::new();
    let (a, b) = pair.connected();
    pair.a.engine.unlisten(pair.listener);
    pair.a.engine.unlisten(pair.listener);
    pair.settle();
    let late = pair.b.connect(pair.address);
    pair.until("refusal", |pair| pair.b.seen(late).connect_failed.is_some());
    pair.b.send(b, b"still in");
    pair.until("still in", |pair| pair.a.seen(a).bytes == b"still in");
}

/// No page to receive into: nothing is lost, and reading goes on when pages come back.
fn starved_receives_go_on<W: World>() {
    let options = EngineOptions { page_bytes_max: 8 * LARGE_BYTES };
    let mut pair = Pair::<W>::with(&options, &EngineOptions::default());
    let (first, b_first) = pair.connected();
    let (second, b_second) = pair.connected();
    pair.a.hoarding = true;
    let bytes = pattern(2_000_000);
    pair.b.send(b_first, &bytes);
    pair.b.send(b_second, &bytes);
    pair.until("starvation", |pair| pair.a.engine.stats().starved > 0);
    pair.settle();
    let length =
        |node: &Node<W::Engine>| node.seen(first).bytes.len() + node.seen(second).bytes.len();
    assert!(length(&pair.a) < 2 * bytes.len());
    assert!(pair.a.engine.pages().small().is_ok(), "the reserve for answers");
    pair.a.hoarding = false;
    for seen in pair.a.conns.values_mut() {
        seen.hoard.clear();
    }
    pair.until("the rest", |pair| length(&pair.a) == 2 * bytes.len());
    assert!(pair.a.seen(first).bytes == bytes && pair.a.seen(second).bytes == bytes);
}

/// Many connections at once, all served, all gone: no slot, page or descriptor is left.
fn a_crowd_comes_and_goes<W: World>() {
    let mut pair = Pair::<W>::new();
    let crowd: Vec<ConnId> = (0..300).map(|_| pair.b.connect(pair.address)).collect();
    pair.until("all in", |pair| pair.a.accepted.len() == crowd.len());
    for conn in &crowd {
        pair.b.send(*conn, b"hello");
    }
    pair.until("all heard", |pair| pair.a.conns.values().all(|seen| seen.bytes == b"hello"));
    for (_, conn, _) in pair.a.accepted.clone() {
        pair.a.send(conn, b"bye");
        pair.a.close(conn);
    }
    pair.until("all gone", |pair| pair.b.conns.values().all(|seen| seen.eof));
    assert!(pair.b.conns.values().all(|seen| seen.bytes == b"bye"));
    for conn in crowd {
        pair.b.close(conn);
    }
    pair.settle();
    assert_eq!((pair.a.engine.lingering(), pair.b.engine.lingering()), (0, 0));
    assert_pages_are_back(&mut pair);
    assert_eq!(pair.a.engine.stats().accepted, 300);
}

macro_rules! conformance {
    ($($promise:ident),+ $(,)?) => {
        mod epoll { $(#[test] fn $promise() { super::$promise::<super::common::Epoll>(); })+ }
        mod sim_calm {
            $(#[test] fn $promise() { super::$promise::<super::common::Sim<false>>(); })+
        }
        mod sim_gusty {
            $(#[test] fn $promise() { super::$promise::<super::common::Sim<true>>(); })+
        }
        mod uring { $(#[test] fn $promise() { super::$promise::<super::common::Uring>(); })+ }
    };
}

conformance!(
    bytes_arrive_in_order,
    many_small_chunks_are_one_stream,
    half_close_lets_the_answer_through,
    close_lets_the_queue_leave,
    abort_ends_what_lingers,
    abort_is_a_reset,
    an_answer_is_told_before_the_failure,
    a_refused_connect_is_told,
    a_connect_can_be_given_up,
    sending_before_connected_works,
    pause_holds_and_resume_goes_on,
    a_pause_can_be_taken_back,
    a_paused_reader_holds_the_sender,
    a_splice_moves_to_the_end,
    a_splice_waits_for_the_connection,
    a_splice_keeps_its_limit,
    splices_run_both_ways,
    closing_ends_a_splice_silently,
    a_splice_tells_who_broke,
    an_old_id_is_harmless,
    a_waker_ends_the_wait,
    unlisten_keeps_the_accepted,
    starved_receives_go_on,
    a_crowd_comes_and_goes,
);
