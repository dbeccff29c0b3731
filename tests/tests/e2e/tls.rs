//! TLS at the edge: versions, SNI, resumption with a stable session id, reload, close_notify, abuse.

use std::io::Read;

use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tests::body::{PatternCheck, pattern};
use tests::client::{TlsClient, dial};
use tests::router::Folder;
use tests::{Authority, Certificate, Client, Config, End, Origin, Request, Router, until};

/// Goal: both versions serve, with the post-quantum key exchange when the client has it.
#[test]
fn both_versions_serve() {
    let site = Site::start(|config| config);
    for (versions, wanted) in [
        (rustls::ALL_VERSIONS, ProtocolVersion::TLSv1_3),
        (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
        (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
    ] {
        let mut client = site.router.connect_tls(&site.authority.client(versions), "app.test");
        for number in 0..5 {
            assert_eq!(client.get("app.test", &format!("/{number}")).text(), format!("/{number}"));
        }
        assert_eq!(client.tls().protocol_version(), Some(wanted));
        let group = client.tls().negotiated_key_exchange_group().map(|group| group.name());
        if wanted == ProtocolVersion::TLSv1_3 {
            assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        }
    }
}

/// Goal: the five headers over TLS and `Apcera-HTTPS: on`, spelled as OpenSSL spells them; nothing spoofed survives.
#[test]
fn what_the_origin_learns_about_tls() {
    let site = Site::start(|config| config);
    for (versions, protocol, ciphers) in [
        (
            &[&rustls::version::TLS13],
            "TLSv1.3",
            &["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"][..],
        ),
        (
            &[&rustls::version::TLS12],
            "TLSv1.2",
            &[
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                "ECDHE-ECDSA-AES128-GCM-SHA256",
                "ECDHE-ECDSA-CHACHA20-POLY1305",
            ][..],
        ),
    ] {
        let mut client = site.router.connect_tls(&site.authority.client(versions), "app.test");
        client.send(
            "GET / HTTP/1.1\r\nHost: app.test\r\nApcera-HTTPS: off\r\nApcera-SSL-Cipher: FAKE\r\n\
             Apcera_SSL_Cipher: FAKE\r\nX-Forwarded-Proto: gopher\r\n\r\n",
        );
        client.response();
        let request = site.last_request();
        let values = |name| request.fields.all(name);
        assert_eq!(values("apcera-https"), ["on"]);
        assert_eq!(values("apcera-ssl-protocol"), [protocol]);
        let cipher = values("apcera-ssl-cipher").join("|");
        assert!(ciphers.contains(&cipher.as_str()), "{cipher}");
        assert_eq!(values("apcera-ssl-session-reused"), ["."]);
        assert_eq!(values("apcera-ssl-server-name"), ["app.test"]);
        let id = values("apcera-ssl-session-id").join("|");
        assert!(id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "session id {id:?}");
        assert_eq!(values("x-forwarded-proto"), ["https"]);
        assert_eq!(values("x-forwarded-port"), [site.router.https().port().to_string()]);
        assert!(!tests::message::latin1(&request.head).contains("FAKE"));
        assert!(!tests::message::latin1(&request.head).contains("gopher"));
    }
}

/// Goal: a resumed session says `r` and keeps its id, over a chain of resumptions, in both versions.
#[test]
fn a_resumed_session_keeps_its_id() {
    let site = Site::start(|config| config);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = site.authority.client(&[version]);
        let mut ids = Vec::new();
        for round in 0..5 {
            let mut client = site.router.connect_tls(&config, "app.test");
            client.get("app.test", "/");
            let resumed = client.tls().handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, round > 0, "{:?} round {round}", version.version);
            let request = site.last_request();
            let reused = request.get("apcera-ssl-session-reused");
            assert_eq!(reused.as_deref(), Some(if round > 0 { "r" } else { "." }));
            ids.push(request.get("apcera-ssl-session-id").unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{:?}: the id changed: {ids:?}", version.version);
    }
}

/// Goal: different sessions have different ids.
#[test]
fn session_ids_differ_between_sessions() {
    let site = Site::start(|config| config);
    let mut ids = Vec::new();
    for _ in 0..4 {
        let mut client = site.router.connect_tls(&site.authority.any_client(), "app.test");
        client.get("app.test", "/");
        client.get("app.test", "/");
        ids.push(site.last_request().get("apcera-ssl-session-id").unwrap());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

/// Goal: the certificate follows the server name: exact first, then one label of wildcard, else the first of the file.
#[test]
fn the_certificate_follows_the_server_name() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let make = |file: &str, names: &[&str]| authority.certificate(folder.path(), file, names);
    let first = make("first", &["first.test", "unknown.test", "a.b.example.test"]);
    let wild = make("wild", &["*.example.test"]);
    let exact = make("exact", &["one.example.test"]);
    let listed = make("listed", &["listed.test", "unlisted.test"]);
    let origin = Origin::named("a");
    let config = Config::app(&origin)
        .certificate(&[], &first.chain, &first.key)
        .certificate(&["*.example.test"], &wild.chain, &wild.key)
        .certificate(&[], &exact.chain, &exact.key)
        .certificate(&["listed.test"], &listed.chain, &listed.key);
    let router = Router::start_in(folder, &config);
    for (name, wanted) in [
        ("one.example.test", &exact),
        ("two.example.test", &wild),
        ("TWO.example.test", &wild),
        ("listed.test", &listed),
        ("unknown.test", &first),
        ("a.b.example.test", &first),
    ] {
        let client = router.connect_tls(&authority.any_client(), name);
        assert_eq!(leaf(&client), wanted.leaf, "{name}");
    }
    let refused = Client::connect_tls(router.https(), &authority.any_client(), "unlisted.test");
    refused.err().expect("a name outside all server_names has no valid TLS");
}

/// Goal: the host of a request need not be the server name; the route is found by the host.
#[test]
fn the_route_follows_the_host() {
    let site = Site::start(|config| config.route("http://other.test", &[("app", 0.0)]));
    let mut client = site.router.connect_tls(&site.authority.any_client(), "app.test");
    assert_eq!(client.get("other.test", "/").status, 200);
    assert_eq!(site.last_request().get("apcera-ssl-server-name").as_deref(), Some("app.test"));
    assert_eq!(client.get("nobody.test", "/").status, 404);
}

/// Goal: an https-only route serves over TLS, and every other route answers on both schemes.
#[test]
fn https_only_serves_over_tls() {
    let site = Site::start(|config| config.https_only("http://secret.test", "app"));
    let mut tls = site.router.connect_tls(&site.authority.any_client(), "app.test");
    assert_eq!(tls.get("secret.test", "/").status, 200);
    assert_eq!(tls.get("app.test", "/").status, 200);
    let mut plain = site.router.connect();
    let moved = plain.get("secret.test", "/a?b");
    assert_eq!(
        (moved.status, moved.get("location").as_deref()),
        (301, Some("https://secret.test/a?b"))
    );
    assert_eq!(plain.get("app.test", "/").status, 200);
}

/// Goal: new certificates without a dropped connection: old connections serve on, new ones see the new one;
/// a session made before is still resumed.
#[test]
fn certificates_reload_without_a_dropped_connection() {
    let site = Site::start(|config| config);
    let config = site.authority.any_client();
    let mut old = site.router.connect_tls(&config, "app.test");
    old.get("app.test", "/");
    let renewed = site.authority.certificate(site.router.folder(), "app", &["app.test"]);
    site.router.process.signal("HUP");
    until("a new connection sees the new certificate", || {
        let client = site.router.connect_tls(&site.authority.any_client(), "app.test");
        leaf(&client) == renewed.leaf
    });
    assert_eq!(old.get("app.test", "/still").text(), "/still");
    let mut resumed = site.router.connect_tls(&config, "app.test");
    assert_eq!(resumed.get("app.test", "/").status, 200);
    assert_eq!(
        resumed.tls().handshake_kind(),
        Some(HandshakeKind::Resumed),
        "tickets survive a reload"
    );
}

/// Goal: a broken certificate on reload changes nothing and is told with its file.
#[test]
fn a_broken_certificate_keeps_the_last_good_one() {
    let site = Site::start(|config| config);
    std::fs::write(site.router.folder().join("app.pem"), "no certificate").unwrap();
    site.router.process.signal("HUP");
    until("the reload is refused by name", || site.router.output().contains("app.pem"));
    let mut client = site.router.connect_tls(&site.authority.any_client(), "app.test");
    assert_eq!(leaf(&client), site.certificate.leaf);
    assert_eq!(client.get("app.test", "/").status, 200);
}

/// Goal: the end of a connection is told by close_notify, so that a client can tell an end from a cut.
#[test]
fn the_end_is_told_by_close_notify() {
    let site = Site::start(|config| config.timeout("client_idle_timeout_ms", 300));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = site.authority.client(&[version]);
        let mut client = site.router.connect_tls(&config, "app.test");
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().text(), "/");
        assert_eq!(client.expect_end(), End::Clean, "after Connection: close");
        let mut idle = site.router.connect_tls(&config, "app.test");
        assert_eq!(idle.expect_end(), End::Clean, "after the idle time");
        let mut bad = site.router.connect_tls(&config, "app.test");
        bad.send("nonsense\r\n\r\n");
        assert_eq!(bad.response().status, 400);
        assert_eq!(bad.expect_end(), End::Clean, "after a refusal");
        let mut leaving = site.router.connect_tls(&config, "app.test");
        leaving.get("app.test", "/");
        leaving.end_writing();
        assert_eq!(leaving.expect_end(), End::Clean, "in answer to close_notify");
    }
}

/// Goal: a body that an origin cuts never ends with close_notify.
#[test]
fn a_cut_body_is_not_ended_properly() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = authority.certificate(folder.path(), "app", &["app.test"]);
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
        exchange.close();
        Ok(())
    });
    let config = Config::app(&origin).certificate(&[], &certificate.chain, &certificate.key);
    let router = Router::start_in(folder, &config);
    let mut client = router.connect_tls(&authority.any_client(), "app.test");
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    client.try_response("GET").expect_err("a cut body");
}

