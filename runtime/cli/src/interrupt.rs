//! Ctrl-C: asks the command to end after the token at hand; a second one, or one while no tokens come, ends at once.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// What a shell expects of a command that was interrupted.
pub(crate) const EXIT_CODE: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Starts to listen.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let again = ASKED.swap(true, Ordering::SeqCst);
        if again || !WATCHED.load(Ordering::SeqCst) {
            let mut stderr = std::io::stderr();
            if stderr.is_terminal() {
                // Plain text and a visible cursor, whatever was being drawn.
                let _ = stderr.write_all(b"\x1b[0m\x1b[?25h\n");
            }
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether the user asked to end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// While it lives, the command looks at [`asked`] often enough to end by itself.
#[derive(Debug)]
pub(crate) struct Watch(());

impl Watch {
    /// Until the value is dropped.
    pub(crate) fn start() -> Watch {
        WATCHED.store(true, Ordering::SeqCst);
        Watch(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::SeqCst);
    }
}

/// Takes note that the request to end was served, and goes on (a chat ends the answer, not itself).
pub(crate) fn clear() {
    ASKED.store(false, Ordering::SeqCst);
}
