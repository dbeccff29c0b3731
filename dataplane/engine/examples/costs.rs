//! What the engine's own promises cost, measured on one machine: compare the two engines of one run, not two runs.
//!
//! `costs epoll|io_uring keep|churn|idle|leave`: a server thread with one engine on CPU 0, clients on CPU 1.
//! `keep`: small exchanges on 64 connections. `churn`: a connection for each exchange, closed by the server.
//! `idle`: user memory of 9,000 silent connections. `leave`: 9,000 clients close at once while one goes on asking.
//! Deliberately absent: HTTP.
#![allow(unsafe_code, clippy::unwrap_used, reason = "an example that reads clocks of its threads")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use engine::epoll::EpollEngine;
use engine::uring::UringEngine;
use engine::{Chunk, Engine, EngineOptions, Event, ListenOptions};

const REQUEST: &[u8] = &[b'q'; 64];
const ANSWER: &[u8] = &[b'a'; 128];
const CONNECTIONS: usize = 64;
const CROWD: usize = 9_000;
const WINDOW: Duration = Duration::from_millis(1_500);

fn pin(cpu: usize) {
    // SAFETY: zero is an empty set; the set is readable for its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Give up a real-time priority that the process was started with: the one who leaves must not hold up the one who asks.
fn ordinary() {
    // SAFETY: zero is a valid parameter for SCHED_OTHER; it is readable.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters);
    }
}

/// CPU of the calling thread: all of it in nanoseconds (exact), and the share of user time (by ticks).
fn cpu() -> (u64, f64) {
    // SAFETY: both structures are writable and zero is a value of them.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        let micros = |time: libc::timeval| (time.tv_sec * 1_000_000 + time.tv_usec) as f64;
        let (user, system) = (micros(usage.ru_utime), micros(usage.ru_stime));
        let nanos = u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap();
        (nanos, user / (user + system).max(1.0))
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    exchanges: AtomicU64,
    poll_max_us: AtomicU64,
}

/// Answers every chunk; gives nanoseconds of CPU and the user share.
fn serve<E: Engine>(
    mut engine: E,
    churn: bool,
    shared: &Shared,
    at: &mpsc::Sender<SocketAddr>,
) -> (u64, f64) {
    pin(0);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    at.send(engine.listen(any, &ListenOptions::default()).unwrap().1).unwrap();
    let mut exchanges = 0;
    while !shared.stop.load(Relaxed) {
        engine.poll(Some(Duration::from_millis(50))).unwrap();
        let begun = Instant::now();
        while let Some(event) = engine.next() {
            match event {
                Event::Data { conn, .. } => {
                    engine.send(conn, Chunk::from_static(ANSWER));
                    exchanges += 1;
                    if churn {
                        engine.close(conn);
                    }
                }
                Event::Eof { conn } | Event::Broken { conn, .. } => engine.close(conn),
                _ => {}
            }
        }
        shared.exchanges.store(exchanges, Relaxed);
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap();
        shared.poll_max_us.fetch_max(took, Relaxed);
    }
    cpu()
}

/// Clients on an engine of their own: ask, wait for the answer, ask again or leave and come again.
fn ask(address: SocketAddr, churn: bool) {
    let mut engine = EpollEngine::new(&EngineOptions::default()).unwrap();
    for _ in 0..CONNECTIONS {
        engine.connect(address).unwrap();
    }
    let end = Instant::now() + WINDOW;
    while Instant::now() < end {
        engine.poll(Some(Duration::from_millis(10))).unwrap();
        while let Some(event) = engine.next() {
            match event {
                Event::Connected { conn } => engine.send(conn, Chunk::from_static(REQUEST)),
                Event::Data { conn, .. } if !churn => {
                    engine.send(conn, Chunk::from_static(REQUEST));
                }
                Event::Eof { conn } | Event::Broken { conn, .. } => {
                    engine.close(conn);
                    engine.connect(address).unwrap();
                }
                Event::ConnectFailed { conn, error } => panic!("{conn:?}: {error:?}"),
                _ => {}
            }
        }
    }
}

fn exchange(stream: &mut TcpStream) {
    let mut answer = [0; ANSWER.len()];
    stream.write_all(REQUEST).unwrap();
    stream.read_exact(&mut answer).unwrap();
}

fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let join = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        exchange(&mut stream);
        stream
    };
    (0..CROWD).map(join).collect()
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn idle(address: SocketAddr) {
    // The first exchange pays for what there is once.
    exchange(&mut TcpStream::connect(address).unwrap());
    let mut streams: Vec<TcpStream> = Vec::with_capacity(CROWD);
    let before = resident();
    streams.extend(crowd(address));
    let grown = resident().saturating_sub(before);
    println!("  {} B of user memory for each of {CROWD} idle connections", grown / CROWD as u64);
}

fn leave(address: SocketAddr, shared: &Shared) {
    let streams = crowd(address);
    let mut asking = TcpStream::connect(address).unwrap();
    asking.set_nodelay(true).unwrap();
    let mut slowest = |millis| {
        let end = Instant::now() + Duration::from_millis(millis);
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let begun = Instant::now();
            exchange(&mut asking);
            slowest = slowest.max(begun.elapsed());
            std::thread::sleep(Duration::from_micros(200));
        }
        slowest
    };
    let before = slowest(300);
    shared.poll_max_us.store(0, Relaxed);
    let leaving = std::thread::spawn(move || {
        pin(1);
        ordinary();
        let begun = Instant::now();
        drop(streams);
        begun.elapsed()
    });
    let during = slowest(1_000);
    let took = leaving.join().unwrap();
    let longest = shared.poll_max_us.load(Relaxed);
    println!(
        "  slowest exchange {before:?} before, {during:?} while {CROWD} left in {took:?}; longest run of events {longest} µs"
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, engine, what] = arguments.as_slice() else {
        eprintln!("usage: costs epoll|io_uring keep|churn|idle|leave");
        std::process::exit(2);
    };
    let (churn, epoll) = (what == "churn", engine == "epoll");
    let shared = Arc::new(Shared::default());
    let (at, address) = mpsc::channel();
    let server = std::thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            let options = EngineOptions::default();
            if epoll {
                serve(EpollEngine::new(&options).unwrap(), churn, &shared, &at)
            } else {
                serve(UringEngine::new(&options).unwrap(), churn, &shared, &at)
            }
        }
    });
    let address = address.recv().unwrap();
    pin(1);
    println!("{engine} {what}");
    match what.as_str() {
        "idle" => idle(address),
        "leave" => leave(address, &shared),
        _ => ask(address, churn),
    }
    shared.stop.store(true, Relaxed);
    let (nanos, user) = server.join().unwrap();
    let exchanges = shared.exchanges.load(Relaxed).max(1);
    let micros = nanos as f64 / 1_000.0 / exchanges as f64;
    println!(
        "  {exchanges} exchanges, {micros:.2} µs of CPU each, {:.2} µs of it user",
        micros * user
    );
}
