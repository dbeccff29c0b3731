//! The whole feed with real cores, real sockets and the bus of one process; job and instance managers are scripts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::{Bus, Clock, Next, Sender, Until, World};
use router::run::EngineChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::announce::{Drain, Drained, EndpointChange, EndpointUp};
use wire::job::RouteKind;
use wire::routing::{
    Await, Awaited, Explain, Explained, Proof, Proved, RouteTo, RouterBeat, RoutesPageRequest,
};
use wire::{ImId, InstanceId, JobId, RouterId, subject};

use super::truth::{Manager, Rng, Store, routes, to, up};
use crate::{Running, Settings};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// The rest of the cluster.
pub(super) struct Script {
    world: Arc<dyn World>,
    bus: Bus,
    pub(super) store: Mutex<Store>,
    pub(super) manager: Mutex<Manager>,
    rng: Mutex<Rng>,
}

impl Script {
    async fn start() -> Arc<Self> {
        Self::on(bus::local::Local::new()).await
    }

    /// On a world of the caller's.
    pub(super) async fn on(world: Arc<dyn World>) -> Arc<Self> {
        let bus = Bus::new(Arc::clone(&world), Sender::new("script", 1), Clock::system());
        let epoch = bus.clock().unix_ms();
        let script = Arc::new(Self {
            world,
            bus,
            store: Mutex::default(),
            manager: Mutex::new(Manager::new(ImId(id(77)), epoch)),
            rng: Mutex::new(Rng(1)),
        });
        let mut pages = script.bus.subscribe(subject::ROUTES_PAGE, Some("jm")).await.unwrap();
        let mut wholes =
            script.bus.subscribe(&subject::im_endpoints_all(ImId(id(77))), None).await.unwrap();
        let answering = Arc::clone(&script);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(Next::Message(asked)) = pages.next() => {
                        let after = asked.decode::<RoutesPageRequest>().unwrap().after;
                        let page = answering.store.lock().unwrap().page(after);
                        drop(asked.reply(&page).await);
                    }
                    Some(Next::Message(asked)) = wholes.next() => {
                        let all = answering.manager.lock().unwrap().all();
                        drop(asked.reply(&all).await);
                    }
                    else => return,
                }
            }
        });
        script
    }

    /// Writes a job, tells it, and returns the revision.
    pub(super) async fn job(&self, job: u128, name: &str, list: Vec<RouteTo>) -> u64 {
        let job = JobId(id(job));
        let change = {
            let list = (!list.is_empty()).then(|| routes(job, name, 0, list));
            self.store.lock().unwrap().write(&mut self.rng.lock().unwrap(), job, list)
        };
        self.publish(subject::ROUTES_CHANGED, &change).await;
        change.revision
    }

    pub(super) async fn announce(&self, changes: Vec<EndpointChange>) -> (ImId, u64, u64) {
        let told = self.manager.lock().unwrap().change(changes);
        self.publish(subject::IM_ENDPOINTS, &told).await;
        (told.im, told.epoch, told.seq)
    }

    pub(super) async fn beats(&self) {
        let (routes, endpoints) =
            (self.store.lock().unwrap().beat(), self.manager.lock().unwrap().beat());
        self.publish(subject::ROUTES_BEAT, &routes).await;
        self.publish(subject::IM_ENDPOINTS_BEAT, &endpoints).await;
    }

    async fn publish<T: serde::Serialize + Sync>(&self, subject: &str, body: &T) {
        self.bus.publish(subject, body).await.unwrap();
    }

    async fn live(&self, revision: u64, announced: Option<(ImId, u64, u64)>) -> Awaited {
        let question = Await { revision, job: None, announced, timeout_ms: 10_000 };
        self.bus.request(subject::ROUTER_AWAIT, &question, PATIENCE).await.unwrap()
    }
}

/// A router with two cores, and its feed.
struct Edge {
    cores: router::run::Running,
    feed: Running,
    stop: CancellationToken,
    http: SocketAddr,
}

