//! Foreign programs that tests use: found in PATH, or the test is skipped with a message, never under CI.
//!
//! Deliberately absent: installing. `tests/run` does that.

use std::path::PathBuf;

/// Where a program is; `None` after saying that the test is skipped.
///
/// # Panics
/// Under CI (the variable `CI` is set), where a missing program is an error.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} is not installed; tests/run installs it");
        println!("skipped: {name} is not installed (tests/run installs it)");
    }
    found
}
