//! Which threads go first where several want one core: those of steps, then those that serve, then what clients ask of
//! grammars.
//!
//! What yields has the kernel's idle class, not only a high niceness: a core on which nothing else runs counts as free, so a
//! thread of a step that wakes up goes there, instead of to the core of another thread of the step, and has it at once. A nice
//! thread keeps such a core until the kernel looks again, milliseconds later.

use std::time::Duration;

use crate::error::panic_message;

/// Time slice of a thread that goes first. Linux has a thread that wakes up take the core of one with a longer slice at once,
/// and otherwise wait until that one's slice is over, which it looks at every few milliseconds only.
const SHORT_SLICE: Duration = Duration::from_micros(100);
/// Time slice of a thread that yields.
const LONG_SLICE: Duration = Duration::from_millis(10);
/// How much a thread yields where there is no idle class, as `nice` counts it: on a core that others want as well it gets one
/// part in seventy.
const NICENESS: i32 = 19;
/// The same for a quarter.
const SOMEWHAT: i32 = 5;
/// The same for a tenth.
const RISEN: i32 = 10;

/// Has this thread, and those that it starts, get a core as soon as it wants one, though not more of it than its share. Does
/// nothing but on Linux, from version 6.12 on.
pub(crate) fn run_promptly() {
    set_slice(SHORT_SLICE);
}

/// Has this thread, and the threads and processes that it starts, leave cores to others that want them; it gets what they leave
/// over, and a little more. Nothing changes on a free core, and a thread cannot take it back. Does nothing but on Linux, where
/// each thread has a niceness and a class of its own.
pub fn yield_to_others() {
    #[cfg(target_os = "linux")]
    if let Err(why) = rustix::process::nice(NICENESS) {
        tracing::warn!(%why, "a thread that should yield to others does not");
    }
    set_slice(LONG_SLICE);
    #[cfg(target_os = "linux")]
    if !set_attributes(0, libc::SCHED_IDLE, 0, NICENESS, Duration::ZERO) {
        tracing::debug!("a thread that yields cannot have the idle class, and is only nice");
    }
}

/// The kernel's number of this thread; 0 where /proc does not say.
pub fn this_thread() -> i32 {
    let task = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    let number = task.file_name().and_then(|name| name.to_str()?.parse().ok());
    number.unwrap_or(0)
}

/// What came of [`rise`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rise {
    /// The thread has a share of a core that others want.
    Done,
    /// It yields to nobody, or it has ended.
    NotYielding,
    /// The kernel does not let it: niceness may not be lowered here.
    Refused,
}

/// Has a thread that yields to others get a tenth of a core that another one wants, until [`yield_thread`]; less where niceness
/// may not be lowered as far. It is a thread of this process or of another one of its user's, by the kernel's number.
#[must_use]
pub fn rise(thread: i32) -> Rise {
    raise(thread)
}

#[cfg(not(target_os = "linux"))]
fn raise(_: i32) -> Rise {
    Rise::NotYielding
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn raise(thread: i32) -> Rise {
    // SAFETY: the call takes no pointer. A thread that has ended is an error.
    let class = unsafe { libc::syscall(libc::SYS_sched_getscheduler, thread) };
    if thread <= 0 || class != libc::c_long::from(libc::SCHED_IDLE) {
        return Rise::NotYielding;
    }
    let set = |niceness| set_attributes(thread, libc::SCHED_OTHER, 0, niceness, Duration::ZERO);
    if set(RISEN) || set(NICENESS) { Rise::Done } else { Rise::Refused }
}

/// Has another thread yield to others from now on, by the number that [`this_thread`] gave it. Does nothing but on Linux, and
/// nothing for 0.
pub fn yield_thread(thread: i32) {
    #[cfg(target_os = "linux")]
    if thread > 0 && !set_attributes(thread, libc::SCHED_IDLE, 0, NICENESS, Duration::ZERO) {
        tracing::debug!("a thread that should yield to others does not");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = thread;
}

/// Does work on a thread that yields to others, and waits for it; what it starts yields as well.
///
/// # Errors
/// The thread cannot be started. The work panicked.
pub fn on_yielding_thread<T: Send>(work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let yielding = || {
            yield_to_others();
            work()
        };
        let thread = std::thread::Builder::new().spawn_scoped(scope, yielding)?;
        thread.join().map_err(|panic| std::io::Error::other(panic_message(&*panic)))
    })
}

