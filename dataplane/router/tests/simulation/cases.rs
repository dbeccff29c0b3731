//! Lives that once went wrong, each told by itself: what a seed found stays found when the scripts change.
//!
//! Deliberately absent: chance, except where a case needs weather.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::sim::{Door, Found, SimEngine, Socket, Weather, World};
use engine::{EngineOptions, Now};
use route::{Change, ClientAcl, Endpoint, Weight};
use router::core::{Core, CoreConfig};
use router::hub::{Hub, Phase};
use router::settings::{Settings, Timeouts};

use super::pipe::after;

const TIMEOUTS: Timeouts = Timeouts {
    origin_silence: Duration::from_secs(2),
    body_silence: Duration::from_secs(2),
    tunnel_idle: Duration::from_secs(30),
    ..Timeouts::DEFAULT
};

/// One core with one job, one HTTP route and one TCP route; one actor for each side.
struct Stage {
    world: World,
    hub: Arc<Hub>,
    core: Core<SimEngine>,
    door: Door,
}

fn http() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

fn tcp() -> SocketAddr {
    SocketAddr::from(([127, 0, 77, 1], 17_403))
}

impl Stage {
    fn new(weather: Weather) -> Self {
        let world = World::new(7);
        world.set_weather(weather);
        let door = world.listen(SocketAddr::from(([10, 1, 0, 1], 8080))).expect("a door");
        let settings = Settings { timeouts: TIMEOUTS, ..Settings::default() };
        let hub = Hub::new(1, settings).expect("a hub");
        let put = |endpoint: Endpoint| Change::PutTarget {
            endpoint,
            https_only: false,
            job: "job".to_owned(),
            weight: Weight::AUTO,
        };
        let job = Change::PutJob {
            name: "job".to_owned(),
            client_acl: ClientAcl::default(),
            instances: vec![door.addr()],
        };
        let http_route = put("http://a.test".parse().expect("an endpoint"));
        hub.commit(&[job, http_route, put(Endpoint::Tcp(tcp()))]).expect("a table");
        let config = CoreConfig {
            hub: Arc::clone(&hub),
            index: 0,
            http: vec![http()],
            https: Vec::new(),
            seed: 7,
            wall_zero_us: 0,
            log: None,
        };
        let engine = world.engine(&EngineOptions::default());
        let core = Core::new(engine, config).expect("a core");
        Self { world, hub, core, door }
    }

    fn dial(&self, to: SocketAddr) -> Socket {
        self.world.dial(SocketAddr::from(([192, 0, 2, 1], 1234)), to)
    }

    /// Let the core live for so long.
    fn pass(&mut self, time: Duration) {
        let end = after(self.world.now(), time);
        self.pass_until(end, &mut || false);
    }

    /// Let the core live until `done`, which also plays the actors; at most until `end`.
    fn pass_until(&mut self, end: Now, done: &mut dyn FnMut() -> bool) {
        loop {
            assert!(turn(&mut self.core), "the core ended");
            if done() || self.world.now() >= end {
                return;
            }
            let soon = after(self.world.now(), Duration::from_millis(1));
            self.world.step_until(soon.min(end));
        }
    }

    fn accept(&mut self) -> Socket {
        let (end, mut accepted) = (after(self.world.now(), Duration::from_secs(1)), None);
        let Self { world, core, door, .. } = self;
        while accepted.is_none() {
            assert!(turn(core) && world.now() < end, "nobody comes");
            world.step_until(after(world.now(), Duration::from_millis(1)));
            accepted = door.accept();
        }
        accepted.expect("just awaited").0
    }

    fn in_flight(&self) -> u64 {
        self.hub.cores()[0].stats.in_flight.read()
    }
}

fn turn(core: &mut Core<SimEngine>) -> bool {
    core.turn().expect("the simulated engine never fails")
}

fn write_all(socket: &Socket, text: &str) {
    assert_eq!(socket.write(text.as_bytes()), Ok(text.len()));
}

/// All that has come.
fn read(socket: &Socket) -> String {
    let mut text = String::new();
    while let Found::Bytes(bytes) = socket.read(16 * 1024) {
        text.push_str(std::str::from_utf8(&bytes).expect("text"));
    }
    text
}

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn slow(delay: Duration) -> Weather {
    Weather { delay_min: delay, delay_max: delay, ..Weather::calm() }
}

