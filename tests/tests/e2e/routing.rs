//! Which route: hosts in every spelling, one-label wildcards, path prefixes on segment borders, and misses.

use tests::{Config, Origin, Router};

/// Goal: the host is found in any case, with a port, with a trailing dot.
#[test]
fn hosts_are_found_in_every_spelling() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for host in
        ["app.test", "APP.Test", "app.test:80", "app.test:65535", "app.test.", "App.test.:8080"]
    {
        let response = client.get(host, "/");
        assert_eq!(response.status, 200, "{host}");
    }
    for host in [
        "xapp.test",
        "app.testx",
        "app",
        "test",
        "www.app.test",
        "app.test..",
        "127.0.0.1",
        "[::1]",
    ] {
        let mut client = router.connect();
        let response = client.get(host, "/");
        assert!([400, 404].contains(&response.status), "{host}: {}", response.status);
        assert!(response.code().is_some());
    }
    let hosts: Vec<_> = origin.seen().requests.iter().map(|r| r.get("host").unwrap()).collect();
    assert_eq!(hosts[1], "APP.Test", "the host goes on as it was sent");
}

/// Goal: exact before wildcard; a wildcard is one label, no more and no less.
#[test]
fn wildcards_match_one_label() {
    let (exact, wild) = (Origin::named("exact"), Origin::named("wild"));
    let config = Config::new()
        .job("exact", &[exact.addr()])
        .job("wild", &[wild.addr()])
        .route("http://*.example.test", &[("wild", 0.0)])
        .route("http://one.example.test", &[("exact", 0.0)]);
    let router = Router::start(&config);
    let mut client = router.connect();
    for (host, served_by) in [
        ("one.example.test", Some("exact")),
        ("ONE.example.test", Some("exact")),
        ("two.example.test", Some("wild")),
        ("x-y.example.test:8080", Some("wild")),
        ("example.test", None),
        ("a.b.example.test", None),
        ("a.one.example.test", None),
    ] {
        let response = client.get(host, "/");
        assert_eq!(response.get("x-origin").as_deref(), served_by, "{host}");
        assert_eq!(response.status, if served_by.is_some() { 200 } else { 404 });
    }
}

/// Goal: the longest prefix on a segment border decides; `/` and `/*` are the same; the query is no part of it.
#[test]
fn the_longest_prefix_on_a_border_decides() {
    let origins: Vec<Origin> = ["root", "shop", "deep"].map(Origin::named).into();
    let config = Config::new()
        .job("root", &[origins[0].addr()])
        .job("shop", &[origins[1].addr()])
        .job("deep", &[origins[2].addr()])
        .route("http://app.test/*", &[("root", 0.0)])
        .route("http://app.test/shop", &[("shop", 0.0)])
        .route("http://app.test/shop/deep/er", &[("deep", 0.0)])
        .route("http://only.test/shop", &[("shop", 0.0)]);
    let router = Router::start(&config);
    let mut client = router.connect();
    for (path, served_by) in [
        ("/", "root"),
        ("/?/shop", "root"),
        ("/shop", "shop"),
        ("/shop?x", "shop"),
        ("/shop/", "shop"),
        ("/shop/x", "shop"),
        ("/shopping", "root"),
        ("/shop.html", "root"),
        ("/SHOP", "root"),
        ("/shop/deep", "shop"),
        ("/shop/deep/err", "shop"),
        ("/shop/deep/er", "deep"),
        ("/shop/deep/er/x/y?z", "deep"),
    ] {
        let response = client.get("app.test", path);
        assert_eq!(response.get("x-origin").as_deref(), Some(served_by), "{path}");
        assert_eq!(response.text(), path, "the target goes on as it was sent");
    }
    assert_eq!(client.get("only.test", "/shop/1").status, 200);
    let miss = client.get("only.test", "/other");
    assert_eq!((miss.status, miss.code().as_deref()), (404, Some("no_route")));
}

/// Goal: encodings and dot segments never lead to a route that the literal path does not lead to, nor are rewritten.
#[test]
fn paths_are_compared_as_sent() {
    let (root, secret) = (Origin::named("root"), Origin::named("secret"));
    let config = Config::new()
        .job("root", &[root.addr()])
        .job("secret", &[secret.addr()])
        .route("http://app.test", &[("root", 0.0)])
        .route("http://app.test/secret", &[("secret", 0.0)]);
    let router = Router::start(&config);
    for path in ["/%73ecret", "/x/../secret", "//secret", "/secret%2Fx", "/./secret", "/secre%74/x"]
    {
        let response = router.connect().get("app.test", path);
        assert_ne!(response.get("x-origin").as_deref(), Some("secret"), "{path}");
        if response.status == 200 {
            assert_eq!(response.text(), path);
        }
    }
}

/// Goal: absolute-form goes to the host it names and on in origin-form; `*` stays `*`.
#[test]
fn other_forms_of_the_target() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET http://app.test/abs?x=1 HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "/abs?x=1");
    client.send("GET http://app.test?q HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "/?q");
    client.send("OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "*");
    client.send("OPTIONS http://app.test HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "*", "RFC 9112 section 3.2.4");
    let seen = origin.seen();
    assert!(seen.requests.iter().all(|r| r.get("host").as_deref() == Some("app.test")));
}

/// Goal: methods are case-sensitive and go on as sent, known or not; TRACE, which tells a client what the router added,
/// does not go on.
#[test]
fn methods_go_on_as_sent() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let methods =
        ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "get", "M-SEARCH"];
    for (index, method) in methods.into_iter().enumerate() {
        client.send(format!("{method} /m HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(client.response_to(method).status, 200, "{method}");
        assert_eq!(origin.request(index).method, method);
    }
    client.send("TRACE /m HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().status, 501);
    assert_eq!(origin.seen().requests.len(), methods.len());
}

/// Goal: the routes of one host do not depend on how many others there are. Method: 2,000 hosts in the file.
#[test]
fn thousands_of_hosts() {
    let (few, last) = (Origin::named("few"), Origin::named("last"));
    let mut config = Config::new().job("few", &[few.addr()]).job("last", &[last.addr()]);
    for number in 0..2_000 {
        config = config.route(&format!("http://h{number}.test"), &[("few", 0.0)]);
    }
    let router = Router::start(&config.route("http://last.test", &[("last", 0.0)]));
    let mut client = router.connect();
    for number in (0..2_000).step_by(97) {
        let host = format!("h{number}.test");
        assert_eq!(client.get(&host, "/").get("x-origin").as_deref(), Some("few"), "{host}");
    }
    assert_eq!(client.get("last.test", "/").get("x-origin").as_deref(), Some("last"));
    assert_eq!(client.get("h2000.test", "/").status, 404);
}