/// Goal: large bodies both ways over TLS are exact, in both versions.
#[test]
fn large_bodies_over_tls_are_exact() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = authority.certificate(folder.path(), "app", &["app.test"]);
    let origin = Origin::scripted("echo", |exchange| {
        exchange.read_body()?;
        let body = std::mem::take(&mut exchange.request.body.bytes);
        exchange.answer("200 OK", &[], &body)
    });
    let config = Config::app(&origin).certificate(&[], &certificate.chain, &certificate.key);
    let router = Router::start_in(folder, &config);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut client = router.connect_tls(&authority.client(&[version]), "app.test");
        for size in [1, 16_384, 16_385, 1_000_000, 5_000_000] {
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n"
            ));
            client.send(pattern(0, size));
            let mut check = PatternCheck::default();
            check.take(&client.response().body.bytes);
            assert_eq!(check.count, size as u64);
        }
    }
}

/// Goal: plain HTTP on the TLS port, TLS on the plain port, and garbage: each ends, none hangs, the router lives on.
#[test]
fn the_wrong_language_ends_the_connection() {
    let site = Site::start(|config| config);
    let mut plain = Client::connect(site.router.https());
    plain.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let (_, end) = plain.read_to_end();
    assert_ne!(end, End::Truncated);
    let stream = dial(site.router.http());
    let name = rustls_pki_types::ServerName::try_from("app.test").unwrap();
    let conn = rustls::ClientConnection::new(site.authority.any_client(), name).unwrap();
    let mut tls = TlsClient::new(conn, stream);
    tls.read(&mut [0; 10]).expect_err("no TLS on the plain port");
    for garbage in [
        &b"\x16\x03\x01\xff\xff"[..],
        b"\x16\x03\x01\x00\x04abcd",
        b"\x00\x00\x00\x00\x00\x00",
        b"\x80\x2e\x01\x00\x02",
    ] {
        let mut client = Client::connect(site.router.https());
        client.send(garbage).end_writing();
        client.read_to_end();
    }
    let mut client = site.router.connect_tls(&site.authority.any_client(), "app.test");
    assert_eq!(client.get("app.test", "/").status, 200);
}

