//! The promise "no allocation per request": counted on a core's own thread, on both real engines.
//!
//! A core serves keep-alive requests between a client and an origin that run on threads of their own. The allocator
//! counts on the core's thread; once its pools are warm, the count must not move. Deliberately absent: TLS, whose library
//! allocates for each record, and everything beside the request path.
#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use engine::epoll::EpollEngine;
use engine::uring::UringEngine;
use engine::{Engine, EngineOptions};
use route::{Change, ClientAcl, Weight};
use router::bind::reserve;
use router::core::{Core, CoreConfig};
use router::hub::{Hub, Phase};
use router::settings::Settings;

struct Counting;

thread_local! {
    static IS_CORE: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    // A thread that ends has no locals any more; it is no core that serves.
    if IS_CORE.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, SeqCst);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: app.test\r\nUser-Agent: t\r\nAccept: */*\r\n\r\n";
const POST: &[u8] = b"POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nanswered";
/// Pairs of requests in one window.
const WINDOW: usize = 500;
/// So many windows in a row must allocate nothing. Before, pools may grow: rarely does everything happen at once.
const QUIET_WINDOWS: usize = 4;
/// Windows in which it has to become quiet.
const WINDOWS_MAX: usize = 24;

/// Answers each request, head and body, until its peer leaves.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            thread::spawn(move || {
                let mut seen = Vec::new();
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut bytes) {
                    seen.extend_from_slice(&bytes[..count]);
                    let whole = seen.ends_with(b"\r\n\r\n") && !seen.starts_with(b"POST");
                    if whole || seen.ends_with(b"hello") {
                        seen.clear();
                        if socket.write_all(ANSWER).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

fn exchange(client: &mut TcpStream, request: &[u8]) {
    client.write_all(request).expect("the router reads");
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    while !answer.ends_with(b"answered") {
        let count = client.read(&mut bytes).expect("the router answers");
        assert!(count > 0, "the connection ended after {answer:?}");
        answer.extend_from_slice(&bytes[..count]);
    }
}

/// Allocations of the core's thread in each window, until it was quiet for long enough or the windows are used up.
fn allocations<E: Engine>(engine: impl FnOnce() -> E + Send + 'static) -> Vec<u64> {
    let hub = Hub::new(1, Settings::default()).expect("descriptors");
    let changes = [
        Change::PutJob {
            name: "job::/t::app".to_owned(),
            client_acl: ClientAcl::default(),
            instances: vec![origin()],
        },
        Change::PutTarget {
            endpoint: "http://app.test".parse().expect("an endpoint"),
            https_only: false,
            job: "job::/t::app".to_owned(),
            weight: Weight::AUTO,
        },
    ];
    hub.commit(&changes).expect("a table");
    let door = reserve("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let config = CoreConfig {
        hub: Arc::clone(&hub),
        index: 0,
        http: vec![door.addr],
        https: Vec::new(),
        seed: 7,
        wall_zero_us: 0,
        log: None,
    };
    let core = thread::spawn(move || {
        let mut core = Core::new(engine(), config).expect("a core");
        IS_CORE.set(true);
        core.run().expect("an engine that works");
        IS_CORE.set(false);
    });
    let mut client = loop {
        // The core opens its listener at its own time.
        if let Ok(client) = TcpStream::connect(door.addr) {
            break client;
        }
        thread::yield_now();
    };
    client.set_nodelay(true).expect("a socket");
    let mut windows = Vec::new();
    while windows.len() < WINDOWS_MAX && !is_quiet(&windows) {
        let before = ALLOCATIONS.load(SeqCst);
        for _ in 0..WINDOW {
            exchange(&mut client, GET);
            exchange(&mut client, POST);
        }
        windows.push(ALLOCATIONS.load(SeqCst) - before);
    }
    hub.set_phase(Phase::Stopping);
    core.join().expect("the core ended well");
    windows
}

fn is_quiet(windows: &[u64]) -> bool {
    windows.iter().rev().take_while(|&&count| count == 0).count() >= QUIET_WINDOWS
}

/// One test, because the count is one: the engines take turns.
#[test]
fn requests_allocate_nothing_on_the_cores_thread() {
    let options = EngineOptions::default();
    let epoll = allocations(move || EpollEngine::new(&options).expect("epoll"));
    println!("epoll: allocations in windows of {} requests: {epoll:?}", 2 * WINDOW);
    assert!(is_quiet(&epoll), "{epoll:?}");
    if let Err(why) = engine::probe::io_uring() {
        println!("no io_uring here: {why}");
        return;
    }
    let uring = allocations(move || UringEngine::new(&options).expect("io_uring"));
    println!("io_uring: allocations in windows of {} requests: {uring:?}", 2 * WINDOW);
    assert!(is_quiet(&uring), "{uring:?}");
    // The alarm works: a thread that says it is a core is counted.
    IS_CORE.set(true);
    let before = ALLOCATIONS.load(SeqCst);
    drop(std::hint::black_box(Box::new(1_u64)));
    IS_CORE.set(false);
    assert_eq!(ALLOCATIONS.load(SeqCst), before + 1);
}
