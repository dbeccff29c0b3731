//! What the instance manager asks of whatever runs instances.
//!
//! Two worlds today: processes behind shims, and memory (tests, simulation, benchmarks). One suite runs over both.
//! Containers are to be a third. Deliberately absent: when to do what; that is `life`.

pub mod memory;
pub mod process;
mod tail;

use crate::life::Exit;
use crate::record::Record;
use crate::spec::Spec;
use async_trait::async_trait;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use wire::InstanceId;

/// For one attempt to reach a port.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a driver did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A file or directory of the instance could not be used.
    #[error("{path}: {why}")]
    Files {
        /// Which.
        path: String,
        /// The system's words.
        why: std::io::Error,
    },
    /// The process could not be made.
    #[error("{0}")]
    Start(String),
    /// It has no such instance.
    #[error("instance {0} is not here")]
    Unknown(InstanceId),
    /// The stop command ended with this status (none: by a signal, or not in time).
    #[error("the stop command ended with {0:?}")]
    StopCommand(Option<i32>),
}

/// How to tell an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Term,
    /// End.
    Kill,
}

/// What was found of an instance that an earlier process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It runs.
    Alive,
    /// It ran.
    Ended(Exit),
    /// It never ran, and will not now.
    Never,
}

/// What an instance has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nanoseconds of processor time since its start.
    pub cpu_ns: u64,
    /// Bytes in use now.
    pub memory: u64,
    /// Bytes of its files.
    pub disk: u64,
}

/// A place in the log of an instance; the default is its oldest line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes in it that were read.
    pub offset: u64,
}

/// Lines from a place on.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they were written.
    pub records: Vec<Record>,
    /// Where to go on.
    pub position: Position,
    /// There is more already.
    pub more: bool,
}

/// One world of instances. Calls for one instance follow each other, but for `signal`, `run` and `wait`.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// A fresh, empty root for the instance's files; none where there are no files.
    async fn prepare(&self, instance: InstanceId) -> Result<Option<PathBuf>, DriverError>;

    /// Starts it; when this returns, it runs, and goes on running when this program ends.
    async fn start(&self, spec: &Spec) -> Result<(), DriverError>;

    /// Takes over an instance that an earlier process may have begun.
    async fn adopt(&self, instance: InstanceId) -> Result<Found, DriverError>;

    /// Sends a signal to all of its processes; nothing happens when it has ended.
    async fn signal(&self, instance: InstanceId, signal: Signal) -> Result<(), DriverError>;

    /// Runs a command beside it, in its directory, until the command ends; at most for `limit`.
    async fn run(&self, spec: &Spec, limit: Duration) -> Result<(), DriverError>;

    /// Its end. Cancel-safe.
    async fn wait(&self, instance: InstanceId) -> Exit;

    /// What these use; none for one that is not here.
    async fn stats(&self, instances: &[InstanceId]) -> Vec<Option<Stats>>;

    /// Kills what is left of it and removes its files.
    async fn destroy(&self, instance: InstanceId) -> Result<(), DriverError>;

    /// All instances that it has anything of.
    async fn list(&self) -> Vec<InstanceId>;

    /// Lines from a place on.
    async fn logs(&self, instance: InstanceId, from: Position) -> Batch;

    /// Waits until something was logged, and tells by whom; may tell too much. Cancel-safe.
    async fn written(&self) -> Vec<InstanceId>;

    /// Whether something accepts connections there.
    async fn probe(&self, addr: SocketAddr) -> bool {
        let connecting = tokio::net::TcpStream::connect(addr);
        matches!(tokio::time::timeout(PROBE_TIMEOUT, connecting).await, Ok(Ok(_)))
    }

    /// Whether a port can be listened on; `plainly` = also by a program that does not ask to reuse addresses, for which
    /// the last minute's connections are in the way.
    fn is_free(&self, addr: SocketAddr, plainly: bool) -> bool {
        if plainly { binds_plainly(addr) } else { std::net::TcpListener::bind(addr).is_ok() }
    }
}

fn binds_plainly(addr: SocketAddr) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    socket.is_ok_and(|socket| bind(&socket, &addr).is_ok())
}
