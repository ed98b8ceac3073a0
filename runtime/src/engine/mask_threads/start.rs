//! The threads that compute masks, as they are started: which yield to others, and which goes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{QUICK, Shared};
use crate::priority::{this_thread, yield_somewhat, yield_to_others};

/// The largest number of threads that compute masks.
pub(super) const MAX_THREADS: usize = 32;

/// The thread that computes quick masks alone. One whose mask turns out to be slow is overtaken: another one takes its place,
/// and it yields from then on, and ends with that mask.
pub(super) struct QuickThread {
    born: Instant,
    /// Its number for the kernel, once it runs.
    pub(super) id: AtomicI32,
    /// Microseconds from `born` to the begin of the mask that it is at work on; 0 for none.
    since: AtomicU64,
    pub(super) overtaken: AtomicBool,
}

impl QuickThread {
    fn new() -> QuickThread {
        let (id, since, overtaken) = Default::default();
        QuickThread { born: Instant::now(), id, since, overtaken }
    }

    pub(super) fn begins(&self) {
        self.since.store((self.born.elapsed().as_micros() as u64).max(1), Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Whether it has been at work on one mask for longer than a quick one takes.
    pub(super) fn is_slow(&self) -> bool {
        let since = self.since.load(Ordering::Relaxed);
        let taken = self.born.elapsed().saturating_sub(Duration::from_micros(since));
        since > 0 && taken > QUICK
    }
}

/// Starts the threads: as many as cores for each of the engines that share them, because a step of constrained samples waits
/// for all of their masks, and two at least, so that one grammar never delays all others. They yield to the threads of steps
/// where steps are computed on the same cores: a mask that takes long must not slow the steps of others. Where a device
/// computes them, it waits for masks instead, so these yield only somewhat. Returns how many there are.
pub(super) fn start(shared: &Arc<Shared>, beside_steps: bool, engines: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spawn = |_: &usize| {
        spawn(shared, move |shared| {
            if beside_steps {
                yield_to_others()
            } else {
                yield_somewhat()
            }
            shared.run(None);
        })
    };
    (0..(cores / engines.max(1)).clamp(2, MAX_THREADS)).filter(spawn).count()
}

/// Starts the thread for quick masks, which does not do the work of the others and yields to nobody.
pub(super) fn start_quick(shared: &Arc<Shared>) -> Option<Arc<QuickThread>> {
    let quick = Arc::new(QuickThread::new());
    let own = Arc::clone(&quick);
    spawn(shared, move |shared| {
        own.id.store(this_thread(), Ordering::Relaxed);
        shared.run(Some(&own));
        if own.overtaken.load(Ordering::Acquire) {
            shared.overtaken.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .then_some(quick)
}

/// Whether a thread could be started for this work.
fn spawn(shared: &Arc<Shared>, work: impl FnOnce(&Shared) + Send + 'static) -> bool {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("ossmith-masks".to_owned());
    let started = thread.spawn(move || work(&shared));
    started.inspect_err(|why| tracing::error!(%why, "a thread for masks cannot be started")).is_ok()
}
