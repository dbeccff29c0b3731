//! Everything changes while requests run: not one response may be wrong, lost or truncated.
//!
//! ```text
//!  clients ──▶ keep-alive, new connections, uploads, downloads, TLS, tunnels ──▶ router ──▶ origins
//!  churner ──▶ instances, weights, routes, certificates, files                  ──▶ admin API, SIGHUP
//! ```
//!
//! Clients may only ask for hosts that exist throughout; the churner may only take away what the table can spare.
//! Deliberately absent: failing origins. Then a lost response can be right; `faults.rs` has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::admin::{
    add_instance, put_guarded_job, put_job, put_target, remove_instance, remove_route, set_weight,
};
use tests::body::{chunked, pattern};
use tests::router::Folder;
use tests::{Admin, Authority, Client, Config, Origin, Router};

/// How long the weather lasts.
const WEATHER: Duration = Duration::from_secs(6);
/// Changes below which the churn was none.
const CHANGES_MIN: usize = 100;
/// Requests below which the load was none.
const REQUESTS_MIN: usize = 1_000;

/// Goal: routes, weights and instances change a few hundred times a second; every response is right.
#[test]
fn tables_change_under_load() {
    let origins: Vec<Origin> = (0..4).map(|n| serving_origin(&format!("o{n}"))).collect();
    let router = Router::start(&base(&origins).set("cores", "2"));
    let weather = Weather::begin();
    let load = start_load(&weather, &router);
    let mut rng = Rng(1);
    while weather.lasts() {
        churn(&router.admin, &origins, &mut rng);
        weather.changes.fetch_add(1, SeqCst);
    }
    weather.end(load);
    let unknown: usize = origins.iter().map(|o| o.look(|seen| seen.of("/never").len())).sum();
    assert_eq!(unknown, 0);
}

/// Goal: reloads of the file, good and bad, under load; every response is right.
#[test]
fn files_change_under_load() {
    let origins: Vec<Origin> = (0..4).map(|n| serving_origin(&format!("o{n}"))).collect();
    let router = Router::start(&base(&origins).set("cores", "2"));
    let weather = Weather::begin();
    let load = start_load(&weather, &router);
    let mut round = 0;
    while weather.lasts() {
        let mut config = base(&origins[round % 3..round % 3 + 2]).set("cores", "2");
        for number in 0..round % 7 {
            config = config.route(&format!("http://more{number}.test"), &[("app", 0.0)]);
        }
        let text = config.render(router.folder());
        router.rewrite(&if round % 5 == 4 { text.replace("weight", "wait") } else { text });
        router.process.signal("HUP");
        // A reload is seen by its effect; a bad one by the next good one.
        let host = format!("more{}.test", (round % 7).saturating_sub(1));
        let mut probe = router.connect();
        let applied = Instant::now();
        while round % 5 != 4 && round % 7 > 0 && probe.get(&host, "/probe").status != 200 {
            assert!(applied.elapsed() < tests::DEADLINE, "the reload never came");
        }
        weather.changes.fetch_add(10, SeqCst);
        round += 1;
    }
    weather.end(load);
}

/// Goal: certificates change under load over TLS; every handshake and every response is right.
#[test]
fn certificates_change_under_load() {
    let (folder, authority) = (Folder::new(), Arc::new(Authority::new()));
    let certificate = authority.certificate(folder.path(), "app", &["app.test"]);
    let origins = vec![serving_origin("o0")];
    let config = base(&origins).certificate(&[], &certificate.chain, &certificate.key);
    let router = Router::start_in(folder, &config.set("cores", "2"));
    let weather = Weather::begin();
    let load: Vec<JoinHandle<()>> = (0..3)
        .map(|number| {
            let (weather, addr) = (Arc::clone(&weather), router.https());
            let tls = authority.any_client();
            std::thread::spawn(move || {
                let mut count = 0;
                while weather.lasts() {
                    let mut client =
                        Client::connect_tls(addr, &tls, "app.test").expect("a handshake");
                    for _ in 0..number * 20 + 1 {
                        ask(&mut client, count);
                        weather.requests.fetch_add(1, SeqCst);
                        count += 1;
                    }
                }
            })
        })
        .collect();
    while weather.lasts() {
        // The key first: for a moment the pair does not match, and the router must keep the last good one.
        authority.certificate(router.folder(), "app", &["app.test"]);
        router.process.signal("HUP");
        weather.changes.fetch_add(10, SeqCst);
        tests::until("the admin API answers", || router.admin.get("/healthz").status == 200);
    }
    weather.end(load);
}

