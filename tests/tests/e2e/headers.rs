//! Header fields: what the router adds, what it drops, and what it must leave alone.

use tests::{Config, Origin, Request, Router};

/// Field names that a client may not set, in each spelling that some origin would take for the same.
const OURS: [&str; 22] = [
    "Apcera-HTTPS",
    "apcera-https",
    "Apcera_HTTPS",
    "APCERA-SSL-Cipher",
    "Apcera-SSL-Protocol",
    "Apcera-SSL-Session-Id",
    "Apcera-SSL-Session-Reused",
    "Apcera-SSL-Server-Name",
    "Apcera_SSL_Server_Name",
    "Apcera-Anything",
    "X-Forwarded-For",
    "x-forwarded-for",
    "X_Forwarded_For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Prefix",
    "X-Real-IP",
    "X_Real_IP",
    "X-Request-Id",
    "Forwarded",
];

/// Goal: over plain HTTP, exactly these fields are added, with these values.
#[test]
fn what_is_added_over_plain_http() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.get("app.test:1234", "/");
    let request = origin.request(0);
    let values = |name| request.fields.all(name);
    assert_eq!(values("apcera-https"), [""], "present and empty");
    assert_eq!(values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(values("x-forwarded-proto"), ["http"]);
    assert_eq!(values("x-forwarded-host"), ["app.test:1234"]);
    assert_eq!(values("x-forwarded-port"), [router.http().port().to_string()]);
    assert_eq!(values("host"), ["app.test:1234"]);
    assert_eq!(values("x-request-id").len(), 1);
    let ssl = |name: &str| name.to_ascii_lowercase().starts_with("apcera-ssl-");
    assert!(!request.fields.0.iter().any(|field| ssl(&field.name)));
    assert!(!request.fields.has("connection"), "a plain request needs no Connection field");
}

/// Goal: an IPv6 client is told as such; an IPv4 client of an IPv6 listener is told, and matched by ACLs, as IPv4.
#[test]
fn addresses_are_told_in_their_own_family() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6 loopback");
        return;
    }
    let origin = Origin::named("a");
    let config = Config::new()
        .guarded_job("app", "allow ::1/128, deny 127.0.0.0/8", &[origin.addr()])
        .route("http://app.test", &[("app", 0.0)])
        .listen("[::]:0");
    let router = Router::start(&config);
    let port = router.http().port();
    let mut six = tests::Client::connect(([0, 0, 0, 0, 0, 0, 0, 1], port).into());
    assert_eq!(six.get("app.test", "/").status, 200);
    assert_eq!(origin.request(0).fields.all("x-forwarded-for"), ["::1"]);
    assert_eq!(origin.request(0).fields.all("x-real-ip"), ["::1"]);
    let mut four = tests::Client::connect(([127, 0, 0, 1], port).into());
    assert_eq!(four.get("app.test", "/").status, 403, "a mapped address is an IPv4 address");
    router.admin.apply(&[tests::admin::put_job("app", &[origin.addr()])]);
    assert_eq!(four.get("app.test", "/").status, 200);
    assert_eq!(origin.request(1).fields.all("x-forwarded-for"), ["127.0.0.1"]);
}

/// Goal: a request id is unique, and well formed.
#[test]
fn request_ids_are_unique() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).set("cores", "2"));
    for _ in 0..20 {
        let mut client = router.connect();
        for _ in 0..20 {
            client.get("app.test", "/");
        }
    }
    let ids: std::collections::HashSet<String> =
        origin.seen().requests.iter().map(|r| r.get("x-request-id").unwrap()).collect();
    assert_eq!(ids.len(), 400);
    assert!(ids.iter().all(|id| id.len() >= 16 && id.bytes().all(|b| b.is_ascii_graphic())));
}

/// Goal: nothing that a client says in the router's name reaches the origin. Method: every name, one value to search for.
#[test]
fn spoofed_fields_are_dropped() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for name in OURS {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: app.test\r\n{name}: spoofed\r\nX-Keep: 1\r\n{name}: spoofed\r\n\r\n"
        ));
        assert_eq!(client.response().status, 200, "{name}");
    }
    for (request, name) in origin.seen().requests.iter().zip(OURS) {
        let head = tests::message::latin1(&request.head);
        assert!(!head.contains("spoofed"), "{name} came through:\n{head}");
        assert_eq!(request.get("x-keep").as_deref(), Some("1"));
        assert_eq!(request.fields.all("apcera-https"), [""]);
    }
}

/// Goal: a trusted proxy is believed about the client, never about TLS.
#[test]
fn a_trusted_proxy_is_believed() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).trusting("127.0.0.1/32"));
    let mut client = router.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n\
         X-Forwarded-Proto: https\r\nX-Request-Id: from-the-proxy-1234\r\nApcera-HTTPS: on\r\n\
         Apcera-SSL-Cipher: FAKE\r\n\r\n",
    );
    client.response();
    let request = origin.request(0);
    assert_eq!(request.fields.all("x-forwarded-for"), ["198.51.100.7, 203.0.113.9, 127.0.0.1"]);
    assert_eq!(request.fields.all("x-real-ip"), ["203.0.113.9"], "the last untrusted hop");
    assert_eq!(request.fields.all("x-request-id"), ["from-the-proxy-1234"]);
    assert_eq!(request.fields.all("x-forwarded-proto"), ["https"]);
    assert_eq!(request.fields.all("apcera-https"), [""], "Apcera-* is always dropped");
    assert!(!request.fields.has("apcera-ssl-cipher"));
}

