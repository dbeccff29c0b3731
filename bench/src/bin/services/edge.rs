//! From an announcement to the first 200 through the edge: bus, feed, commit on all cores, request, instance.
//!
//! The origin listens already; what an instance manager adds before (noticing that a port answers) is in the legs of each
//! start, `apc app instances --json`. Router, feed and sockets are real. Deliberately absent: throughput of the router.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, Clock, Next, Sender};
use router::run::EngineChoice;
use router::settings::Settings;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::announce::{AnnounceBeat, Announcement, EndpointChange, EndpointUp, EndpointsAll};
use wire::digest::Digest;
use wire::job::RouteKind;
use wire::routing::{Await, Awaited, JobRoutes, RouteTo, RoutesPage};
use wire::{ImId, InstanceId, JobId, RouterId, subject};

use crate::row::{Report, Row};

/// Far beyond any time that is worth measuring.
const GIVE_UP: Duration = Duration::from_secs(20);

pub(crate) async fn run(report: &mut Report) {
    let name = "announcement → first 200 through the edge";
    if !report.wants(name) {
        return;
    }
    let origin = origin();
    let settings =
        Settings { http: vec!["127.0.0.1:0".parse().expect("an address")], ..Settings::default() };
    let running = router::run::start(
        settings,
        &route::Desired::default(),
        None,
        EngineChoice::Auto,
        Vec::new(),
    )
    .expect("the router starts");
    let http = running.hub.listeners()[0].1;
    let bus = Bus::new(bus::local::Local::new(), Sender::new("router", 0), Clock::system());
    let stop = CancellationToken::new();
    let settings = feed::Settings {
        router: RouterId(Uuid::new_v4()),
        hostname: "bench".to_owned(),
        table_file: None,
    };
    let feed = feed::start(settings, bus.clone(), Arc::clone(&running.hub), stop.clone())
        .expect("it starts");
    let jobs = report.size(500, 5) as u64;
    answer(&bus, jobs).await;
    feed.ready().await;
    let first = AnnounceBeat { im: ImId(id(0, 3)), epoch: 1, seq: 0, digest: Digest::default() };
    bus.publish(subject::IM_ENDPOINTS_BEAT, &first).await.expect("the bus is there");
    until_known(&bus, ImId(id(0, 3))).await;
    let mut row = Row::begin();
    let mut digest = Digest::default();
    for number in 1..=jobs {
        let up = EndpointUp {
            instance: InstanceId(id(number, 2)),
            job: JobId(id(number, 1)),
            port: 0,
            addr: origin,
        };
        digest.add(&up.digest_bytes());
        let changes = vec![EndpointChange::Up(up)];
        let announcement =
            Announcement { im: ImId(id(0, 3)), epoch: 1, seq: number, changes, digest };
        let since = Instant::now();
        bus.publish(subject::IM_ENDPOINTS, &announcement).await.expect("the bus is there");
        tokio::task::spawn_blocking(move || until_served(http, number))
            .await
            .expect("a client does not panic");
        row.done(since);
    }
    report.print(name, &row);
    stop.cancel();
    feed.ended().await;
    running.stop();
}

/// Until the router has the whole of an instance manager's endpoints, which it asks for when it first hears of it.
async fn until_known(bus: &Bus, im: ImId) {
    let timeout_ms = u64::try_from(GIVE_UP.as_millis()).expect("seconds");
    let question = Await { revision: 0, job: None, announced: Some((im, 1, 0)), timeout_ms };
    let known: Awaited =
        bus.request(subject::ROUTER_AWAIT, &question, GIVE_UP * 2).await.expect("the router lives");
    assert_eq!(known.cores, known.cores_total, "the whole was not asked for within {GIVE_UP:?}");
}

const fn id(number: u64, kind: u128) -> Uuid {
    Uuid::from_u128((kind << 64) + number as u128)
}

/// Plays the job manager and the instance manager for a feed that asks for the whole.
async fn answer(bus: &Bus, jobs: u64) {
    let mut pages = bus.subscribe(subject::ROUTES_PAGE, None).await.expect("the bus is there");
    tokio::spawn(async move {
        while let Some(Next::Message(question)) = pages.next().await {
            let jobs = (1..=jobs).map(routes).collect();
            let page = RoutesPage { revision: 1_000_000, jobs, next: None, digest: None };
            question.reply(&page).await.ok();
        }
    });
    let im = ImId(id(0, 3));
    let mut all =
        bus.subscribe(&subject::im_endpoints_all(im), None).await.expect("the bus is there");
    tokio::spawn(async move {
        while let Some(Next::Message(question)) = all.next().await {
            question
                .reply(&EndpointsAll { im, epoch: 1, seq: 0, endpoints: Vec::new() })
                .await
                .ok();
        }
    });
}

fn routes(number: u64) -> JobRoutes {
    let to = RouteTo {
        port: 0,
        kind: RouteKind::Http,
        endpoint: format!("{number}.bench.test"),
        weight: 0.0,
        https_only: false,
    };
    JobRoutes {
        job: JobId(id(number, 1)),
        fqn: format!("job::/bench::edge-{number}").parse().expect("a name"),
        revision: number,
        client_acl: String::new(),
        routes: vec![to],
    }
}

/// Asks on one connection until the answer is 200.
fn until_served(http: SocketAddr, number: u64) {
    let mut stream = TcpStream::connect(http).expect("the router listens");
    stream.set_nodelay(true).expect("a socket");
    let request = format!("GET / HTTP/1.1\r\nHost: {number}.bench.test\r\n\r\n");
    let mut buffer = [0; 4096];
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < GIVE_UP, "{number}.bench.test is not served");
        stream.write_all(request.as_bytes()).expect("the router lives");
        let count = stream.read(&mut buffer).expect("the router answers");
        assert!(count > 0, "the router closed the connection");
        if buffer[..count].starts_with(b"HTTP/1.1 200") {
            return;
        }
    }
}

/// Answers everything with 200, on threads of its own.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    addr
}
