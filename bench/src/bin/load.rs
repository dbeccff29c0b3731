//! The load generator: clients and their origin in one thread, one measured window, one JSON line.
//!
//! `side_by_side` starts it pinned; by hand it works against any proxy that is set up to forward to `--origin`.
//! Deliberately absent: the work itself (`load/command.rs`), which `side_by_side` also carries.

fn main() -> std::process::ExitCode {
    bench::load::main(std::env::args_os())
}
