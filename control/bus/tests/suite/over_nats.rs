//! What only the NATS world can do: lose its server, and come back.
//!
//! Deliberately absent: a broken network without a reset; the client's pings notice it within seconds, too slow for here.

use crate::until::until;
use crate::{Ends, LONG, read, two_over_nats};
use bus::nats::{Nats, NatsConf, NatsTls};
use bus::{Bus, BusError, Clock, Incoming, Next, Sender, Subscription, World};
use bytes::Bytes;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use tests::Nats as Server;
use tokio::time::{Instant, timeout};

/// Tries until it is not away any more.
async fn publish_when_here(bus: &Bus, subject: &str, body: u32) {
    until("the server is back", async || match bus.publish(subject, &body).await {
        Err(why) if !matches!(why, BusError::Away(_)) => panic!("{why}"),
        sent => sent,
    })
    .await;
}

async fn away(bus: &Bus) {
    until("a dead server is noticed", async || match bus.publish("t.away", &0_u32).await {
        Ok(()) => Err(()),
        Err(_) => Ok(()),
    })
    .await;
}

async fn told_lost(subscription: &mut Subscription) {
    match timeout(LONG, subscription.next()).await.expect("nothing was told") {
        Some(Next::Lost(0)) => {}
        other => panic!("{other:?}"),
    }
}

/// Goal: a server that is killed and comes back costs messages, but no subscription, and everybody is told.
#[tokio::test]
async fn a_killed_server_comes_back() {
    let Some(mut server) = Server::start(&[]) else { return };
    let Ends { a, b } = two_over_nats(&server).await;
    let (a, b) = (
        Bus::new(a, Sender::new("jm", 1), Clock::system()),
        Bus::new(b, Sender::new("im", 1), Clock::system()),
    );
    let mut exact = b.subscribe("t.back", None).await.unwrap();
    let mut wild = a.subscribe("t.*", None).await.unwrap();
    let questions = b.subscribe("u.ask", Some("g")).await.unwrap();
    crate::answering(questions, |asked| asked + 1);
    a.publish("t.back", &1_u32).await.unwrap();
    assert_eq!((read::<u32>(&mut exact).await, read::<u32>(&mut wild).await), (1, 1));

    for round in 0..2_u32 {
        server.kill();
        away(&a).await;
        away(&b).await;
        // Away is said at once, not after a time-out.
        let began = Instant::now();
        let refused = a.request::<_, u32>("u.ask", &1_u32, LONG).await;
        assert!(matches!(refused, Err(BusError::Away(_))), "{refused:?}");
        assert!(began.elapsed() < LONG / 2);

        server.again();
        // Lost is told when all is in force again, so nothing that is sent after it is missed.
        told_lost(&mut exact).await;
        told_lost(&mut wild).await;
        publish_when_here(&a, "t.back", 10 + round).await;
        assert_eq!(read::<u32>(&mut exact).await, 10 + round);
        assert_eq!(read::<u32>(&mut wild).await, 10 + round);
        // The other end may still be on its way back.
        let answer = until("the other end is back", async || {
            match a.request::<_, u32>("u.ask", &5_u32, LONG).await {
                Err(nobody @ BusError::NoResponders { .. }) => Err(nobody),
                answer => Ok(answer.unwrap()),
            }
        })
        .await;
        assert_eq!(answer, 6);
    }
}

/// Goal: what was sent while the server was away is refused, not delivered when it is no longer meant.
#[tokio::test]
async fn nothing_is_sent_late() {
    let Some(mut server) = Server::start(&[]) else { return };
    let Ends { a, b } = two_over_nats(&server).await;
    let mut subscription = b.subscribe("t.late", None, 1_000).await.unwrap();
    server.kill();
    let bus = Bus::new(Arc::clone(&a), Sender::new("jm", 1), Clock::system());
    away(&bus).await;
    for _ in 0..500 {
        assert!(matches!(
            a.publish("t.late", Bytes::from_static(b"late"), None).await,
            Err(BusError::Away(_))
        ));
    }
    server.again();
    assert_eq!(timeout(LONG, subscription.next()).await.unwrap(), Some(Incoming::Lost(0)));
    publish_when_here(&bus, "t.late", 1).await;
    let Some(Incoming::Message(first)) = timeout(LONG, subscription.next()).await.unwrap() else {
        panic!("nothing came")
    };
    assert_ne!(first.payload, "late");
}

