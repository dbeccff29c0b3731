//! The configuration file as a source of the table: loaded, watched, loaded again; the last good one is kept.
//!
//! ```text
//!  SIGHUP ─┐
//!  change ─┴▶ reload: parse ─▶ certificates ─▶ table (one commit) ─▶ settings, certificates in force
//!                │ any mistake: nothing changes, the mistake is told and shown in /v1/status
//! ```
//!
//! A file moves the table by the difference to what the file said before, so that what the admin API changed besides
//! stays. Watching is polling of names, which also sees symbolic links that are swapped. Deliberately absent: partial
//! loads, and changing listen addresses or the number of cores without a restart.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use route::Desired;
use serde_json::{Value, json};

use crate::config::{self, Config, ConfigErrors};
use crate::hub::{Hub, Refused};
use crate::settings::Settings;
use crate::tls::{TlsLoadError, TlsStore};

/// How often the file's name is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Certificates are looked at once in so many looks.
const CERTIFICATES_EVERY: u32 = 10;

/// What is known of the file, for status pages.
pub struct Source(Mutex<State>);

struct State {
    file: Option<PathBuf>,
    error: Option<Value>,
    warnings: Vec<String>,
    restart_needed: Vec<&'static str>,
    loaded_at: SystemTime,
    reloads: u64,
    failures: u64,
}

