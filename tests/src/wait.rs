//! Waiting for an event with a deadline, instead of sleeping and hoping.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test fails. Generous: a loaded two-core machine must not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Pause between two looks at a condition that nobody can signal (another process, the kernel).
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Look until `seen` gives something, at most [`DEADLINE`].
///
/// # Panics
/// When the deadline passes; `what` says what was waited for.
pub fn until_some<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = seen() {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Look until `seen` is true, at most [`DEADLINE`].
///
/// # Panics
/// When the deadline passes; `what` says what was waited for.
pub fn until(what: &str, mut seen: impl FnMut() -> bool) {
    until_some(what, || seen().then_some(()));
}
