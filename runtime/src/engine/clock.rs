//! Where an engine takes its time from: deadlines, what the metrics measure, and the flight recorder. It is the system's clock,
//! or one that moves only when it is moved, so that a simulation owns the time. Threads that wait for each other (readers of
//! events, threads of masks) wait by the system's clock in any case.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A clock. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Option<Arc<Moved>>);

/// A clock that is moved by hand.
#[derive(Debug)]
struct Moved {
    begin: Instant,
    nanoseconds: AtomicU64,
}

impl Clock {
    /// A clock that stands still until it is moved.
    #[cfg(test)]
    pub(crate) fn moved_by_hand() -> Clock {
        Clock(Some(Arc::new(Moved { begin: Instant::now(), nanoseconds: AtomicU64::new(0) })))
    }

    /// The time now.
    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(moved) => {
                moved.begin + Duration::from_nanos(moved.nanoseconds.load(Ordering::Relaxed))
            }
        }
    }

    /// Time since `earlier`, 0 if that is later.
    pub(crate) fn since(&self, earlier: Instant) -> Duration {
        self.now().saturating_duration_since(earlier)
    }

    /// Moves a clock that is moved by hand; the system's clock is left alone.
    #[cfg(test)]
    pub(crate) fn advance(&self, time: Duration) {
        if let Some(moved) = &self.0 {
            let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            moved.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }
}