impl Source {
    /// For a router fed by `file`, or by nothing but the admin API.
    pub fn new(file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            file,
            error: None,
            warnings: Vec::new(),
            restart_needed: Vec::new(),
            loaded_at: SystemTime::now(),
            reloads: 0,
            failures: 0,
        })))
    }

    /// The newest text of the file is in force; `None` without a file.
    pub fn is_good(&self) -> Option<bool> {
        let state = self.state();
        state.file.as_ref().map(|_| state.error.is_none())
    }

    /// For `/v1/status`.
    pub fn status(&self) -> Value {
        let state = self.state();
        let Some(file) = &state.file else { return json!({ "state": "none" }) };
        let loaded = state.loaded_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({
            "state": if state.error.is_none() { "good" } else { "kept_last_good" },
            "file": file,
            "loaded_at": loaded,
            "reloads": state.reloads,
            "reloads_failed": state.failures,
            "error": state.error,
            "warnings": state.warnings,
            "restart_needed": state.restart_needed,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The text is wrong.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// A certificate is.
    #[error("error[certificate]: {}: {}\n  try: {}\n", .0.file.display(), .0.why, .0.hint)]
    Certificate(#[from] TlsLoadError),
    /// It cannot be reconciled with what is served now.
    #[error("error[table]: {0}\n")]
    Table(#[from] Refused),
}

impl ReloadError {
    fn as_json(&self) -> Value {
        match self {
            Self::Config(errors) => json!({ "what": errors.first_line(), "mistakes": errors.list }),
            Self::Certificate(error) => json!({ "what": error.to_string() }),
            Self::Table(error) => json!({ "what": error.to_string() }),
        }
    }
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Version of the table that holds it.
    pub version: u64,
    /// Settings that differ but need a restart.
    pub restart_needed: Vec<&'static str>,
    /// What is allowed but probably not meant, as text.
    pub warnings: Vec<String>,
}

/// The way from a file into the hub.
pub struct Feed {
    path: PathBuf,
    hub: Arc<Hub>,
    source: Arc<Source>,
    cores: Option<u16>,
    served: Mutex<Served>,
}

struct Served {
    desired: Desired,
    settings: Settings,
    /// The file as it was when it was read last, good or bad.
    looked: Looked,
}

impl Feed {
    /// For a router that serves `config`, which was read from `path`. `cores` was given beside the file and overrides it.
    pub fn new(
        path: &Path,
        hub: Arc<Hub>,
        source: Arc<Source>,
        config: &Config,
        cores: Option<u16>,
    ) -> Arc<Self> {
        let served = Served {
            desired: config.desired.clone(),
            settings: config.settings.clone(),
            looked: Looked::at(path, &[]),
        };
        source.state().warnings = texts(config, &source_name(path));
        Arc::new(Self { path: path.to_owned(), hub, source, cores, served: Mutex::new(served) })
    }

    /// Read the file again and serve it, or keep all as it is. Blocks; not for a core.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        let mut served = self.served();
        // Before reading: a change in between is seen as one more change.
        served.looked = Looked::at(&self.path, &[]);
        let outcome = self.try_reload(&mut served);
        let mut state = self.source.state();
        match &outcome {
            Ok(reloaded) => {
                state.error = None;
                state.loaded_at = SystemTime::now();
                state.reloads += 1;
                state.restart_needed.clone_from(&reloaded.restart_needed);
                state.warnings.clone_from(&reloaded.warnings);
            }
            Err(error) => {
                state.error = Some(error.as_json());
                state.failures += 1;
            }
        }
        outcome
    }

    fn try_reload(&self, served: &mut Served) -> Result<Reloaded, ReloadError> {
        let mut config = config::load(&self.path)?;
        config.settings.cores = self.cores.or(config.settings.cores);
        let tls = certificates(self.hub.tls().as_deref(), &config.settings)?;
        let receipt = self.hub.replace(&served.desired, &config.desired)?;
        let warnings = texts(&config, &source_name(&self.path));
        served.desired = config.desired;
        let (settings, restart_needed) = adopt(&served.settings, config.settings);
        served.settings = settings.clone();
        self.hub.set_settings(settings);
        self.hub.set_tls(tls);
        Ok(Reloaded { version: receipt.version, restart_needed, warnings })
    }

    /// Look at the file and its certificates for ever; call `told` after each reload.
    pub async fn watch(self: Arc<Self>, told: impl Fn(Result<Reloaded, ReloadError>)) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen_certificates = self.look_at_certificates();
        // A file that is being written looks different each second; it is read when two looks agree.
        let mut pending: Option<Looked> = None;
        for look in 1u32.. {
            looks.tick().await;
            let now = Looked::at(&self.path, &[]);
            let mut changed = false;
            if now == self.served().looked {
                pending = None;
            } else {
                changed = pending.as_ref() == Some(&now);
                pending = Some(now);
            }
            if look.is_multiple_of(CERTIFICATES_EVERY) {
                changed |= self.look_at_certificates() != seen_certificates;
            }
            if changed {
                pending = None;
                told(self.reload_aside().await);
                seen_certificates = self.look_at_certificates();
            }
        }
    }

    /// As [`Self::reload`], on a thread that may block.
    pub async fn reload_aside(self: &Arc<Self>) -> Result<Reloaded, ReloadError> {
        let feed = Arc::clone(self);
        match tokio::task::spawn_blocking(move || feed.reload()).await {
            Ok(outcome) => outcome,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at_certificates(&self) -> Looked {
        let served = self.served();
        let certificates = &served.settings.certificates;
        let files: Vec<&Path> =
            certificates.iter().flat_map(|one| [&*one.chain, &*one.key]).collect();
        Looked::at(Path::new(""), &files)
    }
}

fn source_name(path: &Path) -> String {
    path.display().to_string()
}

fn texts(config: &Config, file: &str) -> Vec<String> {
    config.warnings.iter().map(|warning| warning.one_line(file)).collect()
}

/// The certificates that settings ask for; ticket keys are taken over from the store in force.
pub fn certificates(
    now: Option<&TlsStore>,
    settings: &Settings,
) -> Result<Option<Arc<TlsStore>>, TlsLoadError> {
    if settings.certificates.is_empty() {
        return Ok(None);
    }
    match now {
        Some(store) => store.reload(&settings.certificates).map(Some),
        None => TlsStore::load(&settings.certificates).map(Some),
    }
}

/// The new settings as far as they can be had without a restart, and which could not.
fn adopt(now: &Settings, new: Settings) -> (Settings, Vec<&'static str>) {
    let differs = [
        ("listen.http", now.http != new.http),
        ("listen.https", now.https != new.https),
        ("listen.admin", now.admin != new.admin),
        ("router.cores", now.cores != new.cores),
        ("access_log", now.access_log != new.access_log),
        ("limits.pages_bytes_max", now.limits.pages_bytes_max != new.limits.pages_bytes_max),
    ];
    let names = differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    let mut adopted = Settings {
        http: now.http.clone(),
        https: now.https.clone(),
        admin: now.admin.clone(),
        cores: now.cores,
        access_log: now.access_log.clone(),
        ..new
    };
    adopted.limits.pages_bytes_max = now.limits.pages_bytes_max;
    // What the descriptor limit allows was found out at the start.
    adopted.limits.connections_max =
        adopted.limits.connections_max.min(crate::limits::connections_ceiling(adopted.cores));
    (adopted, names)
}

/// What files look like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Looked(Vec<Option<(u64, u64, i64, i64)>>);

impl Looked {
    fn at(file: &Path, more: &[&Path]) -> Self {
        let look = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
        };
        Self(std::iter::once(file).chain(more.iter().copied()).map(look).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named_and_kept() {
        let now = Settings { cores: Some(1), ..Settings::default() };
        let mut new = Settings { cores: Some(2), ..Settings::default() };
        new.limits.fields_max = 33;
        let (adopted, names) = adopt(&now, new);
        assert_eq!(names, ["router.cores"]);
        assert_eq!((adopted.cores, adopted.limits.fields_max), (Some(1), 33));
        assert!(adopt(&now, now.clone()).1.is_empty());
    }

    fn file(weight: u32, more: &str) -> String {
        format!(
            "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[job]]\nname = \"a\"\n[[route]]\nendpoint = \"http://x\"\n\
             targets = [{{ job = \"a\", weight = {weight} }}]\n{more}"
        )
    }

    /// Goal: a bad file changes nothing and is told; a good one moves the table only by what changed in it.
    #[test]
    fn the_last_good_table_is_kept_and_so_is_what_others_changed() {
        let path = std::env::temp_dir().join(format!("router-feed-{}.toml", std::process::id()));
        std::fs::write(&path, file(10, "")).unwrap();
        let config = config::load(&path).unwrap();
        let hub = Hub::new(1, config.settings.clone()).unwrap();
        hub.replace(&Desired::default(), &config.desired).unwrap();
        let source = Source::new(Some(path.clone()));
        let feed = Feed::new(&path, Arc::clone(&hub), Arc::clone(&source), &config, None);
        let weights = || {
            let table = hub.table();
            let mut all: Vec<String> = table
                .routes()
                .flat_map(|route| route.targets.list.iter().map(|one| one.weight.to_string()))
                .collect();
            all.sort();
            all
        };

        let by_hand = route::Change::PutTarget {
            endpoint: "http://y".parse().unwrap(),
            https_only: false,
            job: "a".into(),
            weight: "33".parse().unwrap(),
        };
        hub.commit(&[by_hand]).unwrap();
        let certificate = "[[certificate]]\nchain = \"/nowhere\"\nkey = \"/nowhere\"\n";
        for bad in [file(20, "[lisen]\n"), file(20, certificate)] {
            std::fs::write(&path, bad).unwrap();
            feed.reload().unwrap_err();
            assert_eq!(
                (weights(), source.is_good()),
                (vec!["10%".into(), "33%".into()], Some(false))
            );
        }
        assert_eq!(source.status()["state"], "kept_last_good");

        std::fs::write(&path, file(20, "[limits]\nfields_max = 50\n")).unwrap();
        let reloaded = feed.reload().unwrap();
        assert_eq!((weights(), source.is_good()), (vec!["20%".into(), "33%".into()], Some(true)));
        assert_eq!((hub.settings().limits.fields_max, reloaded.version), (50, hub.version()));
        assert_eq!(source.status()["reloads_failed"], 2);
        std::fs::remove_file(&path).unwrap();
    }

    /// Goal: a file replaced by rename is seen even with the same length and time stamp.
    #[test]
    fn a_replaced_file_looks_different() {
        let folder = std::env::temp_dir().join(format!("router-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, other) = (folder.join("a"), folder.join("b"));
        std::fs::write(&file, "same").unwrap();
        std::fs::write(&other, "same").unwrap();
        let before = Looked::at(&file, &[]);
        assert_eq!(before, Looked::at(&file, &[]));
        std::fs::rename(&other, &file).unwrap();
        assert_ne!(before, Looked::at(&file, &[]));
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(Looked::at(&file, &[]).0, [None]);
    }
}
