//! CPU and memory of a proxy: everything that belongs to it, threads, workers and those that have exited.
//!
//! A control group counts exactly; where none can be made, the process tree is added up from `/proc`.
//! Deliberately absent: making and removing the groups (`process.rs`).

use std::path::{Path, PathBuf};
use std::{fs, io};

/// How a proxy's use is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meter {
    /// A directory of the v1 `cpuacct` controller.
    CpuAcct(PathBuf),
    /// A directory of the unified hierarchy.
    Unified(PathBuf),
    /// A process and its descendants. Work of exited processes is lost.
    Tree(u32),
}

impl Meter {
    /// Reads the form that [`Self::to_argument`] writes.
    ///
    /// # Errors
    /// When the text is of no known kind.
    pub fn from_argument(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("cpuacct", path)) => Ok(Self::CpuAcct(path.into())),
            Some(("unified", path)) => Ok(Self::Unified(path.into())),
            Some(("tree", pid)) => pid.parse().map(Self::Tree).map_err(|e| format!("{text}: {e}")),
            _ => Err(format!("{text}: expected cpuacct:DIR, unified:DIR or tree:PID")),
        }
    }

    /// The form for a command line.
    pub fn to_argument(&self) -> String {
        match self {
            Self::CpuAcct(path) => format!("cpuacct:{}", path.display()),
            Self::Unified(path) => format!("unified:{}", path.display()),
            Self::Tree(pid) => format!("tree:{pid}"),
        }
    }

    /// CPU used since the start, ns.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        match self {
            Self::CpuAcct(path) => number(&fs::read_to_string(path.join("cpuacct.usage"))?),
            Self::Unified(path) => {
                let text = fs::read_to_string(path.join("cpu.stat"))?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Ok(number(usage.unwrap_or(""))? * 1000)
            }
            Self::Tree(pid) => tree(*pid).into_iter().map(process_cpu_ns).sum(),
        }
    }

    /// Processes that belong to the proxy now.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        match self {
            Self::CpuAcct(path) | Self::Unified(path) => {
                let text = fs::read_to_string(path.join("cgroup.procs"))?;
                Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
            }
            Self::Tree(pid) => Ok(tree(*pid)),
        }
    }

    /// Proportional set size of all processes, KiB: private pages and the fair part of shared ones.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn pss_kib(&self) -> io::Result<u64> {
        self.processes()?.into_iter().map(process_pss_kib).sum()
    }
}

/// CPU that the calling thread has used, ns.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn own_cpu_ns() -> io::Result<u64> {
    schedstat_ns(Path::new("/proc/thread-self/schedstat"))
}

fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
    threads.map(|thread| schedstat_ns(&thread?.path().join("schedstat"))).sum()
}

fn schedstat_ns(path: &Path) -> io::Result<u64> {
    number(fs::read_to_string(path)?.split(' ').next().unwrap_or(""))
}

fn process_pss_kib(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    number(line.unwrap_or("").trim_end_matches("kB"))
}

fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        found.extend(
            children.unwrap_or_default().split_whitespace().filter_map(|p| p.parse::<u32>().ok()),
        );
        at += 1;
    }
    found
}

fn number(text: &str) -> io::Result<u64> {
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("not a number: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_read_back() {
        for meter in [Meter::CpuAcct("/a/b".into()), Meter::Unified("/c:d".into()), Meter::Tree(17)]
        {
            assert_eq!(Meter::from_argument(&meter.to_argument()), Ok(meter));
        }
        assert!(Meter::from_argument("tree:x").is_err() && Meter::from_argument("/a").is_err());
    }

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let meter = Meter::Tree(std::process::id());
        assert!(meter.cpu_ns().unwrap() > 0);
        assert!(meter.pss_kib().unwrap() > 100);
        // The kernel brings its count up to date at ticks: a thread that works sees it rise in the end.
        while own_cpu_ns().unwrap() == 0 {
            std::hint::black_box(std::fs::metadata("/proc/self").unwrap());
        }
    }
}
