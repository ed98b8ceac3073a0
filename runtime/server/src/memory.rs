//! Memory that large requests leave behind goes back to the system: an allocator keeps what was freed for the next time, and
//! after a burst of large bodies or grammars that may be gigabytes. A thread gives it back a moment after it was released.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Less than this is not worth the work.
pub(crate) const WORTH_BYTES: usize = 1 << 20;
/// Time from the release until memory is given back, and until what was released since is given back too: the answer of a
/// large request goes after its body.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];

#[derive(Default)]
struct Released {
    any: Mutex<bool>,
    wake: Condvar,
}

/// Says that much memory was freed.
pub(crate) fn released() {
    static RELEASED: OnceLock<&'static Released> = OnceLock::new();
    let released = RELEASED.get_or_init(|| {
        let released: &'static Released = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("memory".to_owned());
        if let Err(why) = thread.spawn(|| released.run()) {
            tracing::error!(%why, "no thread can be started that gives memory back");
        }
        released
    });
    *released.any.lock().unwrap_or_else(PoisonError::into_inner) = true;
    released.wake.notify_one();
}

impl Released {
    fn run(&self) {
        loop {
            let mut any = self.any.lock().unwrap_or_else(PoisonError::into_inner);
            while !*any {
                any = self.wake.wait(any).unwrap_or_else(PoisonError::into_inner);
            }
            drop(any);
            for pause in PAUSES {
                std::thread::sleep(pause);
                *self.any.lock().unwrap_or_else(PoisonError::into_inner) = false;
                ossmith::unstable::release_memory();
            }
        }
    }
}
