//! The API server: HTTP in, store and bus behind it.
//!
//! ```text
//!   door (connections) ──▶ finish (request id, errors) ──▶ auth ──▶ handler ──▶ store: jobs, packages, tasks
//!                                                                     └──────▶ bus: what runs, what routers say
//! ```
//!
//! Any number of servers run side by side: what two of them must agree about is a compare-and-set in the store. Every
//! handler asks `authorize` first, is written down in `openapi.rs`, and answers mistakes in one form. Deliberately
//! absent: deciding where instances run, and everything else that goes on without a client.

mod auth;
mod cluster;
mod door;
mod events;
mod info;
mod jobs;
mod list;
mod logs;
mod once;
mod openapi;
mod packages;
mod received;
mod resources;
mod respond;
mod routers;
mod seats;
mod seen;
mod state;
mod stream;
mod tasks;
mod watch;

#[cfg(test)]
mod tests;

pub use door::Patience;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};
use bus::{Bus, Subscription};
use door::Door;
use state::{Api, Shared};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Version of the interface, the `1` of `/v1`.
pub const API_VERSION: u32 = 1;
/// After the end was asked for, running requests have this long.
const GRACE: Duration = Duration::from_secs(5);
/// How long a start waits for the bus.
const BUS_WAIT: Duration = Duration::from_secs(1);

/// What an API server is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 = a free one.
    pub listen: SocketAddr,
    /// Where clients reach it, `http://…`; none = the address it listens on.
    pub url: Option<String>,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Suffix of default routes.
    pub cluster_domain: String,
    /// Port of the routers for http, as clients see it.
    pub http_port: u16,
    /// The same for https; 0 = the cluster has no https.
    pub https_port: u16,
    /// Where tcp `auto` opens ports; none = nowhere.
    pub tcp: Option<TcpPorts>,
    /// Principals and their secrets. Without one, nobody gets in.
    pub tokens: Vec<(String, String)>,
    /// Of the program.
    pub version: String,
    /// For clients that stall.
    pub patience: Patience,
    /// Of the random numbers; none = from the operating system.
    pub seed: Option<u64>,
}

/// Ports for tcp `auto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpPorts {
    /// Address of the router.
    pub host: IpAddr,
    /// The lowest free one is taken.
    pub ports: RangeInclusive<u16>,
}

impl Settings {
    /// A cluster on this machine, with nobody in it.
    #[must_use]
    pub fn local(listen: SocketAddr) -> Self {
        Self {
            listen,
            url: None,
            cluster_name: "Continuum".to_owned(),
            cluster_domain: "apcera.test".to_owned(),
            http_port: 8080,
            https_port: 0,
            tcp: None,
            tokens: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            patience: Patience::default(),
            seed: None,
        }
    }
}

/// Why an API server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or is not ours.
    #[error("the API cannot listen on {listen}: {why}")]
    Listen {
        /// Asked for.
        listen: SocketAddr,
        /// The system's words.
        why: String,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// No way to the package managers; the process must have a crypto provider.
    #[error("the API cannot talk to package managers: {0}")]
    Client(String),
}

/// An API server that runs.
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Which of the API servers it is.
    pub id: Uuid,
    done: JoinHandle<()>,
}

impl Running {
    /// Returns when the server has ended.
    pub async fn ended(self) {
        if let Err(error) = self.done.await {
            tracing::error!(%error, "the API server ended by a mistake of ours");
        }
    }
}