/// As [`yield_to_others`], but where cores are short this thread still gets a quarter of one that another wants, so that what
/// it computes is not late by much.
pub(crate) fn yield_somewhat() {
    #[cfg(target_os = "linux")]
    if let Err(why) = rustix::process::nice(SOMEWHAT) {
        tracing::warn!(%why, "a thread that should yield to others does not");
    }
}

#[cfg(not(target_os = "linux"))]
fn set_slice(_: Duration) {}

/// Sets the time slice of this thread, where the kernel knows of slices. A refusal leaves it as it is.
#[cfg(target_os = "linux")]
fn set_slice(slice: Duration) {
    let Ok(niceness) = rustix::process::getpriority_process(None) else { return };
    if !set_attributes(0, 0, libc::SCHED_FLAG_KEEP_POLICY as u64, niceness, slice) {
        tracing::debug!("the time slice of a thread cannot be set");
    }
}

/// Sets class, niceness and time slice of a thread, 0 for this one; whether the kernel takes them.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn set_attributes(
    thread: i32,
    class: libc::c_int,
    flags: u64,
    niceness: i32,
    slice: Duration,
) -> bool {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: class as u32,
        sched_flags: flags,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of `attributes` as its `size` says, which are all of it, and keeps no pointer to
    // it. A thread that has ended is an error.
    unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) == 0 }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_yields_is_nicer_and_one_that_goes_first_is_not() {
        let niceness = || rustix::process::getpriority_process(None).expect("a niceness");
        let before = niceness();
        let promptly = std::thread::spawn(move || {
            run_promptly();
            niceness()
        });
        assert_eq!(promptly.join().expect("a thread"), before);
        let yielding = std::thread::spawn(move || {
            yield_to_others();
            niceness()
        });
        assert_eq!(yielding.join().expect("a thread"), (before + NICENESS).min(19));
        assert_eq!(niceness(), before, "no other thread is concerned");
    }

    /// The class of the thread with this number below /proc, as the kernel counts them.
    fn class(task: &str) -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{task}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(38)?.parse().ok()
    }

    #[test]
    fn what_a_yielding_thread_starts_is_of_the_idle_class_too() {
        let before = class("thread-self");
        let (own, started, after) = on_yielding_thread(|| {
            let mut child =
                std::process::Command::new("sleep").arg("60").spawn().expect("a process");
            let started = class(&child.id().to_string());
            child.kill().and_then(|()| child.wait()).expect("its end");
            let thread = std::thread::spawn(|| class("thread-self")).join().expect("a thread");
            (class("thread-self"), started, thread)
        })
        .expect("a thread");
        assert_eq!([own, started, after], [Some(libc::SCHED_IDLE); 3]);
        assert_eq!(class("thread-self"), before, "no other thread is concerned");
        assert!(on_yielding_thread(|| panic!("no work")).is_err());
    }

    #[test]
    fn a_thread_can_be_made_to_yield_by_another() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(this_thread()).expect("a receiver");
            wait.recv().expect("the news");
            class("thread-self")
        });
        let number = receiver.recv().expect("its number");
        assert_eq!(rise(number), Rise::NotYielding);
        yield_thread(number);
        // Where niceness may be lowered, it has a share in between.
        let own = format!("self/task/{number}");
        match rise(number) {
            Rise::Done => assert_eq!(class(&own), Some(libc::SCHED_OTHER)),
            other => assert_eq!((other, class(&own)), (Rise::Refused, Some(libc::SCHED_IDLE))),
        }
        yield_thread(number);
        done.send(()).expect("a receiver");
        assert_eq!(thread.join().expect("a thread"), Some(libc::SCHED_IDLE));
    }
}