/// Goal: blue-green by weights under load: auto/none → 50/50 → inactive/100, no failed request, exact at each step.
#[test]
fn blue_green_by_weights() {
    let (blue, green) = (serving_origin("blue"), serving_origin("green"));
    let config = Config::new()
        .job("blue", &[blue.addr()])
        .job("green", &[green.addr()])
        .route("http://app.test", &[("blue", 0.0)]);
    let router = Router::start(&config);
    let weather = Weather::begin();
    let (inner, addr) = (Arc::clone(&weather), router.http());
    let load = std::thread::spawn(move || {
        let (mut client, mut count) = (Client::connect(addr), 0);
        while inner.lasts() {
            ask(&mut client, count);
            inner.requests.fetch_add(1, SeqCst);
            count += 1;
        }
    });
    let shares = |wanted_blue: f64| {
        let mut client = router.connect();
        let mut count = 0.0;
        for _ in 0..100 {
            let response = client.get("app.test", "/share");
            count += f64::from(u8::from(response.get("x-origin").as_deref() == Some("blue")));
        }
        (count - wanted_blue).abs()
    };
    assert!(shares(100.0) < 0.5);
    router.admin.apply(&[
        put_target("http://app.test", "green", 50.0),
        set_weight("http://app.test", "blue", 50.0),
    ]);
    // Another connection asks at the same time, so that this one's share may be off by its phase.
    assert!(shares(50.0) <= 50.0);
    router.admin.apply(&[
        set_weight("http://app.test", "green", 100.0),
        set_weight("http://app.test", "blue", -1.0),
    ]);
    assert!(shares(0.0) < 0.5, "blue is inactive");
    weather.changes.fetch_add(CHANGES_MIN, SeqCst);
    weather.end(vec![load]);
}

/// Goal: a rolling restart with confirmed drain loses nothing, without a sleep.
/// Method: each instance is removed, drained, stopped and replaced, round after round, under load.
#[test]
fn a_rolling_restart_loses_nothing() {
    let mut origins: Vec<Origin> = (0..3).map(|n| serving_origin(&format!("o{n}"))).collect();
    let router = Router::start(&base(&origins).set("cores", "2"));
    let weather = Weather::begin();
    let load = start_load(&weather, &router);
    let mut round = 0;
    while weather.lasts() {
        let fresh = serving_origin(&format!("r{round}"));
        let old = std::mem::replace(&mut origins[round % 3], fresh);
        let new = origins[round % 3].addr();
        router.admin.apply(&[
            add_instance("app", new),
            remove_instance("app", old.addr()),
            put_job("side", &[origins[0].addr()]),
        ]);
        for job in ["app", "side"] {
            let path = format!("/v1/drain?job={job}&instance={}&timeout_ms=15000", old.addr());
            let answer = router.admin.get(&path);
            assert_eq!(answer.status, 200, "{}", answer.response.text());
        }
        drop(old); // Cuts whatever is open: a drain that was told too early loses a response here.
        weather.changes.fetch_add(10, SeqCst);
        round += 1;
    }
    weather.end(load);
}

/// What load and churn share.
struct Weather {
    until: Instant,
    failed: AtomicBool,
    requests: AtomicUsize,
    changes: AtomicUsize,
}

impl Weather {
    fn begin() -> Arc<Self> {
        Arc::new(Self {
            until: Instant::now() + WEATHER,
            failed: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
        })
    }

    fn lasts(&self) -> bool {
        Instant::now() < self.until && !self.failed.load(SeqCst)
    }

    fn end(&self, load: Vec<JoinHandle<()>>) {
        for worker in load {
            worker.join().expect("a client saw a wrong, lost or truncated response");
        }
        let (requests, changes) = (self.requests.load(SeqCst), self.changes.load(SeqCst));
        println!("{requests} requests right through {changes} changes");
        assert!(requests >= REQUESTS_MIN && changes >= CHANGES_MIN, "{requests}, {changes}");
    }
}

/// Marks the weather as failed when a client panics, so that the churner stops and the test ends.
struct Alarm(Arc<Weather>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, SeqCst);
        }
    }
}

/// Hosts that exist throughout.
fn base(origins: &[Origin]) -> Config {
    let addrs: Vec<_> = origins.iter().map(Origin::addr).collect();
    Config::new()
        .job("app", &addrs)
        .job("side", &addrs[..1])
        .route("http://app.test", &[("app", 0.0)])
        .route("http://wide.test/*", &[("app", 60.0), ("side", 0.0)])
        .route("http://*.wild.test", &[("app", 0.0)])
}

