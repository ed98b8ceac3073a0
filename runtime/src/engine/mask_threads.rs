//! Masks are computed on threads of their own, beside the steps. A grammar that takes long delays only its own sample: the
//! rows of logits of a sample whose mask is late are kept until the mask is ready, while the other samples continue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::mask::{Allowed, TokenMask};
use crate::error::panic_message;

/// The largest number of threads that compute masks.
const MAX_THREADS: usize = 32;

/// A sample's grammar and the words that it wrote last.
pub(super) struct MaskState {
    mask: Box<dyn TokenMask>,
    words: Vec<u32>,
    /// All tokens that the sample has generated.
    generated: Vec<u32>,
    /// The result of the last call: all tokens are allowed (`false`), only those listed (`true`), or why the sample must
    /// end.
    listed: Result<bool, String>,
}

impl MaskState {
    /// One bit per token, set if the token is allowed.
    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }
}

struct MaskCell {
    /// A thread that computes the mask has the lock, and nothing waits for it: the engine reads what is ready.
    state: Mutex<MaskState>,
    ready: AtomicBool,
    /// Microseconds that its masks have taken.
    spent: AtomicU64,
}

/// The mask of one sample, shared with the thread that computes it.
#[derive(Clone)]
pub(super) struct SampleMask(Arc<MaskCell>);

impl std::fmt::Debug for SampleMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleMask").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

impl SampleMask {
    pub(super) fn new(mask: Box<dyn TokenMask>, vocab: usize) -> SampleMask {
        let words = vec![0; vocab.div_ceil(u32::BITS as usize)];
        let state = MaskState { mask, words, generated: Vec::new(), listed: Ok(false) };
        SampleMask(Arc::new(MaskCell {
            state: Mutex::new(state),
            ready: AtomicBool::new(true),
            spent: AtomicU64::new(0),
        }))
    }

    /// Whether the last mask that was requested is computed.
    pub(super) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// The words of the last mask; `None` if every token is allowed. Only for a mask that is ready.
    ///
    /// # Errors
    /// Why the grammar ends the sample.
    pub(super) fn listed(&self) -> Result<Option<MutexGuard<'_, MaskState>>, String> {
        let state = lock(&self.0.state);
        if !state.listed.clone()? {
            return Ok(None);
        }
        if state.words.iter().all(|&word| word == 0) {
            return Err(
                "the mask allows no token; a grammar that is complete must allow a stop token"
                    .to_owned(),
            );
        }
        Ok(Some(state))
    }
}

/// A mask to compute. Those whose sample has taken the least time come first, then the oldest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    order: Reverse<(u64, u64)>,
    cell: ByAddress,
}

/// Cells are equal if they are the same, and have no order.
struct ByAddress(Arc<MaskCell>);

impl PartialEq for ByAddress {
    fn eq(&self, other: &ByAddress) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ByAddress {}

impl PartialOrd for ByAddress {
    fn partial_cmp(&self, other: &ByAddress) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByAddress {
    fn cmp(&self, _: &ByAddress) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

#[derive(Default)]
struct Jobs {
    heap: BinaryHeap<Job>,
    next: u64,
    /// The engine is gone.
    ended: bool,
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    /// A job was added, or the engine is gone.
    work: Condvar,
    /// Held for a moment by whoever finishes a mask, so that no notification is lost.
    finishing: Mutex<()>,
    finished: Condvar,
}

/// The threads, which start with the first mask.
#[derive(Default)]
pub(super) struct MaskThreads {
    shared: Arc<Shared>,
    /// How many there are, once they were started.
    threads: Option<usize>,
}

impl MaskThreads {
    /// Computes the mask after these tokens, all that its sample has generated.
    pub(super) fn compute(&mut self, mask: &SampleMask, generated: &[u32]) {
        {
            let mut state = lock(&mask.0.state);
            let known = state.generated.len();
            state.generated.extend_from_slice(generated.get(known..).unwrap_or_default());
        }
        mask.0.ready.store(false, Ordering::Release);
        let threads = *self.threads.get_or_insert_with(|| start(&self.shared));
        if threads == 0 {
            // Without threads a mask delays all samples, which is better than no mask.
            fill(&mask.0);
            return;
        }
        let mut jobs = lock(&self.shared.jobs);
        jobs.next += 1;
        let order = Reverse((mask.0.spent.load(Ordering::Relaxed), jobs.next));
        jobs.heap.push(Job { order, cell: ByAddress(Arc::clone(&mask.0)) });
        drop(jobs);
        self.shared.work.notify_one();
    }

    /// Waits until all (`true`) or any (`false`) of these masks are ready, at most this long.
    pub(super) fn wait(&self, masks: &[SampleMask], all: bool, limit: Duration) {
        let end = Instant::now() + limit;
        let done = || match all {
            true => masks.iter().all(SampleMask::is_ready),
            false => masks.iter().any(SampleMask::is_ready),
        };
        let mut finishing = lock(&self.shared.finishing);
        while !done() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.finished.wait_timeout(finishing, left);
            finishing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for MaskThreads {
    fn drop(&mut self) {
        lock(&self.shared.jobs).ended = true;
        self.shared.work.notify_all();
    }
}

/// Starts the threads: half of the cores, so that a step still has the others, and two at least, so that one grammar never
/// delays all others. Returns how many there are.
fn start(shared: &Arc<Shared>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spawn = |_: &usize| {
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("ossmith-masks".to_owned());
        let started = thread.spawn(move || shared.run());
        started
            .inspect_err(|why| tracing::error!(%why, "a thread for masks cannot be started"))
            .is_ok()
    };
    (0..(cores / 2).clamp(2, MAX_THREADS)).filter(spawn).count()
}

impl Shared {
    fn run(&self) {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.ended {
                return;
            }
            let Some(job) = jobs.heap.pop() else {
                jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(jobs);
            let cell = job.cell.0;
            // Otherwise its sample has ended.
            if Arc::strong_count(&cell) > 1 {
                fill(&cell);
                drop(lock(&self.finishing));
                self.finished.notify_all();
            }
            jobs = lock(&self.jobs);
        }
    }
}

/// Lets a mask list what may follow the tokens so far.
fn fill(cell: &MaskCell) {
    let begin = Instant::now();
    {
        let mut state = lock(&cell.state);
        let MaskState { mask, words, generated, listed } = &mut *state;
        words.fill(0);
        let filled = catch_unwind(AssertUnwindSafe(|| mask.fill(generated, words)));
        *listed = match filled {
            Ok(Ok(allowed)) => Ok(allowed == Allowed::Listed),
            Ok(Err(reason)) => Err(reason),
            Err(panic) => Err(format!("the mask panicked: {}", panic_message(&*panic))),
        };
    }
    cell.spent.fetch_add(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
    cell.ready.store(true, Ordering::Release);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
