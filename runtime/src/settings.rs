//! What an instance manager is told at its start.
//!
//! Deliberately absent: reading files of settings; that is the business of the program that hosts it.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use wire::ImId;
use wire::health::BEAT_MS;
use wire::job::Resources;

/// Ports that are given to instances when nobody says otherwise: below those that the system gives to clients.
pub const PORTS_DEFAULT: RangeInclusive<u16> = 20_000..=29_999;
/// Bytes of packages that are kept.
pub const CACHE_BYTES_DEFAULT: u64 = 4 << 30;

/// How it is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it keeps its id, its instances' records and its packages; none = nothing survives it (simulation).
    pub state_dir: Option<PathBuf>,
    /// Who it is; none = as its state directory says, or new.
    pub id: Option<ImId>,
    /// Name of its host.
    pub hostname: String,
    /// Site.
    pub datacenter: String,
    /// Given by the operator.
    pub tags: Vec<String>,
    /// Found out about the host; offers look at both.
    pub system_tags: Vec<String>,
    /// What it may give away; 0 = not counted.
    pub resources_total: Resources,
    /// Where routers connect to its instances.
    pub advertise: IpAddr,
    /// Numbers for ports that a job leaves open. Two instance managers on one host need two ranges.
    pub ports: RangeInclusive<u16>,
    /// Bytes of packages that are kept.
    pub cache_bytes_max: u64,
    /// For all that is random; none = from the system.
    pub seed: Option<u64>,
    /// Between two heartbeats.
    pub beat: Duration,
    /// Between two samples of what instances use.
    pub usage_period: Duration,
    /// Between two looks at the ports of a running instance.
    pub port_check: Duration,
}

impl Settings {
    /// Everything by default, on this host, with no bound on resources.
    #[must_use]
    pub fn new(state_dir: Option<PathBuf>) -> Self {
        Self {
            state_dir,
            id: None,
            hostname: hostname(),
            datacenter: "local".to_owned(),
            tags: Vec::new(),
            system_tags: Vec::new(),
            resources_total: Resources { cpu: 0, memory: 0, disk: 0, network: 0, netmax: 0 },
            advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: PORTS_DEFAULT,
            cache_bytes_max: CACHE_BYTES_DEFAULT,
            seed: None,
            beat: Duration::from_millis(BEAT_MS),
            usage_period: Duration::from_secs(10),
            port_check: Duration::from_secs(30),
        }
    }
}

/// Name of this host.
#[must_use]
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// What becomes of the instances when the instance manager is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// They are drained and stopped, and it says farewell.
    StopInstances,
    /// They run on and are found again by the next process on the same state directory.
    LeaveInstances,
}

/// What becomes of the instances, fixed at the start or asked at the stop: a process learns from its last signal.
pub trait AtStop: Send + 'static {
    /// Asked once.
    fn mode(&self) -> StopMode;
}

impl AtStop for StopMode {
    fn mode(&self) -> StopMode {
        *self
    }
}

impl<F: Fn() -> StopMode + Send + 'static> AtStop for F {
    fn mode(&self) -> StopMode {
        self()
    }
}

/// Why it did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("state directory {path}: {why}")]
    State {
        /// Which file or directory.
        path: String,
        /// The system's words.
        why: std::io::Error,
    },
    /// Another process uses it.
    #[error("state directory {0} is in use by another instance manager")]
    InUse(String),
}
