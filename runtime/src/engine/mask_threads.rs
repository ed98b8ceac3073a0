//! Masks are computed on threads of their own, beside the steps. A grammar that takes long delays only its own sample. Where
//! a mask leaves one token, the thread goes on with the mask after it: what is forced comes with the first mask that leaves
//! a choice.

mod jobs;
mod start;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jobs::Jobs;
use start::{QuickThread, start, start_quick};

use super::mask::{Allowed, Few, MaskSource, TokenMask, allowed};
use super::validate::ValidatedRequest;
use crate::backend::MASKS_PER_SLOT;
use crate::error::panic_message;
use crate::priority::yield_thread;

/// How long a wait for masks keeps its core before it sleeps: most masks take less than waking up would add.
const SPIN: Duration = Duration::from_micros(100);

/// A sample whose last mask took no longer than this is quick: steps wait for its masks, and a thread of their own computes
/// them where the others are at work on slow ones.
const QUICK: Duration = Duration::from_millis(2);

/// Most threads that were quick and are at work on a mask that is not.
const MAX_OVERTAKEN: usize = 8;

/// A sample's grammar and the words that it wrote last.
pub(super) struct MaskState {
    source: Arc<dyn MaskSource>,
    /// Which sample of the request it is.
    sample: usize,
    /// The grammar, from the first mask on: starting it may copy much, which is no work for the engine's thread.
    mask: Option<Box<dyn TokenMask>>,
    vocab: usize,
    words: Vec<u32>,
    /// All tokens that the sample has generated, and then those that are forced.
    generated: Vec<u32>,
    /// How many of them are forced since the last request.
    forced: usize,
    /// How many may be.
    max_forced: usize,
    request: Arc<ValidatedRequest>,
    /// The masks of the sample's sequence slot as the backend has them, or will; empty before the first.
    of_slot: [Vec<u32>; MASKS_PER_SLOT],
    /// The one of them that was used last.
    last: usize,
    /// Which of them the words are, and whether the backend must be given it.
    place: Option<(usize, bool)>,
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
    /// Whether its sample left a sequence slot since the last mask was placed.
    left_slot: AtomicBool,
    /// Microseconds that its masks have taken, and those of the last one.
    spent: AtomicU64,
    last: AtomicU64,
    /// Whether its sample has ended.
    ended: AtomicBool,
}

/// The mask of one sample, shared with the thread that computes it.
#[derive(Clone)]
pub(super) struct SampleMask(Arc<MaskCell>);

impl std::fmt::Debug for SampleMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleMask").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

/// What came of a request for a mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MaskResult {
    /// The tokens that are forced; the mask is that of the token after them.
    Ready(Vec<u32>),
    /// Why the sample must end.
    Failed(String),
}

impl SampleMask {
    /// The mask of this sample of a request, from a source of its own.
    pub(super) fn new(
        source: &Arc<dyn MaskSource>,
        sample: usize,
        vocab: usize,
        request: &Arc<ValidatedRequest>,
    ) -> SampleMask {
        let state = MaskState {
            source: Arc::clone(source),
            sample,
            mask: None,
            vocab,
            words: Vec::new(),
            generated: Vec::new(),
            forced: 0,
            max_forced: 0,
            request: Arc::clone(request),
            of_slot: Default::default(),
            last: 0,
            place: None,
            listed: Ok(false),
        };
        SampleMask(Arc::new(MaskCell {
            state: Mutex::new(state),
            ready: AtomicBool::new(true),
            left_slot: AtomicBool::new(false),
            spent: AtomicU64::new(0),
            last: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }))
    }

    /// Whether its next mask is likely to be there within this time: the last one was.
    pub(super) fn is_likely_within(&self, time: Duration) -> bool {
        u128::from(self.0.last.load(Ordering::Relaxed)) <= time.as_micros()
    }

