//! Waiting for what nobody tells: a foreign process and what a client knows of it.
//!
//! Deliberately absent: everything that the bus itself tells; tests read that.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A server answers within milliseconds; a loaded machine may need longer.
const GIVE_UP: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until there is an answer; until then a look says what there is instead.
pub(crate) async fn until<T, E: Debug>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) => {
                assert!(began.elapsed() < GIVE_UP, "not within {GIVE_UP:?}: {what}: {instead:?}");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