/// Starts an API server. It runs until `stop` is cancelled, whether bus and store are there or not.
pub async fn start(
    settings: Settings,
    bus: Bus,
    store: Store,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let listen = settings.listen;
    let refused = |error: std::io::Error| StartError::Listen { listen, why: error.to_string() };
    let tcp = tokio::net::TcpListener::bind(listen).await.map_err(refused)?;
    let addr = tcp.local_addr().map_err(refused)?;
    let url = settings.url.clone().unwrap_or_else(|| format!("http://{addr}"));
    let patience = settings.patience;
    let api = Api::new(settings, url, bus, store, stop)?;
    let id = api.id;
    let seats = Arc::new(Semaphore::new(patience.connections_max));
    let door = Door { tcp, seats, patience, cut: CancellationToken::new() };
    // What a server says of the routers is true from its first answer on; a bus that is away is waited for elsewhere.
    let beats = api.bus.subscribe(wire::subject::ROUTER_BEAT, None);
    let beats = tokio::time::timeout(BUS_WAIT, beats).await.ok().and_then(Result::ok);
    let done = tokio::spawn(serve(Arc::new(api), door, beats));
    tracing::info!(%addr, %id, "the API listens");
    Ok(Running { addr, id, done })
}

async fn serve(api: Shared, door: Door, beats: Option<Subscription>) {
    let (stop, cut) = (api.stop.clone(), door.cut.clone());
    let beats = tokio::spawn(routers::listen(Arc::clone(&api), beats));
    let tasks = tokio::spawn(tasks::work::run(Arc::clone(&api)));
    let serving =
        axum::serve(door, paths(api)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let serving = async {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API does not listen any more");
        }
    };
    let last_call = async move {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
        cut.cancel();
    };
    // Connections that were cut end at once, so serving ends in either case.
    let cutting = tokio::spawn(last_call);
    serving.await;
    cutting.abort();
    for task in [beats, tasks] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a loop of the API server ended by a mistake of ours");
        }
    }
}

/// Every path, with `/v1` and without.
fn paths(api: Shared) -> Router {
    let closed = closed().route_layer(from_fn_with_state(Arc::clone(&api), auth::check));
    let all = closed.merge(open());
    Router::new()
        .nest("/v1", all.clone())
        .merge(all)
        .fallback(respond::no_such_path)
        .layer(from_fn_with_state(Arc::clone(&api), respond::finish))
        .with_state(api)
}

/// For everybody.
fn open() -> Router<Shared> {
    Router::new()
        .route("/info", get(info::info))
        .route("/version", get(info::version))
        .route("/openapi.json", get(openapi::get))
        .route("/healthz", get(info::healthz))
}

/// For those who have a token.
fn closed() -> Router<Shared> {
    Router::new()
        .route("/namespace/default", get(info::default_namespace))
        .route("/jobs", get(jobs::list).post(jobs::write::create))
        .route("/jobs/check", post(jobs::write::check))
        .route("/jobs/health", get(jobs::healths))
        .route("/jobs/routes", get(jobs::routes::list))
        .route("/jobs/routes/{*endpoint}", get(jobs::routes::get))
        .route("/jobs/{uuid}", get(jobs::get).put(jobs::write::update).delete(jobs::write::delete))
        .route("/jobs/{uuid}/restart", post(jobs::write::restart))
        .route("/jobs/{uuid}/instances", get(jobs::instances::list))
        .route("/jobs/{uuid}/instances/{instance}", delete(jobs::instances::stop))
        .route("/jobs/{uuid}/logs", get(logs::get))
        .route("/packages", get(packages::list).post(packages::create))
        .route("/packages/resources/{uuid}", get(resources::download))
        .route(
            "/packages/{uuid}",
            get(packages::get).put(packages::update).delete(packages::delete),
        )
        .route("/packages/{uuid}/resources/{resource}", put(resources::upload))
        .route("/events", get(events::get))
        .route("/watch", get(watch::get))
        .route("/instance_managers", get(cluster::list))
        .route("/instance_managers/{uuid}", get(cluster::get))
        .route("/instance_managers/{uuid}/instances", get(cluster::instances))
        .route("/tags", get(cluster::tags))
        .route("/tasks/{uuid}", get(tasks::get))
        .route("/routers", get(routers::list))
        .route("/routes/explain", post(routers::explain))
        .route("/routes/proof", post(routers::proof))
}
