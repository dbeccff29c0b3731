//! TCP routes: byte-exact both ways, half-close kept, weights and ACL for each connection, opened and closed at run time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tests::admin::{put_job, put_target, remove_route};
use tests::body::{PatternCheck, pattern};
use tests::client::{Stream, dial};
use tests::server::ignore;
use tests::{Client, Config, End, HeldPort, Router, Server, until};

/// Goal: what is sent comes back, in both directions at once, to the last byte. Method: 32 MiB through an echo.
#[test]
fn bulk_both_ways_is_exact() {
    const BYTES: usize = 32 << 20;
    let (server, port) = (echo_server(), HeldPort::new());
    let router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let mut client = Client::connect(port.addr());
    let mut writer = client.wire.stream.tcp().try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for at in (0..BYTES).step_by(1 << 20) {
            writer.write_all(&pattern(at as u64, 1 << 20)).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut check = PatternCheck::default();
    client.wire.exactly(BYTES as u64, |piece| check.take(piece)).unwrap();
    assert_eq!(client.expect_end(), End::Clean);
    sender.join().unwrap();
    let spliced = router.admin.status()["totals"]["spliced_bytes"].as_u64().unwrap_or(0);
    assert!(spliced > BYTES as u64, "only {spliced} bytes were spliced");
}

/// Goal: small messages go through at once, each alone; any bytes at all.
#[test]
fn ping_pong_goes_through_at_once() {
    let (server, port) = (echo_server(), HeldPort::new());
    let _router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let mut client = Client::connect(port.addr());
    for round in 0..300 {
        let message = pattern(round * 1_000, 1 + usize::try_from(round).unwrap() % 90);
        client.send(&message);
        assert_eq!(client.read_exactly(message.len()), message);
    }
}

/// Goal: a server that speaks first is heard before the client says anything.
#[test]
fn the_server_may_speak_first() {
    let server = Server::start(|mut stream, number| {
        ignore(stream.write_all(format!("220 hello {number}\r\n").as_bytes()));
        ignore(stream.read_to_end(&mut Vec::new()));
    });
    let port = HeldPort::new();
    let _router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let mut client = Client::connect(port.addr());
    assert_eq!(client.read_exactly(13), b"220 hello 0\r\n");
}

/// Goal: half-close is kept in both directions, and the other direction stays usable.
#[test]
fn half_close_is_kept() {
    let server = Server::start(|mut stream, _| {
        let mut all = Vec::new();
        ignore(stream.read_to_end(&mut all));
        ignore(stream.write_all(format!("got {}", all.len()).as_bytes()));
    });
    let port = HeldPort::new();
    let _router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let mut client = Client::connect(port.addr());
    client.send("12345").end_writing();
    assert_eq!(client.read_to_end(), (b"got 5".to_vec(), End::Clean));
    let mut silent = Client::connect(port.addr());
    silent.end_writing();
    assert_eq!(silent.read_to_end(), (b"got 0".to_vec(), End::Clean));
}

/// Goal: the server's half-close reaches the client, who can still send.
#[test]
fn the_server_half_closes() {
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let server = Server::start(move |mut stream, _| {
        ignore(stream.write_all(b"bye"));
        ignore(stream.shutdown(Shutdown::Write));
        let mut all = Vec::new();
        ignore(stream.read_to_end(&mut all));
        counter.store(all.len() as u64, SeqCst);
    });
    let port = HeldPort::new();
    let _router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let mut client = Client::connect(port.addr());
    assert_eq!(client.read_to_end(), (b"bye".to_vec(), End::Clean));
    client.send(vec![b'x'; 100_000]).end_writing();
    until("the server got it all", || received.load(SeqCst) == 100_000);
}

/// Goal: a reset on one side ends the other side too.
#[test]
fn a_reset_crosses() {
    let (server, port) = (echo_server(), HeldPort::new());
    let _router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let mut client = Client::connect(port.addr());
    client.send("x");
    assert_eq!(client.read_exactly(1), b"x");
    client.reset();
    until("the server's side ends", || server.running() == 0);
    let mut client = Client::connect(port.addr());
    client.send("x");
    assert_eq!(client.read_exactly(1), b"x");
    server.reset_connections();
    let (bytes, end) = client.read_to_end();
    assert!(bytes.is_empty());
    assert_eq!(end, End::Reset, "an abort is not told as an orderly end");
}

/// Goal: a peer that does not read stops the other, in both directions; memory stays bounded.
#[test]
fn a_slow_reader_stops_the_sender() {
    const BYTES: u64 = 96 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let server = Server::start(move |mut stream, _| {
        for at in (0..BYTES).step_by(1 << 16) {
            if stream.write_all(&pattern(at, 1 << 16)).is_err() {
                return;
            }
            counter.store(at + (1 << 16), SeqCst);
        }
    });
    let port = HeldPort::new();
    let router = Router::start(&tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]));
    let before = router.process.anonymous_bytes();
    let mut client = Client::connect_narrow(port.addr(), 16 << 10);
    let mut last = (0, std::time::Instant::now());
    until("the server is stopped", || {
        let now = sent.load(SeqCst);
        assert!(now < BYTES, "somebody buffers without bound");
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        now > 0 && last.1.elapsed().as_millis() > 400
    });
    // The kernel may back what a first connection touches with pages of 2 MiB, whatever little of them is used.
    let grown = router.process.anonymous_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more are held");
    let mut check = PatternCheck::default();
    client.wire.exactly(BYTES, |piece| check.take(piece)).unwrap();
    assert_eq!(client.expect_end(), End::Clean);
}

