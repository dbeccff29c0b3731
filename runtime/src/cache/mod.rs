//! Packages on this host: fetched once, checked by digest, kept until there is no room.
//!
//! `sha256/<hex>`; names are contents, so a file that is there is right. Deliberately absent: where a package comes
//! from is asked anew for each fetch, nobody is remembered.

mod fetch;
mod plan;
mod unpack;

pub use fetch::FetchError;
pub use plan::{Entry, evict};
pub use unpack::{ENTRIES_MAX, UNPACKED_BYTES_MAX, UnpackError, unpack};

use crate::environment::below;
use crate::settings::StartError;
use bus::{Bus, Until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wire::api::PmLocation;
use wire::placement::StartPackage;
use wire::subject::PM_LOCATE;

/// Package managers that are asked for one fetch.
const LOCATIONS_MAX: usize = 3;
/// For their answers.
const LOCATE_TIMEOUT: Duration = Duration::from_millis(300);
/// Rounds before a fetch is given up.
const ROUNDS_MAX: u32 = 5;
/// After the first round without success; doubles.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// Fetches at a time.
const FETCHES_MAX: usize = 4;
/// Packages that are laid out at a time.
const UNPACKS_MAX: usize = 4;

/// Why packages are not there.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Not `sha256:` and 64 digits.
    #[error("\"{0}\" is not a digest like sha256:…")]
    Digest(String),
    /// No package manager gave it.
    #[error("package content {hex} cannot be fetched: {why}")]
    Fetch {
        /// Which.
        hex: String,
        /// The last reason.
        why: String,
    },
    /// It is larger than all that may be kept.
    #[error("package content {hex} of {bytes} bytes is larger than the cache")]
    TooLarge {
        /// Which.
        hex: String,
        /// Its size.
        bytes: u64,
    },
    /// It has a place outside of the instance.
    #[error("install path \"{0}\" leads out of the instance")]
    Place(String),
    /// It was not laid out.
    #[error("package content {hex} {why}")]
    Unpack {
        /// Which.
        hex: String,
        /// Why not.
        why: UnpackError,
    },
    /// The cache's own files.
    #[error("the package cache cannot be used: {0}")]
    Files(#[from] std::io::Error),
    /// Nobody wants it any more.
    #[error("given up")]
    Abandoned,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    used: u64,
    pins: u32,
}

#[derive(Debug, Default)]
struct Index {
    held: BTreeMap<String, Held>,
    /// One fetch of one content at a time; the others wait for it.
    fetching: BTreeMap<String, Arc<tokio::sync::Mutex<()>>>,
    clock: u64,
}

/// The cache. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    bytes_max: u64,
    bus: Bus,
    index: Mutex<Index>,
    fetches: Semaphore,
    unpacks: Semaphore,
}

/// Content that is in use: it stays until this is dropped.
struct Pin {
    cache: Cache,
    hex: String,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(held) = self.cache.index().held.get_mut(&self.hex) {
            held.pins = held.pins.saturating_sub(1);
        }
    }
}

