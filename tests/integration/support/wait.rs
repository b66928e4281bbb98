//! Waiting for something to become true: looks again until it is, and fails the test at a bound.

use std::time::{Duration, Instant};

/// No wait in these tests needs more on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(5);

/// Gives what `look` finds, or fails with `what` when it finds nothing within [`LIMIT`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}