/// Goal: a handshake that does not end in time ends the connection; one byte at a time is fine.
#[test]
fn handshakes_are_bounded_in_time_not_in_pieces() {
    let site = Site::start(|config| config.timeout("head_timeout_ms", 1_500));
    let mut stalled = Client::connect(site.router.https());
    stalled.send([0x16, 0x03, 0x01]);
    let name = rustls_pki_types::ServerName::try_from("app.test").unwrap();
    let config = site.authority.client(&[&rustls::version::TLS13]);
    let mut conn = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    conn.write_tls(&mut hello).unwrap();
    let mut stream = dial(site.router.https());
    for byte in hello {
        std::io::Write::write_all(&mut stream, &[byte]).unwrap();
    }
    let mut client = Client::over(TlsClient::new(conn, stream));
    assert_eq!(client.get("app.test", "/").status, 200);
    stalled.read_to_end();
}

/// Goal: pipelined requests in one record, and one request over many records, are served alike.
#[test]
fn record_borders_mean_nothing() {
    let site = Site::start(|config| config);
    let mut client = site.router.connect_tls(&site.authority.any_client(), "app.test");
    let two = "GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n";
    client.send(two);
    assert_eq!((client.response().text(), client.response().text()), ("/1".into(), "/2".into()));
    for byte in two.bytes() {
        client.send([byte]);
    }
    assert_eq!((client.response().text(), client.response().text()), ("/1".into(), "/2".into()));
}

/// One origin behind one certificate.
struct Site {
    router: Router,
    authority: Authority,
    certificate: Certificate,
    origin: Origin,
}

impl Site {
    fn start(change: impl FnOnce(Config) -> Config) -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        let certificate = authority.certificate(folder.path(), "app", &["app.test"]);
        let origin = Origin::named("a");
        let config = Config::app(&origin).certificate(&[], &certificate.chain, &certificate.key);
        let router = Router::start_in(folder, &change(config));
        Self { router, authority, certificate, origin }
    }

    fn last_request(&self) -> Request {
        self.origin.seen().requests.pop().expect("a request came")
    }
}

fn leaf(client: &Client<TlsClient>) -> Vec<u8> {
    let chain = client.tls().peer_certificates().expect("the handshake is done");
    chain[0].to_vec()
}