/// One change, or a set of them, that leaves every base host served.
fn churn(admin: &Admin, origins: &[Origin], rng: &mut Rng) {
    let addr = |n: usize| origins[n % origins.len()].addr();
    let number = rng.below(50);
    let extra = format!("http://extra{number}.test");
    let pick = rng.below(origins.len());
    let changes: Vec<Value> = match rng.below(9) {
        0 => vec![put_job("app", &[addr(pick), addr(pick + 1)])],
        1 => vec![put_job("app", &origins.iter().map(Origin::addr).collect::<Vec<_>>())],
        2 => vec![set_weight("http://wide.test", "app", [0.0, 10.0, 60.0, 99.5][rng.below(4)])],
        3 => vec![set_weight("http://wide.test", "side", [0.0, 5.0, -1.0][rng.below(3)])],
        4 => {
            vec![put_target(&extra, "app", 0.0), put_target(&format!("{extra}/deep"), "side", 0.0)]
        }
        5 => vec![put_target(&extra, "side", 1.0), remove_route(&extra)],
        6 => {
            let acl = ["deny 10.0.0.0/8", "", "deny 127.0.0.0/8"][rng.below(3)];
            vec![put_guarded_job("side", acl, &[addr(pick)])]
        }
        7 => vec![put_target("http://a.wild.test", "app", 0.0)],
        _ => vec![put_target("http://a.wild.test", "app", 0.0), remove_route("http://a.wild.test")],
    };
    admin.apply(&changes);
}

/// Keep-alive clients, a client with a new connection each time, an uploader, a downloader.
fn start_load(weather: &Arc<Weather>, router: &Router) -> Vec<JoinHandle<()>> {
    let hosts = ["app.test", "wide.test", "a.wild.test", "b.wild.test"];
    (0..5)
        .map(|kind| {
            let (weather, addr) = (Arc::clone(weather), router.http());
            std::thread::spawn(move || {
                let _alarm = Alarm(Arc::clone(&weather));
                let (mut client, mut count) = (Client::connect(addr), kind * 1_000_000);
                while weather.lasts() {
                    match kind {
                        0 => client = Client::connect(addr),
                        1 => upload(&mut client, count),
                        2 => download(&mut client, count),
                        _ => {}
                    }
                    ask_host(&mut client, hosts[count % hosts.len()], count);
                    weather.requests.fetch_add(1, SeqCst);
                    count += 1;
                }
            })
        })
        .collect()
}

fn ask<S: tests::client::Stream>(client: &mut Client<S>, count: usize) {
    ask_host(client, "app.test", count);
}

fn ask_host<S: tests::client::Stream>(client: &mut Client<S>, host: &str, count: usize) {
    let target = format!("/echo/{count}");
    let response = client.get(host, &target);
    assert_eq!((response.status, response.text()), (200, target), "{host}: {:?}", response.fields);
    assert!(!response.says_close(), "a connection was ended for no reason of the client's");
}

fn upload(client: &mut Client, count: usize) {
    let body = pattern(count as u64, 1 + count % 70_000);
    client.send("POST /up HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunked(&body, 10_007, &[]));
    let response = client.response();
    assert_eq!(response.status, 200);
    assert!(response.body.bytes == body, "an upload came back changed");
}

fn download(client: &mut Client, count: usize) {
    let size = count % 300_000;
    let response = client.get("wide.test", &format!("/down/{size}"));
    assert_eq!(response.status, 200);
    assert!(response.body.bytes == pattern(0, size), "a download is wrong");
}

/// Echoes targets and uploads, and serves patterns of any size.
fn serving_origin(name: &str) -> Origin {
    Origin::scripted(name, |exchange| {
        exchange.read_body()?;
        let target = exchange.request.target.clone();
        if let Some(size) = target.strip_prefix("/down/") {
            let size = size.parse().map_err(std::io::Error::other)?;
            return exchange.answer("200 OK", &[], &pattern(0, size));
        }
        if target == "/up" {
            let body = std::mem::take(&mut exchange.request.body.bytes);
            return exchange.answer("200 OK", &[], &body);
        }
        exchange.answer_target()
    })
}

/// Small and seeded: the same changes in the same order in each run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 >> 33) % bound as u64;
        usize::try_from(mixed).expect("below a bound that is a usize")
    }
}