/// Goal: the same fields, from a proxy that is not in the list, are dropped.
#[test]
fn an_untrusted_proxy_is_not_believed() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).trusting("10.0.0.0/8"));
    let mut client = router.connect();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 198.51.100.7\r\nX-Request-Id: x\r\n\r\n");
    client.response();
    let request = origin.request(0);
    assert_eq!(request.fields.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_ne!(request.get("x-request-id").as_deref(), Some("x"));
}

/// Goal: hop-by-hop fields end here, and so do those that `Connection` names; all else stays, in order.
#[test]
fn hop_by_hop_fields_end_here() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\nX-First: 1\r\nConnection: keep-alive, X-Private , x-secret\r\n\
         X-Private: a\r\nX-SECRET: b\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         TE: gzip\r\nCookie: a=1\r\nCookie: b=2\r\nX-Empty:\r\nX-Last: 2\r\n\r\n",
    );
    client.response();
    let request = origin.request(0);
    for name in ["x-private", "x-secret", "keep-alive", "proxy-connection", "te", "connection"] {
        assert!(!request.fields.has(name), "{name} was forwarded");
    }
    let kept = own_fields(&request);
    assert_eq!(kept, ["X-First: 1", "Cookie: a=1", "Cookie: b=2", "X-Empty: ", "X-Last: 2"]);
}

/// Goal: `Connection` cannot be used to take away what the router or the message needs.
#[test]
fn connection_cannot_name_away_what_matters() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\nConnection: host, content-length, \
         x-forwarded-for, x-real-ip, apcera-https, x-request-id, transfer-encoding, x-forwarded-proto\r\n\r\nhi",
    );
    let response = client.response();
    if response.status == 400 {
        return; // Refusing is as safe.
    }
    let request = origin.request(0);
    assert_eq!(request.text(), "hi");
    for name in [
        "host",
        "x-forwarded-for",
        "x-real-ip",
        "apcera-https",
        "x-request-id",
        "x-forwarded-proto",
    ] {
        assert_eq!(request.fields.all(name).len(), 1, "{name}");
    }
}

/// Goal: names keep their case and values their bytes, 8-bit ones too.
#[test]
fn names_and_values_are_left_alone() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let mut bytes =
        b"GET / HTTP/1.1\r\nHost: app.test\r\nX-CaSe: a\tb  c\r\nX-8bit: \xe4\xff\x80\r\n".to_vec();
    bytes.extend_from_slice(b"X-Space:   around \t \r\n!#$%&'*+-.^_`|~: token\r\n\r\n");
    client.send(bytes);
    assert_eq!(client.response().status, 200);
    let kept = own_fields(&origin.request(0));
    assert_eq!(
        kept,
        [
            "X-CaSe: a\tb  c",
            "X-8bit: \u{e4}\u{ff}\u{80}",
            "X-Space: around",
            "!#$%&'*+-.^_`|~: token"
        ]
    );
}

/// Goal: answers lose their hop-by-hop fields and nothing else; several Set-Cookie stay apart and in order.
#[test]
fn answers_keep_their_fields() {
    let origin = Origin::scripted("a", |exchange| {
        let fields = [
            "Set-Cookie: a=1",
            "Set-Cookie: b=2",
            "Connection: X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: x",
            "Server: theirs",
            "Date: Thu, 01 Jan 1970 00:00:00 GMT",
            "X-CaSe: kept",
        ];
        exchange.answer("200 Very Fine", &fields, b"ok")
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let response = client.get("app.test", "/");
    let lines: Vec<String> =
        response.fields.0.iter().map(|field| format!("{}: {}", field.name, field.value)).collect();
    let wanted = [
        "X-Origin: a",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Server: theirs",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "X-CaSe: kept",
    ];
    let kept: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("Content-Length"))
        .collect();
    assert_eq!(kept, wanted);
    assert!(response.head.starts_with(b"HTTP/1.1 200 Very Fine\r\n"));
}

/// Goal: what the router answers itself is one short line of text with a stable code, and HEAD gets no body.
#[test]
fn answers_of_the_router_are_short_and_coded() {
    let router = Router::start(&Config::new());
    let mut client = router.connect();
    let response = client.get("nobody.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (404, Some("no_route")));
    let text = response.text();
    assert!(
        !text.is_empty() && text.len() < 200 && text.trim_end().lines().count() == 1,
        "{text:?}"
    );
    assert!(response.get("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    client.send("HEAD / HTTP/1.1\r\nHost: nobody.test\r\n\r\n");
    let head = client.response_to("HEAD");
    assert_eq!((head.status, head.code().as_deref()), (404, Some("no_route")));
    assert_eq!(client.get("nobody.test", "/").status, 404, "HEAD had no body");
}

/// The fields that the router did not add, as text, in order.
fn own_fields(request: &Request) -> Vec<String> {
    let added = [
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-real-ip",
        "x-request-id",
        "apcera-https",
    ];
    let ours = |name: &str| added.contains(&name.to_ascii_lowercase().as_str());
    let own = request.fields.0.iter().filter(|field| !ours(&field.name));
    own.map(|field| format!("{}: {}", field.name, field.value)).collect()
}
