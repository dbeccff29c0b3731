//! One cluster for a test: API servers, store, bus, and fakes of those who answer on the bus.

use crate::api::{Running, Settings, start};
use bus::{Bus, Clock, Next, Sender};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use store::Store;
use tokio_util::sync::CancellationToken;
use wire::health::{ImView, JobView, View, ViewRequest};
use wire::{JobId, subject};

pub(super) const SECRET: &str = "s3cret";

/// What the health manager knows.
#[derive(Clone, Default)]
pub(super) struct Known(pub Arc<Mutex<Views>>);

type Views = (BTreeMap<JobId, JobView>, Vec<ImView>);

pub(super) struct Cluster {
    pub bus: Bus,
    pub store: Store,
    pub known: Known,
    pub url: String,
    pub stop: CancellationToken,
    /// The first server.
    pub api: Option<Running>,
    http: reqwest::Client,
    fakes: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.fakes.cancel();
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status, code and message of an error; checks that the form is whole.
    pub(super) fn error(&self) -> String {
        let body = self.json();
        assert_eq!(body["code"], self.status.as_u16(), "{body}");
        assert_eq!(body["request_id"], self.header("x-request-id"), "{body}");
        let (code, message) = (body["error"].as_str().unwrap(), body["message"].as_str().unwrap());
        format!("{} {code}: {message}", self.status.as_u16())
    }
}

pub(super) fn settings() -> Settings {
    let mut settings = Settings::local("127.0.0.1:0".parse().unwrap());
    settings.tokens = vec![("admin".to_owned(), SECRET.to_owned())];
    settings.seed = Some(7);
    settings
}

impl Cluster {
    pub(super) async fn new() -> Self {
        Self::with(settings()).await
    }

    pub(super) async fn with(settings: Settings) -> Self {
        // Another test of this process may have been first.
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let bus = Bus::new(bus::local::Local::new(), Sender::new("api", 1), Clock::system());
        let store = store::sqlite::in_memory().await.unwrap();
        let stop = CancellationToken::new();
        let (known, fakes) = (Known::default(), CancellationToken::new());
        health_manager(&bus, &known, &fakes).await;
        let api = start(settings, bus.clone(), store.clone(), stop.clone()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}", api.addr);
        Self { bus, store, known, url, stop, api: Some(api), http, fakes }
    }

    /// Another server on the same bus and store, with a stop of its own.
    pub(super) async fn another(&self, seed: u64) -> (String, CancellationToken, Running) {
        let mut settings = settings();
        settings.seed = Some(seed);
        let stop = CancellationToken::new();
        let (bus, store) = (self.bus.clone(), self.store.clone());
        let api = start(settings, bus, store, stop.clone()).await.unwrap();
        (format!("http://{}", api.addr), stop, api)
    }

    /// Where the first server listens.
    pub(super) fn addr(&self) -> std::net::SocketAddr {
        self.api.as_ref().expect("it runs").addr
    }

    /// The fakes answer no more.
    pub(super) fn deaf(&self) {
        self.fakes.cancel();
    }

    pub(super) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { self.url.clone() + path };
        self.http.request(method, url).bearer_auth(SECRET)
    }

    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        Reply { status, headers, text: answer.text().await.unwrap() }
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(super) async fn post<T: Serialize + Sync>(&self, path: &str, body: &T) -> Reply {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(super) async fn put<T: Serialize + Sync>(&self, path: &str, body: &T) -> Reply {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    /// Creates a job on these http routes; its record.
    pub(super) async fn job(&self, name: &str, routes: &[&str]) -> Value {
        let reply = self.post("/v1/jobs", &job(name, routes)).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
        reply.json()
    }
}

pub(super) fn job(name: &str, routes: &[&str]) -> Value {
    let routes: Vec<_> =
        routes.iter().map(|endpoint| json!({ "type": "http", "endpoint": endpoint })).collect();
    json!({
        "fqn": format!("job::/sandbox/admin::{name}"),
        "ports": [{ "number": 0, "routes": routes }],
    })
}

/// Answers on a subject until the test ends. Listens before it returns.
pub(super) async fn answer<Q, A, F>(
    bus: &Bus,
    subject: &str,
    group: Option<&str>,
    stop: &CancellationToken,
    reply: F,
) where
    Q: serde::de::DeserializeOwned + Send,
    A: Serialize + Sync + Send,
    F: Fn(Q) -> Option<A> + Send + 'static,
{
    let mut questions = bus.subscribe(subject, group).await.unwrap();
    let stop = stop.clone();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Some(next) = questions.next().await {
            let Next::Message(message) = next else { continue };
            if let Some(answer) = reply(message.decode().unwrap()) {
                message.reply(&answer).await.unwrap();
            }
        }
    }));
}

async fn health_manager(bus: &Bus, known: &Known, stop: &CancellationToken) {
    let known = known.clone();
    answer(bus, subject::HM_VIEW, Some(subject::HM_GROUP), stop, move |asked: ViewRequest| {
        let known = known.0.lock().unwrap();
        let view = |job: &JobId| (*job, known.0.get(job).cloned().unwrap_or_default());
        Some(View {
            complete: true,
            jobs: asked.jobs.iter().map(view).collect(),
            ims: if asked.ims { known.1.clone() } else { Vec::new() },
        })
    })
    .await;
}
