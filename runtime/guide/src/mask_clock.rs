//! The time of masks: one thread looks at every mask that is being worked out, and cancels it when it has had its share of
//! processor time. A mask that is done in time costs a lock and nothing else.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use llguidance::CancellationHandle;

use super::ageing::Aged;

/// Processor time of one mask.
pub const MASK_CPU: Duration = Duration::from_millis(200);
/// Time of one mask by the clock, for a machine that has more to do than it can: a mask yields to steps.
const MASK_TIME: Duration = Duration::from_secs(150);
/// How often masks are looked at.
const TICK: Duration = Duration::from_millis(10);
/// Ticks without a mask after which the thread sleeps.
const IDLE_TICKS: usize = 100;

/// A mask that is being worked out.
struct Running {
    id: u64,
    handle: CancellationHandle,
    /// The thread at work, below /proc.
    task: Option<Arc<str>>,
    started: Instant,
    /// Processor time of that thread when the mask was first looked at.
    cpu: Option<Duration>,
    /// What the thread gets of processors.
    aged: Option<Aged>,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    next_id: u64,
    /// The thread looks at every tick, and needs not be woken.
    awake: bool,
}

#[derive(Default)]
struct Clock {
    state: Mutex<State>,
    work: Condvar,
}

/// Starts the thread, if it does not run yet. The first who watches a mask would start it as well, but threads for masks
/// yield to others, and so would what they start.
pub fn start() {
    clock();
}

/// Ends the watch when it is dropped.
pub(crate) struct Watched(u64);

thread_local! {
    static TASK: Option<Arc<str>> = task();
}

/// Processor time that this thread has had; none where /proc does not say.
#[must_use]
pub fn time_of_this_thread() -> Option<Duration> {
    TASK.with(|task| task.as_deref().and_then(processor_time))
}

/// Watches what this thread does until the result is dropped, and cancels it when its time is over.
pub(crate) fn watch(handle: CancellationHandle) -> Watched {
    let task = TASK.with(Clone::clone);
    let clock = clock();
    let mut state = clock.lock();
    state.next_id += 1;
    let id = state.next_id;
    state.running.push(Running {
        id,
        handle,
        task,
        started: Instant::now(),
        cpu: None,
        aged: None,
    });
    let asleep = !std::mem::replace(&mut state.awake, true);
    drop(state);
    if asleep {
        clock.work.notify_one();
    }
    Watched(id)
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut state = clock().lock();
        if let Some(at) = state.running.iter().position(|running| running.id == self.0) {
            state.running.swap_remove(at);
        }
    }
}

fn clock() -> &'static Clock {
    static CLOCK: OnceLock<&'static Clock> = OnceLock::new();
    CLOCK.get_or_init(|| {
        let clock: &'static Clock = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("mask-clock".to_owned());
        if let Err(why) = thread.spawn(|| clock.run()) {
            tracing::error!(%why, "the time of masks is not bounded: no thread can be started");
        }
        clock
    })
}

impl Clock {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut idle = 0;
        loop {
            std::thread::sleep(TICK);
            let mut state = self.lock();
            idle = if state.running.is_empty() { idle + 1 } else { 0 };
            while state.running.is_empty() && idle >= IDLE_TICKS {
                state.awake = false;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                if state.awake {
                    idle = 0;
                }
            }
            state.running.iter_mut().for_each(Running::look);
        }
    }
}

impl Running {
    fn look(&mut self) {
        let age = self.started.elapsed();
        if age < TICK {
            return;
        }
        if self.aged.is_none() {
            self.aged = self.task.as_deref().and_then(number_of).map(Aged::thread);
        }
        if let Some(aged) = &mut self.aged {
            aged.look();
        }
        let cpu = self.task.as_deref().and_then(processor_time);
        let since = match (cpu, self.cpu) {
            (Some(now), Some(first)) => now.saturating_sub(first),
            (Some(now), None) => {
                self.cpu = Some(now);
                return;
            }
            // Without /proc the clock is what there is.
            (None, _) => age,
        };
        if since > MASK_CPU || age > MASK_TIME {
            self.handle.cancel();
        }
    }
}

/// This thread's file of processor time.
fn task() -> Option<Arc<str>> {
    let task = std::fs::read_link("/proc/thread-self").ok()?;
    let file = Path::new("/proc").join(task).join("schedstat");
    file.exists().then(|| file.to_str().map(Arc::from)).flatten()
}

/// The number of the thread with this file.
fn number_of(task: &str) -> Option<i32> {
    task.split('/').rev().nth(1)?.parse().ok()
}

fn processor_time(task: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(task).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_cancelled_when_its_time_is_over_and_no_sooner() {
        let slow = CancellationHandle::default();
        let watched = watch(slow.clone());
        while !slow.is_cancelled() {
            std::hint::spin_loop();
        }
        drop(watched);
        // One that waits takes no processor time, so it has all of the clock's.
        let (idle, begin) = (CancellationHandle::default(), Instant::now());
        let watched = watch(idle.clone());
        std::thread::sleep(2 * MASK_CPU);
        let (cancelled, waited) = (idle.is_cancelled(), begin.elapsed());
        drop(watched);
        assert!(!cancelled || waited > MASK_TIME || task().is_none(), "{waited:?}");
        // What is over is not cancelled any more.
        let over = CancellationHandle::default();
        let id = watch(over.clone()).0;
        assert!(clock().lock().running.iter().all(|running| running.id != id));
        assert!(!over.is_cancelled());
    }
}