impl Cache {
    /// What an earlier process kept is kept on; halves of it are not.
    pub fn open(directory: &Path, bytes_max: u64, bus: Bus) -> Result<Self, StartError> {
        let contents = directory.join("sha256");
        let failed = |why| StartError::State { path: contents.display().to_string(), why };
        std::fs::create_dir_all(&contents).map_err(failed)?;
        let mut index = Index::default();
        for entry in std::fs::read_dir(&contents).map_err(failed)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.metadata() {
                Ok(about) if is_hex(&name) => {
                    let held = Held { bytes: about.len(), ..Held::default() };
                    index.held.insert(name, held);
                }
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
        let (fetches, unpacks) = (Semaphore::new(FETCHES_MAX), Semaphore::new(UNPACKS_MAX));
        let index = Mutex::new(index);
        Ok(Self(Arc::new(Inner { directory: contents, bytes_max, bus, index, fetches, unpacks })))
    }

    /// Lays packages out below `root`, in order, the later over the earlier.
    pub async fn lay_out(
        &self,
        packages: &[StartPackage],
        root: &Path,
        abandoned: &CancellationToken,
    ) -> Result<(), CacheError> {
        for package in packages {
            let path = &package.install_path;
            let place = below(root, path).ok_or_else(|| CacheError::Place(path.clone()))?;
            for (digest, bytes) in &package.resources {
                let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
                let hex = hex.ok_or_else(|| CacheError::Digest(digest.clone()))?;
                let got = abandoned.run_until_cancelled(self.get(hex, *bytes)).await;
                let pin = got.ok_or(CacheError::Abandoned)??;
                self.unpack(pin, place.clone(), abandoned.clone()).await?;
            }
        }
        Ok(())
    }

    async fn unpack(
        &self,
        pin: Pin,
        place: PathBuf,
        abandoned: CancellationToken,
    ) -> Result<(), CacheError> {
        let Ok(_permit) = self.0.unpacks.acquire().await else { return Err(CacheError::Abandoned) };
        let archive = self.path(&pin.hex);
        let hex = pin.hex.clone();
        let done = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&place)?;
            let done = unpack(&archive, &place, &|| abandoned.is_cancelled());
            drop(pin);
            done
        })
        .await;
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(CacheError::Unpack { hex, why }),
            Err(_) => Err(CacheError::Abandoned),
        }
    }

    /// The content is there and stays while the pin lives.
    async fn get(&self, hex: &str, bytes: u64) -> Result<Pin, CacheError> {
        let gate = {
            let mut index = self.index();
            Arc::clone(index.fetching.entry(hex.to_owned()).or_default())
        };
        let alone = gate.lock().await;
        let found = match self.pin(hex) {
            Some(pin) => Ok(pin),
            None => self.fetch(hex, bytes).await,
        };
        drop(alone);
        let mut index = self.index();
        // Two: the index's and ours; nobody else waits.
        if Arc::strong_count(&gate) == 2 {
            index.fetching.remove(hex);
        }
        drop(index);
        found
    }

    async fn fetch(&self, hex: &str, bytes: u64) -> Result<Pin, CacheError> {
        let Ok(_permit) = self.0.fetches.acquire().await else { return Err(CacheError::Abandoned) };
        if bytes > self.0.bytes_max {
            return Err(CacheError::TooLarge { hex: hex.to_owned(), bytes });
        }
        self.make_room(bytes);
        let fresh = self.path(&format!("{hex}.new"));
        let (mut why, mut pause) = ("no package manager answers".to_owned(), ROUND_PAUSE);
        for round in 1..=ROUNDS_MAX {
            let until = Until { count: LOCATIONS_MAX, deadline: LOCATE_TIMEOUT };
            let found: Result<Vec<PmLocation>, _> = self.0.bus.gather(PM_LOCATE, &(), until).await;
            for location in found.unwrap_or_default() {
                match fetch::fetch(&location.url, hex, bytes, &fresh).await {
                    Ok(()) => {
                        tokio::fs::rename(&fresh, self.path(hex)).await?;
                        self.index().held.insert(hex.to_owned(), Held { bytes, ..Held::default() });
                        let lost = || CacheError::Fetch { hex: hex.to_owned(), why: "gone".into() };
                        return self.pin(hex).ok_or_else(lost);
                    }
                    Err(mistake) => why = format!("{}: {mistake}", location.url),
                }
            }
            if round < ROUNDS_MAX {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        tokio::fs::remove_file(&fresh).await.ok();
        Err(CacheError::Fetch { hex: hex.to_owned(), why })
    }

    fn pin(&self, hex: &str) -> Option<Pin> {
        let mut index = self.index();
        if !self.path(hex).is_file() {
            index.held.remove(hex);
            return None;
        }
        index.clock += 1;
        let used = index.clock;
        let held = index.held.get_mut(hex)?;
        held.used = used;
        held.pins += 1;
        Some(Pin { cache: self.clone(), hex: hex.to_owned() })
    }

    fn make_room(&self, bytes: u64) {
        let mut index = self.index();
        let entry = |(hex, held): (&String, &Held)| Entry {
            hex: hex.clone(),
            bytes: held.bytes,
            used: held.used,
            pinned: held.pins > 0,
        };
        let entries: Vec<_> = index.held.iter().map(entry).collect();
        for hex in evict(&entries, bytes, self.0.bytes_max) {
            index.held.remove(&hex);
            std::fs::remove_file(self.path(&hex)).ok();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.directory.join(name)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