/// Goal: weights are exact for each connection too.
#[test]
fn weights_count_connections() {
    let servers = ["a", "b"].map(greeting_server);
    let port = HeldPort::new();
    let jobs = [("a", &servers[0]), ("b", &servers[1])];
    let _router = Router::start(&tcp_config(&port, "", &[("a", 30.0), ("b", 0.0)], &jobs));
    let mut counts = [0.0_f64; 2];
    for number in 1..=100 {
        let mut client = Client::connect(port.addr());
        counts[usize::from(client.read_exactly(1) == b"b")] += 1.0;
        assert!((counts[0] - 0.3 * f64::from(number)).abs() <= 1.0 + 1e-6, "{counts:?}");
    }
}

/// Goal: an ACL that denies the client closes the connection without a byte, and nothing reaches the job.
#[test]
fn an_acl_closes_the_connection() {
    let (server, port) = (greeting_server("a"), HeldPort::new());
    let config = tcp_config(&port, "deny 127.0.0.0/8", &[("a", 0.0)], &[("a", &server)]);
    let router = Router::start(&config);
    assert!(Client::turned_away(port.addr()));
    assert_eq!(server.accepted(), 0);
    let job = tests::admin::put_guarded_job("a", "127.0.0.1/32, deny 0.0.0.0/0", &[server.addr()]);
    router.admin.apply(&[job]);
    assert_eq!(Client::connect(port.addr()).read_exactly(1), b"a");
}

/// Goal: an instance that refuses is no loss while there is another; when all refuse, the client is told by the end.
#[test]
fn a_refusing_instance_is_passed_over() {
    let (alive, dead, port) = (greeting_server("a"), greeting_server("b"), HeldPort::new());
    dead.stop_listening();
    let config = Config::new()
        .job("app", &[dead.addr(), alive.addr()])
        .job("gone", &[dead.addr()])
        .route(&format!("tcp://{}", port.addr()), &[("app", 0.0)]);
    let router = Router::start(&config);
    for _ in 0..20 {
        assert_eq!(Client::connect(port.addr()).read_exactly(1), b"a");
    }
    let endpoint = format!("tcp://{}", port.addr());
    router.admin.apply(&[put_target(&endpoint, "gone", 0.0), put_target(&endpoint, "app", -1.0)]);
    assert!(Client::turned_away(port.addr()));
}