/// Goal: a TCP session whose route goes while it looks for an instance is served, not forgotten.
#[test]
fn a_tcp_route_may_go_while_a_session_connects() {
    let mut stage = Stage::new(slow(20 * MILLI));
    let client = stage.dial(tcp());
    stage.pass(50 * MILLI);
    write_all(&client, "hello");
    stage.hub.commit(&[Change::RemoveRoute { endpoint: Endpoint::Tcp(tcp()) }]).unwrap();
    let instance = stage.accept();
    stage.pass(100 * MILLI);
    assert_eq!(read(&instance), "hello");
}

/// Goal: what a TCP client sends before its instance is connected arrives, however much it is.
#[test]
fn much_may_be_sent_before_an_instance_is_connected() {
    const LEN: usize = 250_000;
    let mut stage = Stage::new(Weather::calm());
    let client = stage.dial(tcp());
    // The client is up after 100 µs; what tells the router of its own connection takes long.
    stage.pass(Duration::from_micros(99));
    stage.world.set_weather(slow(50 * MILLI));
    stage.pass(Duration::from_micros(2));
    stage.world.set_weather(Weather::calm());
    assert_eq!(client.write(&vec![b'x'; LEN]), Ok(LEN));
    let instance = stage.accept();
    let (end, mut got) = (after(stage.world.now(), 5 * SECOND), 0);
    stage.pass_until(end, &mut || {
        got += read(&instance).len();
        got == LEN
    });
    assert_eq!(got, LEN);
}