impl Edge {
    fn start(script: &Script, number: u128, table_file: Option<PathBuf>) -> Self {
        let settings = router::settings::Settings {
            http: vec!["127.0.0.1:0".parse().unwrap()],
            cores: Some(2),
            ..Default::default()
        };
        let nothing = route::Desired::default();
        let cores = router::run::prepare(settings, &nothing, None, EngineChoice::Auto).unwrap();
        let http = cores.hub.listeners().iter().find(|(kind, _)| *kind == "http").unwrap().1;
        let stop = CancellationToken::new();
        let bus = Bus::new(
            Arc::clone(&script.world),
            Sender::new("router", number),
            script.bus.clock().clone(),
        );
        let settings =
            Settings { router: RouterId(id(number)), hostname: "edge".to_owned(), table_file };
        let feed = crate::start(settings, bus, Arc::clone(&cores.hub), stop.clone()).unwrap();
        // The table of the file is there; a client that came now would be told the truth, but nobody is let in yet.
        assert!(std::net::TcpStream::connect(http).is_err());
        let cores = cores.serve(Vec::new()).unwrap();
        Self { cores, feed, stop, http }
    }

    /// Started, and heard: from now on it answers.
    async fn heard(script: &Script, number: u128, table_file: Option<PathBuf>) -> Self {
        let mut beats = script.bus.subscribe(subject::ROUTER_BEAT, None).await.unwrap();
        let edge = Self::start(script, number, table_file);
        let told = async {
            loop {
                let Some(Next::Message(told)) = beats.next().await else { panic!("no beat") };
                if told.decode::<RouterBeat>().unwrap().router == edge.feed.router {
                    return;
                }
            }
        };
        timeout(PATIENCE, told).await.unwrap();
        edge
    }

    async fn end(self) {
        self.stop.cancel();
        self.feed.ended().await;
        self.cores.stop();
    }

    /// Status and body.
    async fn get(&self, host: &str, path: &str) -> (u16, String) {
        get(self.http, host, path).await
    }
}

async fn get(http: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(http).await.unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// Answers with its name; `/slow` only when told to.
struct Origin {
    addr: SocketAddr,
    asked: Arc<Notify>,
    go: Arc<Notify>,
}

impl Origin {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let of_socket = (Arc::clone(&asked), Arc::clone(&go));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (asked, go) = of_socket.clone();
                tokio::spawn(serve(socket, name, asked, go));
            }
        });
        Self { addr, asked, go }
    }

    fn up(&self, instance: u128, job: u128, port: u16) -> EndpointUp {
        up(InstanceId(id(instance)), JobId(id(job)), port, self.addr)
    }
}