    /// Whether the last mask that was requested is computed.
    pub(super) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// What came of the last request. Only for a mask that is ready.
    pub(super) fn result(&self) -> MaskResult {
        let state = lock(&self.0.state);
        match &state.listed {
            Err(reason) => MaskResult::Failed(reason.clone()),
            Ok(_) => {
                let known = state.generated.len() - state.forced;
                MaskResult::Ready(state.generated[known..].to_vec())
            }
        }
    }

    /// The mask of the slot for the next token, and whether the backend must be given it; `None` if every token is
    /// allowed. Only for a mask that is ready.
    pub(super) fn place(&self) -> Option<(usize, bool)> {
        let mut state = lock(&self.0.state);
        if self.0.left_slot.swap(false, Ordering::Relaxed) {
            state.of_slot.iter_mut().for_each(Vec::clear);
            state.place = None;
        }
        if state.place.is_none() && state.listed == Ok(true) {
            state.find_place();
        }
        state.place
    }

    /// Records that the sample left its sequence slot, so that the backend has none of its masks.
    pub(super) fn leave_slot(&self) {
        self.0.left_slot.store(true, Ordering::Relaxed);
    }

    /// Hands the words of a mask of the slot to `give`.
    pub(super) fn give<T>(&self, mask: usize, give: impl FnOnce(&[u32]) -> T) -> T {
        give(&lock(&self.0.state).of_slot[mask])
    }

    /// The words of the last mask; `None` if every token is allowed. Only for a mask that is ready.
    ///
    /// # Errors
    /// Why the grammar ends the sample.
    pub(super) fn listed(&self) -> Result<Option<MutexGuard<'_, MaskState>>, String> {
        let state = lock(&self.0.state);
        let listed = state.listed.clone()?;
        Ok(listed.then_some(state))
    }
}

impl MaskCell {
    fn is_quick(&self) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && u128::from(last) <= QUICK.as_micros()
    }
}

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    /// A job was added, or the engine is gone.
    work: Condvar,
    /// The same for the thread that does only quick ones.
    quick_work: Condvar,
    /// Held for a moment by whoever finishes a mask, so that no notification is lost.
    finishing: Mutex<()>,
    finished: Condvar,
    /// Threads that were overtaken and have not ended.
    overtaken: AtomicUsize,
}

/// The threads, which start with the first mask.
#[derive(Default)]
pub(super) struct MaskThreads {
    shared: Arc<Shared>,
    /// How many there are, once they were started.
    threads: Option<usize>,
    /// The one for quick masks.
    quick: Option<Arc<QuickThread>>,
    /// Whether steps are computed on the same cores.
    beside_steps: bool,
    /// Engines that share the cores.
    engines: usize,
    /// Instead of threads: masks that come late, as a simulation decides.
    #[cfg(test)]
    late: Option<LateMasks>,
}

/// Masks that are computed when the engine looks for them, each after a number of looks that a seed decides.
#[cfg(test)]
#[derive(Default)]
pub(super) struct LateMasks {
    seed: u64,
    waiting: Vec<(SampleMask, u64)>,
}

impl MaskThreads {
    /// Threads that start with the first mask; `beside_steps` if steps are computed on the same cores.
    pub(super) fn new(beside_steps: bool) -> MaskThreads {
        MaskThreads {
            shared: Arc::default(),
            threads: None,
            quick: None,
            beside_steps,
            engines: 1,
            #[cfg(test)]
            late: None,
        }
    }

    /// Has so many engines share the cores; for threads that are not started yet.
    pub(super) fn share_cores(&mut self, engines: usize) {
        self.engines = engines;
    }

