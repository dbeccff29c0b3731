//! What this machine has to give away, and how it is called.
//!
//! Deliberately absent: what its operator says otherwise; the file wins.

use std::path::Path;

use conf::cluster::Instances;
use wire::job::Resources;

/// Bits per second that a machine may promise when nobody says what its network does.
const NETWORK_DEFAULT: u64 = 10_000_000_000;

/// What the file says; the rest is found out. Of the disk half of what is free: the other half is for packages and logs.
pub(crate) fn resources(conf: &Instances, dir: &Path) -> Resources {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    Resources {
        cpu: conf.cpu.unwrap_or(processors * 1_000),
        memory: conf.memory.unwrap_or_else(memory),
        disk: conf.disk.unwrap_or_else(|| free(dir) / 2),
        network: conf.network.unwrap_or(NETWORK_DEFAULT),
        netmax: 0,
    }
}

/// `host-<8 hexadecimal digits>` as the original names machines, from the machine's own id.
pub(crate) fn tags(hostname: &str) -> Vec<String> {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in id.trim().bytes().chain(hostname.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    vec![format!("host-{hash:08x}"), hostname.to_owned()]
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
}
