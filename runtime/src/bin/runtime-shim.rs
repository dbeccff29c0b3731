//! A program that is nothing but a shim: what tests of the process driver start.
//!
//! Deliberately absent: everything else.

fn main() {
    runtime::shim::maybe_run();
    std::process::exit(2);
}