/// Goal: listeners open and close as routes come and go; connections of a removed route finish.
#[test]
fn listeners_come_and_go_at_run_time() {
    let (server, port) = (echo_server(), HeldPort::new());
    let router = Router::start(&Config::new().set("cores", "2"));
    let endpoint = format!("tcp://{}", port.addr());
    assert!(TcpStream::connect(port.addr()).is_err(), "nobody listens yet");
    for _ in 0..3 {
        router.admin.apply(&[put_job("app", &[server.addr()]), put_target(&endpoint, "app", 0.0)]);
        let mut client = Client::connect(port.addr());
        client.send("one");
        assert_eq!(client.read_exactly(3), b"one");
        router.admin.apply(&[remove_route(&endpoint)]);
        assert!(TcpStream::connect(port.addr()).is_err(), "a removed route still listens");
        client.send("two");
        assert_eq!(client.read_exactly(3), b"two", "a running connection was cut");
        client.end_writing();
        assert_eq!(client.expect_end(), End::Clean);
    }
}

/// Goal: a port that cannot be had is told with its reason, and the other changes of the set are not lost silently.
#[test]
fn a_port_in_use_is_told() {
    let (server, taken) = (echo_server(), greeting_server("x"));
    let router = Router::start(&Config::new());
    let endpoint = format!("tcp://{}", taken.addr());
    let changes = [put_job("app", &[server.addr()]), put_target(&endpoint, "app", 0.0)];
    let answer = router.admin.try_apply(&changes);
    let told = answer.response.text().contains(&taken.addr().to_string())
        || router.output().contains(&taken.addr().to_string());
    assert!(told, "{}\n{}", answer.response.text(), router.output());
    assert_eq!(router.connect().get("nobody.test", "/").status, 404, "the router lives on");
}

/// Goal: a TCP connection in which nothing moves ends after its time.
#[test]
fn an_idle_tcp_connection_ends() {
    let (server, port) = (echo_server(), HeldPort::new());
    let config = tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)])
        .timeout("tunnel_idle_timeout_ms", 400);
    let _router = Router::start(&config);
    let mut client = Client::connect(port.addr());
    client.send("x");
    assert_eq!(client.read_exactly(1), b"x");
    let (bytes, _) = client.read_to_end();
    assert!(bytes.is_empty());
    until("the server's side ends", || server.running() == 0);
}

/// Goal: many connections at once, each with its own bytes, none mixed up.
#[test]
fn many_connections_do_not_mix() {
    let (server, port) = (echo_server(), HeldPort::new());
    let config = tcp_config(&port, "", &[("app", 0.0)], &[("app", &server)]).set("cores", "2");
    let _router = Router::start(&config);
    let mut clients: Vec<_> = (0..100).map(|_| dial(port.addr())).collect();
    for round in 0..5_u64 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&pattern(number as u64 * 7_919 + round, 3_000)).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut bytes = vec![0; 3_000];
            client.read_exact(&mut bytes).unwrap();
            assert!(bytes == pattern(number as u64 * 7_919 + round, 3_000), "connection {number}");
        }
    }
}

fn tcp_config(
    port: &HeldPort,
    acl: &str,
    targets: &[(&str, f64)],
    jobs: &[(&str, &Server)],
) -> Config {
    let mut config = Config::new();
    for (name, server) in jobs {
        config = config.guarded_job(name, acl, &[server.addr()]);
    }
    config.route(&format!("tcp://{}", port.addr()), targets)
}

fn echo_server() -> Server {
    Server::start(|mut stream, _| {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count) = stream.read(&mut bytes) {
            if count == 0 || stream.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    })
}

fn greeting_server(name: &'static str) -> Server {
    Server::start(move |mut stream, _| {
        ignore(stream.write_all(name.as_bytes()));
        ignore(stream.read_to_end(&mut Vec::new()));
    })
}
