//! Package manager: takes, keeps and gives the contents of packages, by their digests.
//!
//! It has an HTTP port of its own, so that no package passes the bus, and says on the bus where that port is. What a
//! package is made of stands in the store; content that no package refers to goes after an hour. Any number may run:
//! over one S3 bucket they all have everything, over directories each has what was sent to it.
//!
//! Deliberately absent: packages' metadata (the API server writes that), unpacking, and building.

pub mod client;
mod collect;
mod http;
mod objects;
mod range;
pub mod s3;
#[cfg(test)]
mod tests;

pub use collect::{CollectError, plan};
pub use objects::{Object, ObjectError, Objects, Place, Reading, Stored, is_sha256};
pub use range::{Wanted, wanted};
pub use s3::Bucket;

use bus::{Bus, Next, Subscription};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::api::PmLocation;
use wire::subject;

/// Bytes that one resource may have, if nobody says otherwise.
pub const RESOURCE_BYTES_MAX: u64 = 2 << 30;
/// Between rounds of garbage collection.
pub const COLLECT_PERIOD: Duration = Duration::from_secs(600);
/// Content is never garbage before this age: its package may not be written yet.
pub const COLLECT_AGE: Duration = Duration::from_secs(3_600);
/// How long transfers may go on after the end was asked for.
const PARTING_WAIT: Duration = Duration::from_secs(5);
/// How long a start waits for the bus.
const BUS_WAIT: Duration = Duration::from_secs(1);
/// Waits after a failure of the bus, doubling.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What a package manager is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 = any.
    pub listen: SocketAddr,
    /// How others reach it; none = `http://` and the address on which it listens.
    pub url: Option<String>,
    /// Where objects are kept.
    pub place: Place,
    /// Bytes that one resource may have.
    pub resource_bytes_max: u64,
    /// Between rounds of garbage collection.
    pub collect_period: Duration,
    /// Content younger than this is never garbage.
    pub collect_age: Duration,
}

impl Settings {
    /// The defaults, at an address and a place.
    #[must_use]
    pub fn new(listen: SocketAddr, place: Place) -> Self {
        Self {
            listen,
            url: None,
            place,
            resource_bytes_max: RESOURCE_BYTES_MAX,
            collect_period: COLLECT_PERIOD,
            collect_age: COLLECT_AGE,
        }
    }
}

/// Why a package manager cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {listen} for packages: {why}")]
    Listen {
        /// Asked for.
        listen: SocketAddr,
        /// The system's words.
        why: std::io::Error,
    },
    /// The objects' place cannot be used.
    #[error("packages cannot be kept: {0}")]
    Place(ObjectError),
    /// Others would not know where to go.
    #[error("a package manager that listens on {0} must be told its url")]
    Url(SocketAddr),
}

/// A package manager that runs.
pub struct Running {
    /// As it speaks on the bus.
    pub id: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// How others reach it.
    pub url: String,
    tasks: JoinSet<()>,
}

impl Running {
    /// Returns when all of it has stopped.
    pub async fn ended(self) {
        crate::ended(self.tasks, "package manager").await;
    }
}

/// Starts one; it listens when this returns.
pub async fn start(
    settings: Settings,
    bus: Bus,
    store: Store,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let objects = Objects::open(&settings.place).map_err(StartError::Place)?;
    let listen = settings.listen;
    let refused = |why| StartError::Listen { listen, why };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let addr = listener.local_addr().map_err(refused)?;
    let url = match settings.url.clone() {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None if addr.ip().is_unspecified() => return Err(StartError::Url(addr)),
        None => format!("http://{addr}"),
    };
    let location = PmLocation { url: url.clone(), resource_bytes_max: settings.resource_bytes_max };
    let shelf = http::Shelf {
        objects: objects.clone(),
        bytes_max: settings.resource_bytes_max,
        uploads: Arc::new(Semaphore::new(http::UPLOADS_MAX)),
    };
    let id = bus.sender().id.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, shelf, stop.clone()));
    let (clock, ending) = (bus.clock().clone(), stop.clone());
    // Who starts us may ask at once; a bus that is away is waited for elsewhere.
    let questions = tokio::time::timeout(BUS_WAIT, bus.subscribe(subject::PM_LOCATE, None)).await;
    let questions = questions.ok().and_then(Result::ok);
    tasks.spawn(async move {
        ending.run_until_cancelled(tell_where(bus, location, questions)).await;
    });
    tasks.spawn(async move {
        let rounds = async {
            loop {
                tokio::time::sleep(settings.collect_period).await;
                let now_ms = clock.unix_ms();
                match collect::collect(&objects, &store, now_ms, settings.collect_age).await {
                    Ok(0) => {}
                    Ok(gone) => tracing::info!(gone, "content that nobody referred to was removed"),
                    Err(mistake) => tracing::warn!(%mistake, "garbage was left"),
                }
            }
        };
        stop.run_until_cancelled(rounds).await;
    });
    Ok(Running { id, addr, url, tasks })
}

/// Serves until the end is asked for and transfers are over, or a while later.
async fn serve(listener: TcpListener, shelf: http::Shelf, stop: CancellationToken) {
    let ending = stop.clone().cancelled_owned();
    let serving =
        axum::serve(listener, http::router(shelf)).with_graceful_shutdown(ending).into_future();
    let parting = async {
        stop.cancelled().await;
        tokio::time::sleep(PARTING_WAIT).await;
    };
    tokio::select! {
        served = serving => if let Err(mistake) = served {
            tracing::error!(%mistake, "the package manager's listener broke");
        },
        () = parting => tracing::warn!("transfers of packages were cut off at the end"),
    }
}

/// Answers everybody who asks where packages are.
async fn tell_where(bus: Bus, location: PmLocation, mut questions: Option<Subscription>) {
    let mut wait = WAIT_MIN;
    loop {
        while let Some(subscription) = &mut questions {
            match subscription.next().await {
                Some(Next::Message(message)) => {
                    wait = WAIT_MIN;
                    if let Err(mistake) = message.reply(&location).await {
                        tracing::warn!(%mistake, "an answer was not sent");
                    }
                }
                // Who was not heard asks again.
                Some(Next::Lost(_)) => {}
                None => {
                    questions = None;
                    tokio::time::sleep(wait).await;
                }
            }
        }
        match bus.subscribe(subject::PM_LOCATE, None).await {
            Ok(subscription) => questions = Some(subscription),
            Err(mistake) => {
                tracing::warn!(%mistake, "questions cannot be heard");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        }
    }
}
