//! The API server over real HTTP: reading a job, and changing a weight, sixteen clients.
//!
//! The store is in memory: `records.rs` says what a durable commit costs on top. Deliberately absent: waiting until a
//! change is live; `edge.rs` measures that.

use std::sync::Arc;
use std::time::Instant;

use bus::{Bus, Clock, Sender};
use reqwest::Client;
use services::api;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use wire::Job;

use crate::row::{Report, Row};

const CLIENTS: usize = 16;
const TOKEN: &str = "a-token-for-the-bench";

pub(crate) async fn run(report: &mut Report) {
    if !report.wants("API server") {
        return;
    }
    let bus = Bus::new(bus::local::Local::new(), Sender::new("api", 0), Clock::system());
    let stop = CancellationToken::new();
    let mut settings = api::Settings::local("127.0.0.1:0".parse().expect("an address"));
    settings.tokens.push(("admin".to_owned(), TOKEN.to_owned()));
    let running =
        api::start(settings, bus, store::memory::store(), stop.clone()).await.expect("it starts");
    let base = format!("http://{}/v1/jobs", running.addr);
    let http = Client::builder().no_proxy().build().expect("a client");
    let mut jobs = Vec::new();
    for number in 0..CLIENTS {
        let mut job = Job::named(format!("job::/bench::api-{number}").parse().expect("a name"));
        job.ports = serde_json::from_value(serde_json::json!([{
            "number": 0, "routes": [{ "type": "http", "endpoint": format!("{number}.bench.test"), "weight": 0.0 }]
        }]))
        .expect("ports");
        let answer =
            http.post(&base).bearer_auth(TOKEN).json(&job).send().await.expect("an answer");
        jobs.push(answer.json::<Job>().await.expect("the job"));
    }
    for (name, writes) in [("API server, read a job", false), ("API server, change a weight", true)]
    {
        let row = Arc::new(Mutex::new(Row::begin()));
        let time = report.time();
        let tasks: Vec<_> = jobs
            .iter()
            .map(|job| {
                let (http, row, mut job) = (http.clone(), Arc::clone(&row), job.clone());
                let url = format!("{base}/{}", job.uuid);
                tokio::spawn(async move {
                    while row.lock().await.age() < time {
                        let since = Instant::now();
                        let request = if writes {
                            let weight = &mut job.ports[0].routes[0].weight;
                            *weight = if *weight > 50.0 { 10.0 } else { *weight + 1.0 };
                            http.put(&url).json(&job)
                        } else {
                            http.get(&url)
                        };
                        let answer = request.bearer_auth(TOKEN).send().await.expect("an answer");
                        assert_eq!(answer.status(), 200);
                        job = answer.json().await.expect("the job");
                        row.lock().await.done(since);
                    }
                    job
                })
            })
            .collect();
        for (task, job) in tasks.into_iter().zip(&mut jobs) {
            *job = task.await.expect("a client does not panic");
        }
        report.print(name, &*row.lock().await);
    }
    stop.cancel();
    running.ended().await;
}
