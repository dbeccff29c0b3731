//! apcera.
fn main() {}
