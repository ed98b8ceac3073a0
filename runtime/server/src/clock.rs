//! The server's time: tokio's, which is the system's unless somebody pauses it, as a simulation does.

use std::time::{Duration, Instant};

/// The time now.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Time since `earlier`, 0 if that is later.
pub(crate) fn since(earlier: Instant) -> Duration {
    now().saturating_duration_since(earlier)
}
