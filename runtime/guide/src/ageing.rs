//! Ageing of work that yields to all others. Programs that leave no core a pause would hold it up for as long as they run; so
//! threads that have had next to nothing of a processor for a while get a share of one for a while, again and again. What that
//! takes from others is bounded: half a second of processor time in more than five, at a niceness of ten.
//!
//! The kernel lets a thread leave the idle class only where niceness may be lowered (`CAP_SYS_NICE`, or `RLIMIT_NICE` of at
//! least 1); elsewhere such work waits until a core is free.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use ossmith::unstable::{Rise, rise, this_thread, yield_thread, yield_to_others};

/// Time after which work that got less than [`LEAST`] of a processor rises.
const WAIT: Duration = Duration::from_secs(5);
/// Processor time that is worth not rising: a fiftieth of the wait.
const LEAST: Duration = Duration::from_millis(100);
/// Processor time, and time by the clock, after which work that has risen yields again.
const SLICE: Duration = Duration::from_millis(500);
const SLICE_TIME: Duration = Duration::from_secs(10);
/// How often threads are looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// What work that waits for a processor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Rise,
    Yield,
}

/// The policy: when work rises and yields, by the clock and by its processor time.
#[derive(Debug)]
struct Ageing {
    /// Since when it waits, or has risen, and its processor time then.
    since: Instant,
    cpu: Duration,
    risen: bool,
}

impl Ageing {
    fn look(&mut self, now: Instant, cpu: Duration) -> Option<Turn> {
        let (time, got) = (now.saturating_duration_since(self.since), cpu.saturating_sub(self.cpu));
        let is_over = match self.risen {
            true => got >= SLICE || time >= SLICE_TIME,
            false => time >= WAIT,
        };
        if !is_over {
            return None;
        }
        let turn = match self.risen {
            true => Some(Turn::Yield),
            false => (got < LEAST).then_some(Turn::Rise),
        };
        *self = Ageing { since: now, cpu, risen: turn == Some(Turn::Rise) };
        turn
    }
}

/// Whose threads are looked at.
#[derive(Clone, Copy, Debug)]
enum Threads {
    /// One of this process, by the kernel's number.
    One(i32),
    /// All of another process.
    Process(u32),
}

impl Threads {
    fn numbers(self) -> Vec<i32> {
        match self {
            Threads::One(number) => vec![number],
            Threads::Process(process) => {
                let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
                let names = tasks.into_iter().flatten().flatten().map(|task| task.file_name());
                names.filter_map(|name| name.to_str()?.parse().ok()).collect()
            }
        }
    }

    /// Their processor time; none where /proc does not say.
    fn cpu(self) -> Option<Duration> {
        let process = match self {
            Threads::One(_) => "self".to_owned(),
            Threads::Process(process) => process.to_string(),
        };
        let time = |number: i32| {
            let text = std::fs::read_to_string(format!("/proc/{process}/task/{number}/schedstat"));
            text.ok()?.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
        };
        let times: Vec<Duration> = self.numbers().into_iter().filter_map(time).collect();
        (!times.is_empty()).then(|| times.iter().sum())
    }
}

/// Threads that yield, and what they had of processors. Those that have risen yield again when it is dropped.
#[derive(Debug)]
pub(crate) struct Aged {
    threads: Threads,
    ageing: Option<Ageing>,
    looked: Instant,
    risen: bool,
}

impl Aged {
    /// A thread of this process.
    pub(crate) fn thread(number: i32) -> Aged {
        Aged::new(Threads::One(number))
    }

    /// All threads of another process of this user's.
    pub(crate) fn process(number: u32) -> Aged {
        Aged::new(Threads::Process(number))
    }

    fn new(threads: Threads) -> Aged {
        Aged { threads, ageing: None, looked: Instant::now(), risen: false }
    }

    /// Begins anew: what the threads do now is other work.
    pub(crate) fn begin(&mut self) {
        self.lower();
        (self.ageing, self.looked) = (None, Instant::now());
    }

    /// Looks whether the threads have to rise or to yield. Called often while their work is waited for.
    pub(crate) fn look(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < INTERVAL {
            return;
        }
        self.looked = now;
        let Some(cpu) = self.threads.cpu() else { return };
        let ageing = self.ageing.get_or_insert(Ageing { since: now, cpu, risen: false });
        match ageing.look(now, cpu) {
            None => {}
            Some(Turn::Yield) => self.lower(),
            Some(Turn::Rise) => {
                for number in self.threads.numbers() {
                    match rise(number) {
                        Rise::Done => self.risen = true,
                        Rise::NotYielding => {}
                        Rise::Refused => warn(),
                    }
                }
            }
        }
    }

