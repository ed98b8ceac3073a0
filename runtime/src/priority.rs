//! Which threads go first where several want one core: those of steps, then those that serve, then what clients ask of
//! grammars.

use std::time::Duration;

/// Time slice of a thread that goes first. Linux has a thread that wakes up take the core of one with a longer slice at once,
/// and otherwise wait until that one's slice is over, which it looks at every few milliseconds only.
const SHORT_SLICE: Duration = Duration::from_micros(100);
/// Time slice of a thread that yields.
const LONG_SLICE: Duration = Duration::from_millis(10);
/// How much a thread yields, as `nice` counts it: on a core that others want as well it gets one part in seventy.
const NICENESS: i32 = 19;
/// The same for a quarter.
const SOMEWHAT: i32 = 5;

/// Has this thread, and those that it starts, get a core as soon as it wants one, though not more of it than its share. Does
/// nothing but on Linux, from version 6.12 on.
pub(crate) fn run_promptly() {
    set_slice(SHORT_SLICE);
}

/// Has this thread, and the threads and processes that it starts, leave cores to others that want them; it gets what they leave
/// over, and a little more. Nothing changes on a free core. Does nothing but on Linux, where each thread has a niceness of its
/// own.
pub fn yield_to_others() {
    #[cfg(target_os = "linux")]
    if let Err(why) = rustix::process::nice(NICENESS) {
        tracing::warn!(%why, "a thread that should yield to others does not");
    }
    set_slice(LONG_SLICE);
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
#[allow(unsafe_code)]
fn set_slice(slice: Duration) {
    let Ok(niceness) = rustix::process::getpriority_process(None) else { return };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: slice.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of `attributes` as its `size` says, which are all of it, and keeps no pointer to
    // it. 0 is the calling thread.
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if refused != 0 {
        tracing::debug!("the time slice of a thread cannot be set");
    }
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
}
