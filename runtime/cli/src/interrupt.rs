//! Ctrl-C requests that the command end after the current token. A second one, or one while no tokens come, ends it at once.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;

/// What a shell expects of a command that was interrupted.
pub(crate) const EXIT_CODE: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WATCHED: AtomicBool = AtomicBool::new(false);
static HINT: Mutex<Option<&str>> = Mutex::new(None);

fn hint() -> MutexGuard<'static, Option<&'static str>> {
    HINT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to listen.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let again = REQUESTED.swap(true, Ordering::SeqCst);
        if again || !WATCHED.load(Ordering::SeqCst) {
            let mut stderr = std::io::stderr();
            if stderr.is_terminal() {
                // Plain text and a visible cursor, whatever was being printed.
                let _ = stderr.write_all(b"\x1b[0m\x1b[?25h\n");
            }
            if let Some(hint) = *hint() {
                let _ = writeln!(stderr, "interrupted\nhint: {hint}");
            }
            std::process::exit(EXIT_CODE.into());
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether the user has requested the end.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// While it lives, the command polls [`requested`] often enough to end by itself.
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

/// What to print where the command is interrupted at once.
#[derive(Debug)]
pub(crate) struct Hint(());

impl Hint {
    /// Until the value is dropped.
    pub(crate) fn new(text: &'static str) -> Hint {
        *hint() = Some(text);
        Hint(())
    }
}

impl Drop for Hint {
    fn drop(&mut self) {
        *hint() = None;
    }
}

/// Forgets the request once it has been served (a chat ends the answer, not itself).
pub(crate) fn clear() {
    REQUESTED.store(false, Ordering::SeqCst);
}
