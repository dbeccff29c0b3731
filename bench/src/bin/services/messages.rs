//! The bus: a question and its answer, and one message to a hundred listeners.
//!
//! Deliberately absent: the simulated bus; it has no real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, Clock, Next, Sender, World};

use crate::row::{Report, Row};

/// Listeners of a broadcast.
const LISTENERS: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(report: &mut Report, nats: Option<&str>) {
    both(report, "in process", bus::local::Local::new()).await;
    if let Some(url) = nats {
        let conf =
            bus::nats::NatsConf { urls: vec![url.to_owned()], ..bus::nats::NatsConf::default() };
        let world = bus::nats::Nats::connect(&conf).await.expect("nats-server answers");
        both(report, "NATS", world).await;
    }
}

async fn both(report: &mut Report, world: &str, bus: Arc<dyn World>) {
    let bus = Bus::new(bus, Sender::new("bench", 0), Clock::system());
    let name = format!("bus round trip, {world}");
    if report.wants(&name) {
        let mut questions = bus.subscribe("bench.ask", None).await.expect("the bus is there");
        let answering = tokio::spawn(async move {
            while let Some(Next::Message(question)) = questions.next().await {
                question.reply(&"an answer").await.expect("the bus is there");
            }
        });
        let mut row = Row::begin();
        while row.age() < report.time() {
            let since = Instant::now();
            let _: String =
                bus.request("bench.ask", &"a question", TIMEOUT).await.expect("it is answered");
            row.done(since);
        }
        report.print(&name, &row);
        answering.abort();
    }
    let name = format!("bus broadcast to {LISTENERS}, {world}");
    if report.wants(&name) {
        let (seen, mut count) = tokio::sync::mpsc::channel::<()>(LISTENERS);
        for _ in 0..LISTENERS {
            let mut all = bus.subscribe("bench.all", None).await.expect("the bus is there");
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Some(Next::Message(_)) = all.next().await {
                    if seen.send(()).await.is_err() {
                        return;
                    }
                }
            });
        }
        let mut row = Row::begin();
        while row.age() < report.time() {
            let since = Instant::now();
            bus.publish("bench.all", &"to everybody").await.expect("the bus is there");
            for _ in 0..LISTENERS {
                count.recv().await.expect("the listeners live");
            }
            row.time(since.elapsed());
            row.count(LISTENERS as u64);
        }
        report.print(&name, &row);
    }
}