async fn serve(mut socket: TcpStream, name: &str, asked: Arc<Notify>, go: Arc<Notify>) {
    let mut head = Vec::new();
    while let Ok(1..) = socket.read_buf(&mut head).await {
        let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        if head.starts_with(b"GET /slow") {
            asked.notify_one();
            go.notified().await;
        }
        head.drain(..end + 4);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Goal: an announcement makes a job reachable, a change of weights is acknowledged and exact with a receipt, and the
/// router explains itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_announcement_to_receipt() {
    let script = Script::start().await;
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let edge = Edge::start(&script, 1, None);
    timeout(PATIENCE, edge.feed.ready()).await.unwrap();

    script.job(1, "a", vec![to(0, "app.test", 0.0)]).await;
    let both = vec![EndpointChange::Up(one.up(11, 1, 0)), EndpointChange::Up(two.up(12, 2, 8080))];
    let announced = script.announce(both).await;
    let revision = script.job(2, "b", vec![to(8080, "app.test", 75.0)]).await;
    let live = script.live(revision, Some(announced)).await;
    assert_eq!((live.cores, live.cores_total), (2, 2));

    let mut counts = BTreeMap::new();
    for _ in 0..40 {
        let (status, body) = edge.get("app.test", "/").await;
        assert_eq!(status, 200);
        *counts.entry(body).or_insert(0_u64) += 1;
    }
    let proof = Proof { kind: RouteKind::Http, endpoint: "app.test".to_owned() };
    let proved: Proved = script.bus.request(subject::ROUTER_PROOF, &proof, PATIENCE).await.unwrap();
    assert!(proved.latency_us.is_some());
    let receipt: BTreeMap<String, u64> =
        proved.jobs.iter().map(|job| (job.fqn.local().to_owned(), job.requests)).collect();
    assert_eq!((receipt["a"], receipt["b"]), (counts["one"], counts["two"]));
    for job in &proved.jobs {
        let off = (job.share * 40.0 - job.requests as f64).abs();
        assert!(off < f64::from(proved.cores), "{job:?}");
    }
    assert_eq!(proved.jobs.iter().map(|job| job.share).sum::<f64>(), 1.0);

    // The weights change, the receipt begins anew.
    let revision = script.job(1, "a", vec![to(0, "app.test", -10.0)]).await;
    assert_eq!(script.live(revision, None).await.cores, 2);
    for _ in 0..6 {
        assert_eq!(edge.get("app.test", "/").await, (200, "two".to_owned()));
    }
    let proved: Proved = script.bus.request(subject::ROUTER_PROOF, &proof, PATIENCE).await.unwrap();
    let b = proved.jobs.iter().find(|job| job.fqn.local() == "b").unwrap();
    assert_eq!((b.requests, b.share, b.port), (6, 1.0, 8080));

    let question =
        Explain { url: "http://app.test/x".to_owned(), from: "10.1.1.1".parse().unwrap() };
    let told: Explained =
        script.bus.request(subject::ROUTER_EXPLAIN, &question, PATIENCE).await.unwrap();
    assert_eq!(told.json["outcome"], "served");
    assert!(told.text.contains("job::/t::b:8080"), "{}", told.text);
    edge.end().await;
}

/// Goal: "idle" is said only when no core sends there any more and the last request has ended; asked again, it is said at
/// once; what is withdrawn by the question alone is withdrawn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_the_request_in_flight() {
    let script = Script::start().await;
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let edge = Edge::heard(&script, 1, None).await;
    let revision = script.job(1, "a", vec![to(0, "app.test", 0.0)]).await;
    let announced = script.announce(vec![EndpointChange::Up(one.up(11, 1, 0))]).await;
    assert_eq!(script.live(revision, Some(announced)).await.cores, 2);

    let http = edge.http;
    let slow = tokio::spawn(async move { get(http, "app.test", "/slow").await });
    timeout(PATIENCE, one.asked.notified()).await.unwrap();
    script.announce(vec![EndpointChange::Up(two.up(12, 1, 0))]).await;

    // The announcement itself is lost: the question says enough.
    let (im, epoch, seq) = {
        let mut manager = script.manager.lock().unwrap();
        let told = manager.change(vec![EndpointChange::Down(InstanceId(id(11)))]);
        (told.im, told.epoch, told.seq)
    };
    let mut drain = Drain { im, epoch, seq, endpoints: vec![one.up(11, 1, 0)], timeout_ms: 100 };
    // A core may be late on a loaded machine; "idle" is a lie at any time.
    let withdrawn = async {
        loop {
            let busy: Drained =
                script.bus.request(subject::ROUTER_DRAIN, &drain, PATIENCE).await.unwrap();
            assert!(!busy.idle, "{busy:?}");
            if busy.cores == 2 {
                return;
            }
        }
    };
    timeout(PATIENCE, withdrawn).await.unwrap();
    for _ in 0..6 {
        assert_eq!(edge.get("app.test", "/").await, (200, "two".to_owned()));
    }

    drain.timeout_ms = 10_000;
    let until = Until { count: 1, deadline: PATIENCE };
    let mut waiting = script.bus.request_many(subject::ROUTER_DRAIN, &drain, until).await.unwrap();
    assert!(timeout(Duration::from_millis(100), waiting.next()).await.is_err(), "it is not idle");
    one.go.notify_one();
    let idle: Drained = waiting.next().await.unwrap().decode().unwrap();
    assert!(idle.idle);
    assert_eq!(slow.await.unwrap(), (200, "one".to_owned()));
    let again: Drained = script.bus.request(subject::ROUTER_DRAIN, &drain, PATIENCE).await.unwrap();
    assert!(again.idle && again.ms < 1_000, "{again:?}");
    assert_eq!(edge.feed.numbers().drains_idle, 2);
    edge.end().await;
}

