//! Which job and which instance: weights exact on the wire, client ACLs, https-only, no instance.

use tests::admin::{put_target, set_weight};
use tests::{Config, Origin, Router};

/// Requests sent to judge shares.
const REQUESTS: usize = 400;

/// Goal: 45/45/auto is 45/45/10, never off by more than one request at any prefix, on one core.
#[test]
fn shares_are_exact_at_every_prefix() {
    check_shares(&[45.0, 45.0, 0.0], &[0.45, 0.45, 0.10]);
}

/// Goal: every rule of the weights, each on the wire. Method: weights given, shares that must follow.
#[test]
fn every_rule_of_weights_holds() {
    check_shares(&[30.0, 0.0], &[0.3, 0.7]);
    check_shares(&[100.0, 0.0], &[1.0, 0.0]);
    check_shares(&[0.0, 0.0], &[0.5, 0.5]);
    check_shares(&[0.0, 0.0, 0.0], &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
    check_shares(&[-10.0, 0.0], &[0.0, 1.0]);
    check_shares(&[-10.0, 20.0], &[0.0, 1.0]);
    check_shares(&[80.0, 120.0], &[0.4, 0.6]);
    check_shares(&[10.0, 30.0], &[0.25, 0.75]);
    check_shares(&[12.5, 0.0], &[0.125, 0.875]);
    check_shares(&[90.0, 60.0, 0.0], &[0.6, 0.4, 0.0]);
}

/// Goal: all weights negative: the route exists, but nobody serves.
#[test]
fn all_inactive_is_no_instance() {
    let origin = Origin::named("a");
    let config = Config::new().job("a", &[origin.addr()]).route("http://app.test", &[("a", -1.0)]);
    let router = Router::start(&config);
    check_unserved(&router);
    router.admin.apply(&[set_weight("http://app.test", "a", 50.0)]);
    assert_eq!(router.connect().get("app.test", "/").status, 200);
}

/// Goal: a job without instances drops out of the shares; alone, it is 503 with Retry-After.
#[test]
fn a_job_without_instances_drops_out() {
    let origin = Origin::named("a");
    let config = Config::new()
        .job("empty", &[])
        .job("full", &[origin.addr()])
        .route("http://app.test", &[("empty", 90.0), ("full", 10.0)])
        .route("http://empty.test", &[("empty", 0.0)]);
    let router = Router::start(&config);
    let mut client = router.connect();
    for _ in 0..50 {
        assert_eq!(client.get("app.test", "/").status, 200);
    }
    let response = client.get("empty.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (503, Some("no_instance")));
    assert_eq!(response.get("retry-after").as_deref(), Some("1"));
}

/// Goal: requests in flight are spread over the instances of a job. Method: hold eight, count four and four.
#[test]
fn instances_share_what_is_in_flight() {
    let (gates, origins): (Vec<_>, Vec<_>) = (0..2)
        .map(|number| {
            let (release, gate) = std::sync::mpsc::channel::<()>();
            let gate = std::sync::Mutex::new(gate);
            let origin = Origin::scripted(&format!("o{number}"), move |exchange| {
                let waited = gate.lock().expect("no poison").recv_timeout(tests::DEADLINE);
                waited.map_err(std::io::Error::other)?;
                exchange.answer_target()
            });
            (release, origin)
        })
        .unzip();
    let addrs: Vec<_> = origins.iter().map(Origin::addr).collect();
    let config = Config::new().job("app", &addrs).route("http://app.test", &[("app", 0.0)]);
    let router = Router::start(&config);
    let mut clients: Vec<_> = (0..8).map(|_| router.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        tests::until("the request is in flight", || {
            origins.iter().map(|o| o.look(|seen| seen.requests.len())).sum::<usize>() == number + 1
        });
    }
    let counts: Vec<_> = origins.iter().map(|o| o.look(|seen| seen.requests.len())).collect();
    assert_eq!(counts, [4, 4], "fewest in flight of two means even here");
    for gate in gates {
        (0..8).for_each(|_| tests::server::ignore(gate.send(())));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().text(), format!("/{number}"));
    }
}

/// Goal: an ACL that denies the client is 403 with its code, and nothing reaches the job. A `deny` of everything in one
/// family closes the list to the other one too.
#[test]
fn an_acl_denies() {
    let origin = Origin::named("a");
    for (acl, admitted) in [
        ("", true),
        ("deny 127.0.0.0/8", false),
        ("deny 10.0.0.0/8", true),
        ("127.0.0.1/32, deny 0.0.0.0/0", true),
        ("allow 10.0.0.0/8, deny 0.0.0.0/0", false),
        ("deny 127.0.0.1/32, allow 127.0.0.0/8", false),
        ("allow 127.0.0.0/8, deny 127.0.0.1/32", true),
        ("deny 2001:db8::/32", true),
        ("deny ::/0", false),
    ] {
        let config = Config::new()
            .guarded_job("app", acl, &[origin.addr()])
            .route("http://app.test", &[("app", 0.0)]);
        let router = Router::start(&config);
        let response = router.connect().get("app.test", "/");
        if admitted {
            assert_eq!(response.status, 200, "{acl:?}");
        } else {
            let code = response.code();
            assert_eq!((response.status, code.as_deref()), (403, Some("acl_denied")), "{acl:?}");
        }
    }
}

/// Goal: on a shared route, the jobs that admit the client share all of it; none is 403.
#[test]
fn a_shared_route_filters_jobs_by_acl_first() {
    let (open, closed) = (Origin::named("open"), Origin::named("closed"));
    let config = Config::new()
        .job("open", &[open.addr()])
        .guarded_job("closed", "deny 127.0.0.0/8", &[closed.addr()])
        .route("http://app.test", &[("open", 10.0), ("closed", 90.0)]);
    let router = Router::start(&config);
    let mut client = router.connect();
    for _ in 0..60 {
        assert_eq!(client.get("app.test", "/").get("x-origin").as_deref(), Some("open"));
    }
    assert!(closed.seen().connections.is_empty());
}

/// Goal: the client of an ACL is the last untrusted hop when the peer is a trusted proxy, and the peer otherwise.
#[test]
fn an_acl_sees_through_trusted_proxies_only() {
    let origin = Origin::named("a");
    let base = Config::new()
        .guarded_job("app", "deny 203.0.113.0/24", &[origin.addr()])
        .route("http://app.test", &[("app", 0.0)]);
    for (config, status) in [(base.clone(), 200), (base.trusting("127.0.0.0/8"), 403)] {
        let router = Router::start(&config);
        let mut client = router.connect();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
        assert_eq!(client.response().status, status);
    }
}

/// Goal: https-only answers plain HTTP with 301 to the same host and URI, and nothing reaches the job.
#[test]
fn https_only_redirects() {
    let origin = Origin::named("a");
    let config =
        Config::new().job("app", &[origin.addr()]).https_only("http://app.test/shop", "app");
    let router = Router::start(&config);
    let mut client = router.connect();
    for uri in ["/shop", "/shop/a?b=c&d=%20e", "/shop?", "/shop//x/y?q=http://z/../"] {
        for method in ["GET", "HEAD", "POST"] {
            let body = if method == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
            client.send(format!("{method} {uri} HTTP/1.1\r\nHost: app.test\r\n{body}"));
            let response = client.response_to(method);
            assert_eq!(response.status, 301);
            assert_eq!(response.get("location"), Some(format!("https://app.test{uri}")));
            if response.says_close() {
                client = router.connect();
            }
        }
    }
    assert!(origin.seen().connections.is_empty());
}

/// Goal: the https-only flag is fixed for the route's life, and the conflict has its exact text, both ways.
#[test]
fn the_https_only_flag_is_fixed() {
    let origin = Origin::named("a");
    let config = Config::new()
        .job("a", &[origin.addr()])
        .job("b", &[origin.addr()])
        .https_only("http://app.example.com", "a")
        .route("http://plain.example.com", &[("a", 0.0)]);
    let router = Router::start(&config);
    let text = "Route app.example.com https-only flag conflict";
    let answer = router.admin.try_apply(&[put_target("http://app.example.com", "b", 0.0)]);
    assert_ne!(answer.status, 200);
    assert!(answer.response.text().contains(text), "{}", answer.response.text());
    let mut change = put_target("http://plain.example.com", "b", 0.0);
    change["https_only"] = true.into();
    let answer = router.admin.try_apply(&[change]);
    assert!(answer.response.text().contains("Route plain.example.com https-only flag conflict"));
    let mut join = put_target("http://app.example.com", "b", 0.0);
    join["https_only"] = true.into();
    router.admin.apply(&[join]);
}

fn check_unserved(router: &Router) {
    let response = router.connect().get("app.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (503, Some("no_instance")));
}

/// One core, one connection: after each request, every job's count is within one of its ideal share.
fn check_shares(weights: &[f64], shares: &[f64]) {
    let names: Vec<String> = (0..weights.len()).map(|number| format!("job{number}")).collect();
    let origins: Vec<Origin> = names.iter().map(|name| Origin::named(name)).collect();
    let mut config = Config::new();
    for (name, origin) in names.iter().zip(&origins) {
        config = config.job(name, &[origin.addr()]);
    }
    let targets: Vec<(&str, f64)> =
        names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
    let router = Router::start(&config.route("http://app.test", &targets));
    let mut client = router.connect();
    let mut counts = vec![0.0_f64; weights.len()];
    for number in 1..=REQUESTS {
        let served_by = client.get("app.test", "/").get("x-origin").expect("an origin answered");
        let at = names.iter().position(|name| *name == served_by).expect("one of ours");
        counts[at] += 1.0;
        for (count, share) in counts.iter().zip(shares) {
            let ideal = share * number as f64;
            assert!((count - ideal).abs() < 1.0 + 1e-6, "{weights:?}: {counts:?} after {number}");
        }
    }
}
