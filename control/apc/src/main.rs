//! apc.
fn main() {}