    /// Replaces the thread for quick masks if its mask turns out to be slow. Called once in each step, so that such a mask
    /// holds up neither the quick ones after it nor, for long, the cores of steps.
    pub(super) fn overtake_slow(&mut self) {
        let Some(quick) = self.quick.as_ref().filter(|quick| quick.is_slow()) else { return };
        if self.shared.overtaken.load(Ordering::Relaxed) >= MAX_OVERTAKEN {
            return;
        }
        let Some(next) = start_quick(&self.shared) else { return };
        self.shared.overtaken.fetch_add(1, Ordering::Relaxed);
        quick.overtaken.store(true, Ordering::Release);
        if self.beside_steps {
            yield_thread(quick.id.load(Ordering::Relaxed));
        }
        self.quick = Some(next);
        // The one that was overtaken may be waiting for work by now, and would take the news of it from its successor. The lock
        // lets it begin to wait before it is notified, if it looked before it was overtaken.
        drop(lock(&self.shared.jobs));
        self.shared.quick_work.notify_all();
    }

    /// No threads: each mask is computed where it is requested, so that nothing depends on when threads run.
    #[cfg(test)]
    pub(super) fn none() -> MaskThreads {
        let mut threads = MaskThreads::default();
        threads.threads = Some(0);
        threads
    }

    /// No threads, and masks that are late by some looks for them, none at best.
    #[cfg(test)]
    pub(super) fn late(seed: u64) -> MaskThreads {
        let mut threads = MaskThreads::none();
        threads.late = Some(LateMasks { seed: seed | 1, waiting: Vec::new() });
        threads
    }

    /// Lets masks that are late come nearer.
    #[cfg(test)]
    pub(super) fn tick(&mut self) {
        if let Some(late) = &mut self.late {
            let (now, later) =
                std::mem::take(&mut late.waiting).into_iter().partition(|(_, left)| *left == 0);
            let now: Vec<(SampleMask, u64)> = now;
            now.iter().for_each(|(mask, _)| fill(&mask.0));
            late.waiting = later;
            late.waiting.iter_mut().for_each(|(_, left)| *left -= 1);
        }
    }

    /// Computes the mask after these tokens, all that its sample has generated, or after those that it forces, at most
    /// `max_forced`.
    pub(super) fn compute(&mut self, mask: &SampleMask, generated: &[u32], max_forced: usize) {
        {
            let mut state = lock(&mask.0.state);
            let known = state.generated.len();
            state.generated.extend_from_slice(generated.get(known..).unwrap_or_default());
            (state.forced, state.max_forced) = (0, max_forced);
        }
        mask.0.ready.store(false, Ordering::Release);
        #[cfg(test)]
        if let Some(late) = &mut self.late {
            // Most masks are there in time.
            late.seed =
                late.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let left = (late.seed >> 33) % 8;
            late.waiting.push((mask.clone(), left.saturating_sub(4)));
            return;
        }
        let threads = match self.threads {
            Some(threads) => threads,
            None => {
                self.quick = start_quick(&self.shared);
                let threads = start(&self.shared, self.beside_steps, self.engines);
                *self.threads.insert(threads)
            }
        };
        if threads == 0 {
            // Without threads a mask delays all samples, which is better than no mask.
            fill(&mask.0);
            return;
        }
        let quick = mask.0.is_quick();
        lock(&self.shared.jobs).push(Arc::clone(&mask.0), quick);
        self.shared.work.notify_one();
        if quick {
            self.shared.quick_work.notify_one();
        }
    }

    /// Frees the masks of samples that have ended, on the threads that compute masks: a grammar may take so much memory
    /// that giving it back would hold up a step.
    pub(super) fn discard(&mut self, ended: Vec<SampleMask>) {
        if ended.is_empty() || self.threads.is_none_or(|threads| threads == 0) {
            return;
        }
        let mut jobs = lock(&self.shared.jobs);
        for SampleMask(cell) in ended {
            cell.ended.store(true, Ordering::Relaxed);
            jobs.push(cell, false);
            self.shared.work.notify_one();
        }
    }

    /// Waits until all (`true`) or any (`false`) of these masks are ready, at most this long.
    pub(super) fn wait(&self, masks: &[SampleMask], all: bool, limit: Duration) {
        #[cfg(test)]
        if self.late.is_some() {
            return;
        }
        let (end, spinning) = (Instant::now() + limit, Instant::now() + SPIN);
        let done = || match all {
            true => masks.iter().all(SampleMask::is_ready),
            false => masks.iter().any(SampleMask::is_ready),
        };
        while !done() && Instant::now() < spinning.min(end) {
            std::hint::spin_loop();
        }
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
        self.shared.quick_work.notify_all();
    }
}

