//! A cluster for tests: one process (`apcera up`) or many, the command line on it, and a load that checks every answer.
//!
//! Deliberately absent: knowledge of what is inside; tests see what a user sees.

mod apc;
mod fleet;
mod load;
mod up;

pub use apc::{Apc, Ran};
pub use fleet::{Fleet, Plan};
pub use load::{Load, Verdict};
pub use up::Up;

use std::path::PathBuf;

/// A program of this workspace, beside the test's own.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let folder = own.ancestors().find(|folder| folder.join(name).is_file());
    folder
        .map(|folder| folder.join(name))
        .unwrap_or_else(|| panic!("{name} is not built: `cargo build --workspace`, or tests/run"))
}

/// A directory with an application whose start script runs the sample program.
///
/// # Panics
/// When the folder is not writable.
pub fn sample_app(folder: &std::path::Path, name: &str, arguments: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let app = folder.join(name);
    std::fs::create_dir_all(&app).expect("the folder is writable");
    let script = format!("#!/bin/sh\nexec {} {arguments}\n", program("sample_app").display());
    let file = app.join("bash_start.sh");
    std::fs::write(&file, script).expect("the folder is writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("our own file");
    app
}