    fn lower(&mut self) {
        // Those that were started meanwhile have risen, too.
        if std::mem::take(&mut self.risen) {
            self.threads.numbers().into_iter().for_each(yield_thread);
        }
    }
}

impl Drop for Aged {
    fn drop(&mut self) {
        self.lower();
    }
}

fn warn() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::warn!(
            "grammars wait for a free core, and other programs leave none; give this program CAP_SYS_NICE or RLIMIT_NICE, \
             so that they get a share"
        );
    });
}

/// Why there is no result of work on a thread.
#[derive(Debug)]
pub enum Unfinished {
    /// No thread can be started for it.
    NoThread(std::io::Error),
    /// It goes on, but nobody waits for it any more.
    Late,
    /// It panicked.
    Panicked,
}

/// Does work on a thread with a stack of this size that yields to all others, but for a share of a core now and then where they leave
/// none, and waits for it this long.
///
/// # Errors
/// There is no result.
pub fn on_aged_thread<T: Send + 'static>(
    stack_bytes: usize,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    let (sender, outcomes) = sync_channel(1);
    let number: Arc<AtomicI32> = Arc::default();
    let own = Arc::clone(&number);
    let run = move || {
        own.store(this_thread(), Ordering::Relaxed);
        yield_to_others();
        // Who gave up waiting needs no answer.
        let _ = sender.send(work());
    };
    let begin = Instant::now();
    let thread = std::thread::Builder::new().stack_size(stack_bytes);
    thread.spawn(run).map_err(Unfinished::NoThread)?;
    let mut aged: Option<Aged> = None;
    loop {
        match outcomes.recv_timeout(INTERVAL) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Disconnected) => return Err(Unfinished::Panicked),
            Err(RecvTimeoutError::Timeout) if begin.elapsed() > limit => {
                return Err(Unfinished::Late);
            }
            Err(RecvTimeoutError::Timeout) => {
                let number = number.load(Ordering::Relaxed);
                aged.get_or_insert_with(|| Aged::thread(number)).look();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_long_rises_for_a_bounded_time() {
        let begin = Instant::now();
        let (at, cpu) = (|ms: u64| begin + Duration::from_millis(ms), Duration::from_millis);
        let mut ageing = Ageing { since: begin, cpu: Duration::ZERO, risen: false };
        // (milliseconds by the clock, processor time so far, what it does)
        for (now, got, want) in [
            (4999, 0, None),
            // A share of a fiftieth is enough.
            (5000, 100, None),
            (9999, 150, None),
            (10_000, 199, Some(Turn::Rise)),
            (10_400, 600, None),
            // Its slice is over.
            (10_600, 699, Some(Turn::Yield)),
            (15_500, 699, None),
            (15_600, 699, Some(Turn::Rise)),
            // Or its time by the clock is.
            (25_599, 1100, None),
            (25_600, 1100, Some(Turn::Yield)),
            (30_600, 1100, Some(Turn::Rise)),
        ] {
            assert_eq!(ageing.look(at(now), cpu(got)), want, "{now} ms");
        }
        // Work that never waits again has risen for a tenth of the time at most.
        let mut ageing = Ageing { since: begin, cpu: Duration::ZERO, risen: false };
        let (mut got, mut risen_ms) = (0, 0);
        for now in (0..100_000).step_by(10) {
            // A whole core while it has risen, and nothing otherwise.
            if ageing.risen {
                (got, risen_ms) = (got + 10, risen_ms + 10);
            }
            ageing.look(at(now), cpu(got));
        }
        assert!(risen_ms > 8000 && risen_ms <= 10_000, "{risen_ms}");
    }

    #[test]
    fn work_on_an_aged_thread_has_a_result_or_a_reason() {
        let (stack, long) = (1 << 20, Duration::from_secs(600));
        assert_eq!(on_aged_thread(stack, long, || 7).expect("a thread"), 7);
        let panicked: Result<(), _> = on_aged_thread(stack, long, || panic!("as this test wants"));
        assert!(matches!(panicked, Err(Unfinished::Panicked)), "{panicked:?}");
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let late = on_aged_thread(stack, Duration::ZERO, move || wait.recv().is_ok());
        assert!(matches!(late, Err(Unfinished::Late)), "{late:?}");
        drop(end);
    }
}