impl Shared {
    /// Computes masks: only quick ones as a quick thread, until it is overtaken.
    fn run(&self, quick: Option<&QuickThread>) {
        let work = if quick.is_some() { &self.quick_work } else { &self.work };
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.ended || quick.is_some_and(|quick| quick.overtaken.load(Ordering::Acquire)) {
                return;
            }
            let Some(job) = jobs.pop(quick.is_some()) else {
                jobs = work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(jobs);
            let cell = job.cell.0;
            if !cell.ended.load(Ordering::Relaxed) {
                quick.inspect(|quick| quick.begins());
                fill(&cell);
                quick.inspect(|quick| quick.ends());
                drop(lock(&self.finishing));
                self.finished.notify_all();
            }
            drop(cell);
            jobs = lock(&self.jobs);
        }
    }
}

/// Lets a mask list what may follow the tokens so far, and those that it forces.
fn fill(cell: &MaskCell) {
    let begin = Instant::now();
    lock(&cell.state).fill();
    let taken = begin.elapsed().as_micros() as u64;
    cell.spent.fetch_add(taken, Ordering::Relaxed);
    cell.last.store(taken.max(1), Ordering::Relaxed);
    cell.ready.store(true, Ordering::Release);
}

impl MaskState {
    fn fill(&mut self) {
        self.place = None;
        self.fill_words();
        if self.listed == Ok(true) {
            self.find_place();
        }
    }

    /// Finds the words among the masks that the backend has, or replaces the one of them that was used longer ago.
    fn find_place(&mut self) {
        let MaskState { words, of_slot, place, last, .. } = self;
        let known = of_slot.iter().position(|mask| mask == words);
        *last = known.unwrap_or((*last + 1) % MASKS_PER_SLOT);
        if known.is_none() {
            words.clone_into(&mut of_slot[*last]);
        }
        *place = Some((*last, known.is_none()));
    }

    fn fill_words(&mut self) {
        loop {
            self.listed = self.fill_once();
            let Ok(true) = self.listed else { return };
            match allowed(&self.words) {
                Few::None => {
                    let why = "the mask allows no token; a grammar that is complete must allow a stop token";
                    self.listed = Err(why.to_owned());
                    return;
                }
                Few::One(token) if self.forced < self.max_forced => {
                    self.generated.push(token);
                    self.forced += 1;
                    // The sample ends here, so that no further mask is needed.
                    let stops = self.request.stop_ids.binary_search(&token).is_ok();
                    if stops || self.generated.len() == self.request.max_tokens {
                        return;
                    }
                }
                Few::One(_) | Few::Several => return,
            }
        }
    }

