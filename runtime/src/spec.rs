//! What an instance is to a driver, and what it weighs on its host.
//!
//! Deliberately absent: jobs. A driver knows commands, environments and directories, not why they are wanted.

use crate::life::Terms;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wire::InstanceId;
use wire::job::{Job, Process, Resources, RestartMode};

/// Seconds that a time-out of a job may have at most; a typing mistake must not hold an instance for a year.
const TIMEOUT_S_MAX: u64 = 24 * 3_600;

/// How a process is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Text for `/bin/sh -c`.
    Shell(String),
    /// Program and arguments.
    Raw(Vec<String>),
}

impl Command {
    /// The start command of a process; none when it has none.
    #[must_use]
    pub fn start_of(process: &Process) -> Option<Self> {
        Self::of(&process.start_command, &process.start_command_raw)
    }

    /// The stop command of a process; none when TERM is to be sent.
    #[must_use]
    pub fn stop_of(process: &Process) -> Option<Self> {
        Self::of(&process.stop_command, &process.stop_command_raw)
    }

    fn of(text: &str, raw: &[String]) -> Option<Self> {
        if !text.trim().is_empty() {
            Some(Self::Shell(text.to_owned()))
        } else if raw.first().is_some_and(|program| !program.is_empty()) {
            Some(Self::Raw(raw.to_vec()))
        } else {
            None
        }
    }

    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()],
            Self::Raw(argv) => argv.clone(),
        }
    }
}

/// A process to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Of which instance.
    pub instance: InstanceId,
    /// What is begun.
    pub command: Command,
    /// The whole environment: nothing is inherited.
    pub environment: BTreeMap<String, String>,
    /// Where it begins, below the instance's own root.
    pub directory: String,
}

/// What instances take from their host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Milliseconds of processor time per second.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
    /// Bits per second.
    pub network: u64,
}

impl Load {
    /// One more.
    pub fn add(&mut self, resources: &Resources) {
        self.cpu = self.cpu.saturating_add(resources.cpu);
        self.memory = self.memory.saturating_add(resources.memory);
        self.disk = self.disk.saturating_add(resources.disk);
        self.network = self.network.saturating_add(resources.network);
    }

    /// One less.
    pub fn remove(&mut self, resources: &Resources) {
        self.cpu = self.cpu.saturating_sub(resources.cpu);
        self.memory = self.memory.saturating_sub(resources.memory);
        self.disk = self.disk.saturating_sub(resources.disk);
        self.network = self.network.saturating_sub(resources.network);
    }

    /// As records write it.
    #[must_use]
    pub fn as_resources(&self) -> Resources {
        Resources {
            cpu: self.cpu,
            memory: self.memory,
            disk: self.disk,
            network: self.network,
            netmax: 0,
        }
    }
}

/// What of a job decides about the life of its instances.
#[must_use]
pub fn terms(job: &Job) -> Terms {
    let defaults = Process::default();
    let process = job.process().unwrap_or(&defaults);
    let ms = |seconds: u64| seconds.min(TIMEOUT_S_MAX) * 1_000;
    Terms {
        probed: job.ports.iter().any(|port| !port.optional),
        may_finish: job.restart.restart_mode != RestartMode::Always,
        start_ms: ms(process.start_command_timeout),
        stop_ms: ms(process.stop_timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the text wins over the raw form, blanks are no command, and what a job says becomes its terms.
    #[test]
    fn commands_and_terms() {
        let mut process =
            Process { start_command_raw: vec!["/bin/app".into()], ..Process::default() };
        assert_eq!(Command::start_of(&process), Some(Command::Raw(vec!["/bin/app".into()])));
        process.start_command = "  ".into();
        assert_eq!(Command::start_of(&process).unwrap().argv(), ["/bin/app"]);
        process.start_command = "app --x".into();
        assert_eq!(Command::start_of(&process).unwrap().argv(), ["/bin/sh", "-c", "app --x"]);
        assert_eq!(Command::stop_of(&process), None);
        let mut job = Job::named("job::/a::b".parse().unwrap());
        assert!(!terms(&job).probed && !terms(&job).may_finish);
        process.stop_timeout = u64::MAX;
        job.processes.insert("app".into(), process);
        job.restart.restart_mode = RestartMode::Failure;
        let terms = terms(&job);
        assert_eq!((terms.may_finish, terms.start_ms, terms.stop_ms), (true, 30_000, 86_400_000));
    }
}