/// Goal: a router that restarts without a control plane serves the last good table at once; what changed while it was away
/// is there after one beat; what was withdrawn meanwhile does not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_serves_from_the_file_and_then_the_truth() {
    let folder = std::env::temp_dir().join(format!("feed-live-{}", std::process::id()));
    let file = folder.join("table.json");
    let script = Script::start().await;
    let (one, two) = (Origin::start("one").await, Origin::start("two").await);
    let edge = Edge::heard(&script, 1, Some(file.clone())).await;
    let revision = script.job(1, "a", vec![to(0, "app.test", 0.0)]).await;
    let announced = script.announce(vec![EndpointChange::Up(one.up(11, 1, 0))]).await;
    assert_eq!(script.live(revision, Some(announced)).await.cores, 2);
    edge.end().await;

    // A bus on which nobody is: nothing is removed, and it is ready at once.
    let nobody = Script { world: bus::local::Local::new(), ..alone() };
    let edge = Edge::start(&nobody, 2, Some(file.clone()));
    assert!(edge.feed.is_ready());
    assert_eq!(edge.get("app.test", "/").await, (200, "one".to_owned()));
    edge.end().await;

    // Meanwhile one goes and two comes.
    script
        .announce(vec![
            EndpointChange::Down(InstanceId(id(11))),
            EndpointChange::Up(two.up(12, 1, 0)),
        ])
        .await;
    script.job(2, "b", vec![to(0, "b.test", 0.0)]).await;
    let mut beats = script.bus.subscribe(subject::ROUTER_BEAT, None).await.unwrap();
    let edge = Edge::heard(&script, 3, Some(file.clone())).await;
    script.beats().await;
    let (revision, place) = (script.store.lock().unwrap().revision, {
        let manager = script.manager.lock().unwrap();
        (manager.id, manager.epoch, manager.seq)
    });
    assert_eq!(script.live(revision, Some(place)).await.cores, 2);
    assert_eq!(edge.get("app.test", "/").await, (200, "two".to_owned()));
    assert_eq!(edge.get("b.test", "/").await.0, 503);
    let beat = async {
        loop {
            let Some(Next::Message(told)) = beats.next().await else { panic!("no beat") };
            let beat: RouterBeat = told.decode().unwrap();
            if beat.revision == revision {
                return beat;
            }
        }
    };
    let beat = timeout(PATIENCE, beat).await.unwrap();
    assert_eq!((beat.routes, beat.cores, beat.ims), (2, 2, vec![place]));
    assert!(edge.feed.metrics_text().contains("feed_on_the_bus 1\n"));
    edge.end().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

fn alone() -> Script {
    let world = bus::local::Local::new();
    Script {
        bus: Bus::new(Arc::clone(&world), Sender::new("script", 2), Clock::system()),
        world,
        store: Mutex::default(),
        manager: Mutex::new(Manager::new(ImId(id(78)), 1)),
        rng: Mutex::new(Rng(2)),
    }
}

/// Goal: a router without a file is ready when somebody told it the whole, and not before: it would answer 404 for routes
/// that exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_router_waits_for_a_table() {
    let script = alone();
    let mut pages = script.bus.subscribe(subject::ROUTES_PAGE, None).await.unwrap();
    let edge = Edge::start(&script, 1, None);
    let Some(bus::Next::Message(asked)) = timeout(PATIENCE, pages.next()).await.unwrap() else {
        panic!("no question for the routes");
    };
    assert!(!edge.feed.is_ready());
    let page = script.store.lock().unwrap().page(None);
    asked.reply(&page).await.unwrap();
    timeout(PATIENCE, edge.feed.ready()).await.unwrap();
    edge.end().await;
}

/// Goal: whoever asks who is there need not wait for a beat; the answer says what a beat says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_between_beats() {
    let script = alone();
    let edge = Edge::heard(&script, 1, None).await;
    let asked = script.bus.request(subject::ROUTER_REPORT, &(), PATIENCE).await;
    let beat: RouterBeat = asked.unwrap();
    assert_eq!((beat.router, beat.cores, beat.leaving), (edge.feed.router, 2, false));
    edge.end().await;
}