    /// Whether only the tokens in `words` are allowed.
    fn fill_once(&mut self) -> Result<bool, String> {
        let MaskState { source, sample, mask, vocab, words, generated, .. } = self;
        words.clear();
        words.resize(vocab.div_ceil(u32::BITS as usize), 0);
        let mut fill = || mask.get_or_insert_with(|| source.start(*sample)).fill(generated, words);
        match catch_unwind(AssertUnwindSafe(&mut fill)) {
            Ok(filled) => filled.map(|allowed| allowed == Allowed::Listed),
            Err(panic) => Err(format!("the mask panicked: {}", panic_message(&*panic))),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::request::{Request, RequestId};
    use super::super::testing::SPEC;
    use super::super::validate::validate;
    use super::start::MAX_THREADS;
    use super::*;
    use crate::backend::Limits;

    /// Takes some time for each mask.
    #[derive(Clone, Copy)]
    struct Sleepy(Duration);

    impl MaskSource for Sleepy {
        fn start(&self, _: usize) -> Box<dyn TokenMask> {
            Box::new(*self)
        }
    }

    impl TokenMask for Sleepy {
        fn fill(&mut self, _: &[u32], _: &mut [u32]) -> Result<Allowed, String> {
            std::thread::sleep(self.0);
            Ok(Allowed::All)
        }
    }

    fn mask_of(source: impl MaskSource + 'static) -> SampleMask {
        let limits = Limits { max_sequences: 1, max_step_tokens: 16, pages: 4 };
        let request = Request::new(vec![1, 2], Default::default());
        let request = validate(RequestId(0), request, &SPEC, &limits, Instant::now());
        let source: Arc<dyn MaskSource> = Arc::new(source);
        SampleMask::new(&source, 0, SPEC.vocab, &Arc::new(request.expect("a request")))
    }

    /// Waits until somebody opens.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<bool>, Condvar)>);

    impl MaskSource for Gate {
        fn start(&self, _: usize) -> Box<dyn TokenMask> {
            Box::new(self.clone())
        }
    }

    impl TokenMask for Gate {
        fn fill(&mut self, _: &[u32], _: &mut [u32]) -> Result<Allowed, String> {
            let (open, opened) = &*self.0;
            drop(opened.wait_while(lock(open), |open| !*open));
            Ok(Allowed::All)
        }
    }

    #[test]
    fn slow_masks_hold_up_no_quick_one() {
        let (mut threads, gate) = (MaskThreads::default(), Gate::default());
        let slow: Vec<SampleMask> = (0..MAX_THREADS).map(|_| mask_of(gate.clone())).collect();
        slow.iter().for_each(|mask| threads.compute(mask, &[], 0));
        let quick = mask_of(Sleepy(Duration::ZERO));
        quick.0.last.store(1, Ordering::Relaxed);
        threads.compute(&quick, &[], 0);
        threads.wait(std::slice::from_ref(&quick), true, Duration::from_secs(300));
        assert!(quick.is_ready() && !slow.iter().any(SampleMask::is_ready));
        *lock(&gate.0.0) = true;
        gate.0.1.notify_all();
        threads.wait(&slow, true, Duration::from_secs(300));
        assert!(slow.iter().all(SampleMask::is_ready));
    }

    #[test]
    fn a_quick_mask_that_turns_out_slow_holds_up_no_other_quick_one() {
        let (mut threads, gate) = (MaskThreads::new(true), Gate::default());
        let mask = |source: &Gate, quick: bool| {
            let mask = mask_of(source.clone());
            mask.0.last.store(u64::from(quick), Ordering::Relaxed);
            mask
        };
        let slow: Vec<SampleMask> = (0..MAX_THREADS).map(|_| mask(&gate, false)).collect();
        slow.iter().for_each(|mask| threads.compute(mask, &[], 0));
        // Each of these is the quick thread's work, and keeps it.
        for _ in 0..3 {
            let stuck = mask(&gate, true);
            threads.compute(&stuck, &[], 0);
            let quick = mask_of(Sleepy(Duration::ZERO));
            quick.0.last.store(1, Ordering::Relaxed);
            threads.compute(&quick, &[], 0);
            while !quick.is_ready() {
                threads.overtake_slow();
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!stuck.is_ready());
        }
        assert!(threads.shared.overtaken.load(Ordering::Relaxed) >= 3);
        *lock(&gate.0.0) = true;
        gate.0.1.notify_all();
        threads.wait(&slow, true, Duration::from_secs(300));
        while threads.shared.overtaken.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_grammar_that_was_late_is_not_waited_for_again() {
        let time = Duration::from_millis(20);
        let mask = mask_of(Sleepy(time));
        assert!(mask.is_likely_within(Duration::ZERO), "nothing is known of it yet");
        fill(&mask.0);
        assert!(!mask.is_likely_within(time / 2));
        let taken = Duration::from_micros(mask.0.last.load(Ordering::Relaxed));
        assert!(taken >= time && mask.is_likely_within(taken));
    }
}