/// Goal: once a byte of a response has come, the request is not sent again.
#[test]
fn a_response_that_has_begun_is_not_asked_for_again() {
    for begun in ["HTTP/1.1 20", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let mut stage = Stage::new(Weather::calm());
        let client = stage.dial(http());
        stage.pass(MILLI);
        write_all(&client, "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let instance = stage.accept();
        stage.pass(MILLI);
        write_all(&instance, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        stage.pass(MILLI);
        assert!(read(&client).contains("200 OK"));
        write_all(&client, "GET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        stage.pass(MILLI);
        assert!(read(&instance).contains("GET /2 "));
        write_all(&instance, begun);
        instance.fin();
        stage.pass(SECOND);
        assert!(stage.door.accept().is_none(), "asked again after {begun:?}");
        assert!(read(&client).contains("502 Bad Gateway"));
    }
}

/// Goal: a client that asks much and reads nothing is cut, wherever its answers got stuck.
#[test]
fn a_client_that_never_reads_is_cut() {
    for answer_len in [500, 60_000] {
        let mut stage = Stage::new(Weather { socket_bytes: 16 * 1024, ..Weather::calm() });
        let client = stage.dial(http());
        stage.pass(MILLI);
        write_all(&client, &"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(400));
        let instance = stage.accept();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {answer_len}\r\n\r\n");
        let answer = head + &"x".repeat(answer_len);
        let (end, mut out) = (after(stage.world.now(), 20 * SECOND), Vec::new());
        stage.pass_until(end, &mut || {
            let asked = read(&instance).matches("GET / ").count();
            out.extend_from_slice(answer.repeat(asked).as_bytes());
            if let Ok(count) = instance.write(&out) {
                out.drain(..count);
            }
            false
        });
        let open = stage.hub.cores()[0].stats.open_http.read();
        assert_eq!((open, stage.in_flight()), (0, 0), "answers of {answer_len} bytes");
        drop(client);
    }
}

/// Goal: an upload to an instance that does not read ends within its time-outs, with an answer.
#[test]
fn an_upload_to_a_deaf_instance_ends() {
    let mut stage = Stage::new(Weather { socket_bytes: 16 * 1024, ..Weather::calm() });
    let client = stage.dial(http());
    stage.pass(MILLI);
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    write_all(&client, head);
    let instance = stage.accept();
    let mut out = format!("2000\r\n{}\r\n", "x".repeat(0x2000)).repeat(100).into_bytes();
    let (end, mut heard) = (after(stage.world.now(), 6 * SECOND), String::new());
    stage.pass_until(end, &mut || {
        if let Ok(count) = client.write(&out) {
            out.drain(..count);
        }
        heard += &read(&client);
        false
    });
    assert!(heard.starts_with("HTTP/1.1 504 "), "{heard:?}");
    assert_eq!(stage.in_flight(), 0);
    drop(instance);
}

/// Goal: all that a half-closed client asked is answered, also what comes after an answer of the router's own.
#[test]
fn a_half_closed_client_gets_every_answer() {
    let mut stage = Stage::new(Weather { pause_lag_max: 500 * MILLI, ..Weather::calm() });
    let client = stage.dial(http());
    stage.pass(MILLI);
    write_all(&client, "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let instance = stage.accept();
    write_all(
        &client,
        "GET /2 HTTP/1.1\r\nHost: b.test\r\n\r\nGET /3 HTTP/1.1\r\nHost: a.test\r\n\r\n",
    );
    client.fin();
    stage.pass(MILLI);
    let mut heard = String::new();
    for path in ["/1", "/3"] {
        assert!(read(&instance).contains(path), "{heard}");
        write_all(&instance, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        stage.pass(MILLI);
        heard += &read(&client);
    }
    assert_eq!(heard.matches("HTTP/1.1 200").count(), 2, "{heard}");
    assert_eq!(heard.matches("HTTP/1.1 404").count(), 1, "{heard}");
}

/// Goal: a client that connected before a drain may still ask, and its request is forwarded as any other.
#[test]
fn the_first_request_during_a_drain_is_served() {
    let mut stage = Stage::new(Weather::calm());
    let client = stage.dial(http());
    stage.pass(MILLI);
    stage.hub.set_phase(Phase::Draining);
    stage.pass(MILLI);
    write_all(&client, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let instance = stage.accept();
    stage.pass(MILLI);
    let asked = read(&instance);
    assert!(asked.contains("\r\nX-Forwarded-Port: 80\r\n"), "{asked}");
    write_all(&instance, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let end = after(stage.world.now(), SECOND);
    while turn(&mut stage.core) {
        assert!(stage.world.now() < end, "the drain never ends");
        stage.world.step_until(end);
    }
    while stage.world.step_until(end) {}
    assert!(read(&client).contains("Connection: close"));
}

/// Goal: a pipelined request whose client has closed before its body was whole ends at once.
#[test]
fn half_a_pipelined_body_ends_with_its_client() {
    let lag = Weather { pause_lag_max: 500 * MILLI, ..Weather::calm() };
    let mut stage = Stage::new(lag);
    let client = stage.dial(http());
    stage.pass(MILLI);
    write_all(
        &client,
        "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n\
         POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nhalf",
    );
    client.fin();
    let instance = stage.accept();
    write_all(&instance, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    stage.pass(SECOND);
    assert_eq!(stage.in_flight(), 0);
}

/// Goal: what an instance sends behind a spliced response, or behind one that fills its page, answers nobody.
#[test]
fn bytes_behind_a_long_response_are_nobodys() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let head = |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
    let page = engine::LARGE_BYTES - head(engine::LARGE_BYTES).len();
    for len in [page, 70_000, 300_000] {
        // A reader that is slower than its instance: all that was sent is there when the body ends.
        let mut stage = Stage::new(Weather { socket_bytes: 1 << 20, ..Weather::calm() });
        let client = stage.dial(http());
        stage.pass(MILLI);
        // The second request waits already when the first answer ends: nothing comes between the two.
        write_all(
            &client,
            "GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        );
        let instance = stage.accept();
        stage.pass(MILLI);
        assert!(read(&instance).starts_with("GET /1 "));
        write_all(&instance, &format!("{}{}{EVIL}", head(len), "x".repeat(len)));
        let (end, mut heard) = (after(stage.world.now(), SECOND), String::new());
        stage.pass_until(end, &mut || {
            heard += &read(&client);
            false
        });
        assert_eq!(heard.len(), head(len).len() + len, "the first answer, and nothing else");
        let other = stage.accept();
        stage.pass(MILLI);
        assert!(read(&other).starts_with("GET /2 "), "{len}: asked on a connection of its own");
        write_all(&other, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
        stage.pass(MILLI);
        assert!(read(&client).ends_with("good"));
    }
}

/// Goal: the last answer of a connection reaches a client that takes it slowly, however long that is.
#[test]
fn a_slow_reader_gets_its_last_answer_whole() {
    // Too short for a splice: all of it waits in the router.
    const LEN: usize = 60_000;
    let mut stage = Stage::new(Weather { socket_bytes: 8 * 1024, ..Weather::calm() });
    let client = stage.dial(http());
    stage.pass(MILLI);
    // What follows is never looked at, and makes the end a lingering one.
    write_all(
        &client,
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    );
    let instance = stage.accept();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n{}", "x".repeat(LEN));
    let mut out = answer.into_bytes();
    let (mut heard, mut ended) = (0, false);
    // 4 KiB a second: longer than any time-out of the stage, but never silent.
    for _ in 0..30 {
        let end = after(stage.world.now(), SECOND);
        stage.pass_until(end, &mut || {
            if let Ok(count) = instance.write(&out) {
                out.drain(..count);
            }
            false
        });
        match client.read(4 * 1024) {
            Found::Bytes(bytes) => heard += bytes.len(),
            found => ended |= matches!(found, Found::Eof),
        }
    }
    assert!(heard > LEN && ended, "{heard} bytes, ended {ended}");
}
