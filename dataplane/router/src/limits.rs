//! What the operating system allows this process: open files, and so connections.
//!
//! Deliberately absent: the limits of the configuration; see `settings.rs`.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors kept for listeners, rings, pipes, logs and the admin API.
const RESERVED: u64 = 256;

/// Raise the limit of open files to what this process may have; gives the limit in force.
pub fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            eprintln!("note: the limit of open files stays as it is: {error}");
        }
    }
    open_files()
}

fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Client connections that one of `cores` cores can hold: three of four descriptors, the rest is for instances.
pub fn connections_ceiling(cores: Option<u16>) -> u32 {
    let cores = cores.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from) as u64,
        u64::from,
    );
    let usable = open_files().saturating_sub(RESERVED) / 4 * 3 / cores.max(1);
    u32::try_from(usable).unwrap_or(u32::MAX).max(1)
}