/// Goal: a process may start before its bus.
#[tokio::test]
async fn a_server_may_come_later() {
    let Some(mut server) = Server::start(&[]) else { return };
    server.kill();
    let world = connect(NatsConf { urls: vec![server.url()], ..NatsConf::default() }).await;
    let bus = Bus::new(world, Sender::new("jm", 1), Clock::system());
    assert!(matches!(bus.publish("t.x", &1_u32).await, Err(BusError::Away(_))));
    server.again();
    // Waits for the server instead of refusing at once.
    let mut subscription = bus.subscribe("t.x", None).await.unwrap();
    publish_when_here(&bus, "t.x", 3).await;
    assert_eq!(read::<u32>(&mut subscription).await, 3);
}

/// Goal: a login is used, a wrong one is away and not a crash.
#[tokio::test]
async fn logins_are_used() {
    let with =
        |user: Option<&str>, password: Option<&str>, token: Option<&str>, url: String| NatsConf {
            urls: vec![url],
            user: user.map(str::to_owned),
            password: password.map(str::to_owned),
            token: token.map(str::to_owned),
            ..NatsConf::default()
        };
    let Some(server) = Server::start(&["--user", "u", "--pass", "p"]) else { return };
    let right = connect(with(Some("u"), Some("p"), None, server.url())).await;
    right.publish("t.x", Bytes::new(), None).await.unwrap();
    let wrong = connect(with(Some("u"), Some("q"), None, server.url())).await;
    let refused = wrong.publish("t.x", Bytes::new(), None).await.err();
    assert!(
        matches!(&refused, Some(BusError::Away(why)) if why.contains("authorization violation")),
        "{refused:?}"
    );
    let Some(server) = Server::start(&["--auth", "secret"]) else { return };
    let right = connect(with(None, None, Some("secret"), server.url())).await;
    right.publish("t.x", Bytes::new(), None).await.unwrap();
}

/// Writes an authority and one certificate of it; the directory goes with the value.
struct Certificates(PathBuf);

impl Certificates {
    fn make() -> Self {
        let dir = std::env::temp_dir().join(format!("bus-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let openssl = |args: &[&str]| {
            let key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
            let made = Command::new("openssl")
                .current_dir(&dir)
                .args(key)
                .args(["-nodes"])
                .args(args)
                .output();
            let made = made.expect("openssl is installed wherever the tests run");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        };
        openssl(&["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]);
        let of = ["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "one.key", "-out", "one.pem"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        let name = ["-subj", "/CN=nats", "-addext", "subjectAltName=IP:127.0.0.1"];
        openssl(&[&of[..], &leaf, &name].concat());
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Goal: TLS with an authority of one's own works, with proof of both sides, and nothing is said without it.
#[tokio::test]
async fn tls_is_used() {
    let certificates = Certificates::make();
    let file = |name: &str| certificates.file(name).to_str().unwrap().to_owned();
    let (authority, certificate, key) = (file("ca.pem"), file("one.pem"), file("one.key"));
    let args =
        ["--tlsverify", "--tlscert", &certificate, "--tlskey", &key, "--tlscacert", &authority];
    let Some(server) = Server::start(&args) else { return };
    let trusting = NatsTls {
        authorities: Some(authority.into()),
        identity: Some((certificate.into(), key.into())),
    };
    let nameless = NatsTls { identity: None, ..trusting.clone() };
    let conf = |tls| NatsConf { urls: vec![server.url()], tls, ..NatsConf::default() };
    let right = connect(conf(Some(trusting))).await;
    let mut subscription = right.subscribe("t.tls", None, 4).await.unwrap();
    right.publish("t.tls", Bytes::from_static(b"x"), None).await.unwrap();
    assert!(matches!(timeout(LONG, subscription.next()).await, Ok(Some(Incoming::Message(_)))));
    // The server does not know this one; the system's authorities do not know the server.
    for tls in [Some(nameless), None] {
        let wrong = connect(conf(tls)).await;
        let refused = wrong.publish("t.x", Bytes::new(), None).await;
        assert!(matches!(refused, Err(BusError::Away(_))), "{refused:?}");
    }
}

async fn connect(conf: NatsConf) -> Arc<dyn World> {
    Nats::connect(&conf).await.unwrap()
}
