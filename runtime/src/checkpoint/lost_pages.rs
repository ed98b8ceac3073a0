//! Mapped files that are cut short while they are mapped. Reading a page that a file has lost raises SIGBUS, and a process
//! that dies of it says nothing. [`end_on_lost_pages`] has it end with a sentence that names the file.
//!
//! A signal handler may do little: it reads the list of maps, which is never freed, and calls `write` and `_exit`.

use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use memmap2::{Mmap, UncheckedAdvice};

/// A file in memory, listed for the handler as long as it is there.
pub(super) struct MappedFile {
    map: Mmap,
    listed: &'static Listed,
}

/// A map as the handler finds it. Its memory is never freed, because the handler may be reading it; a checkpoint has a
/// handful of files.
struct Listed {
    start: AtomicUsize,
    end: AtomicUsize,
    path: CString,
    next: AtomicPtr<Listed>,
}

static MAPS: AtomicPtr<Listed> = AtomicPtr::new(null_mut());
/// What was done at SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl MappedFile {
    pub(super) fn new(map: Mmap, path: &Path) -> MappedFile {
        let start = map.as_ptr() as usize;
        let listed = Box::leak(Box::new(Listed {
            start: AtomicUsize::new(start),
            end: AtomicUsize::new(start + map.len().next_multiple_of(page_bytes())),
            // A path has no NUL: the file was opened by it.
            path: CString::new(path.as_os_str().as_bytes()).unwrap_or_default(),
            next: AtomicPtr::new(MAPS.load(Ordering::Acquire)),
        }));
        let place: *mut Listed = listed;
        let listed = &*listed;
        let link = |first| {
            listed.next.store(first, Ordering::Relaxed);
            Some(place)
        };
        // The closure never refuses.
        let _ = MAPS.fetch_update(Ordering::AcqRel, Ordering::Acquire, link);
        MappedFile { map, listed }
    }

    /// Takes pages out of the process; they are read from the file again when they are used again.
    #[allow(unsafe_code)]
    pub(super) fn release(&self, range: Range<usize>) {
        let page = page_bytes();
        let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
        if start < end {
            // SAFETY: the map is private and never written, so that its pages hold what the file does. A failure leaves
            // them where they are.
            let _ = unsafe {
                self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
            };
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        self.listed.end.store(0, Ordering::Release);
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.map.fmt(f)
    }
}

/// From now on a lost page of a checkpoint's file ends the process with a sentence on standard error and exit code 1. A
/// program calls this once, at its start; a library leaves signals alone.
#[allow(unsafe_code)]
pub fn end_on_lost_pages() {
    // SAFETY: all-zero is a valid `sigaction`, which is filled in before it is used; the handler has the signature that
    // SA_SIGINFO asks for and does only what a handler may. SA_ONSTACK uses the stack that Rust's runtime has set up.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        let mut previous: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) == 0 {
            // Set once: a second call finds this handler itself.
            let _ = PREVIOUS.set(previous);
        }
    }
}

#[allow(unsafe_code)]
extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(path) = path_at(address) {
        for part in [
            &b"error: "[..],
            path,
            b" was cut short, or can no longer be read, while it was in use\nhint: put the whole file back and start again; replace files by renaming new ones over them\n",
        ] {
            say(part);
        }
        // SAFETY: `_exit` ends the process without running anything else.
        unsafe { libc::_exit(1) }
    }
    // Not of a map of ours: as it was before. The instruction runs again, and raises the signal again.
    let previous: *const libc::sigaction =
        PREVIOUS.get().map_or(std::ptr::null(), |previous| previous);
    // SAFETY: `previous` is what `sigaction` gave, or all-zero, which is the default action.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        let action = if previous.is_null() { &raw const default } else { previous };
        libc::sigaction(signal, action, null_mut());
    }
}

/// Bytes of a page: the last one of a file is mapped whole.
#[allow(unsafe_code)]
fn page_bytes() -> usize {
    // SAFETY: the call reads a constant of the system.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The path of the map that an address lies in.
#[allow(unsafe_code)]
fn path_at(address: usize) -> Option<&'static [u8]> {
    let mut place = MAPS.load(Ordering::Acquire);
    while !place.is_null() {
        // SAFETY: what is in the list was leaked, so it lives for ever, and nothing writes to it but atomically.
        let listed = unsafe { &*place };
        let end = listed.end.load(Ordering::Acquire);
        if (listed.start.load(Ordering::Acquire)..end).contains(&address) {
            return Some(listed.path.as_bytes());
        }
        place = listed.next.load(Ordering::Acquire);
    }
    None
}

/// Writes to standard error if that takes no time: a reader who does not read must not hold up the end.
#[allow(unsafe_code)]
fn say(text: &[u8]) {
    let mut ready = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: both calls may be made in a handler, and get pointers to what lives here with its length.
    unsafe {
        if libc::poll(&raw mut ready, 1, 100) > 0 {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn an_address_leads_to_the_file_that_is_mapped_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        let maps = paths.each_ref().map(|path| {
            std::fs::write(path, [1; 5000]).expect("a file");
            let file = std::fs::File::open(path).expect("a file");
            // SAFETY: nothing changes the file while it is mapped.
            let map = unsafe { Mmap::map(&file) }.expect("a map");
            MappedFile::new(map, path)
        });
        for (map, path) in maps.iter().zip(&paths) {
            let start = map.bytes().as_ptr() as usize;
            let expected = Some(path.as_os_str().as_bytes());
            assert_eq!((path_at(start), path_at(start + 4999)), (expected, expected));
        }
        let [one, two] = maps;
        let (gone, there) = (one.bytes().as_ptr() as usize, two.bytes().as_ptr() as usize);
        drop(one);
        assert!(path_at(gone).is_none_or(|path| path != paths[0].as_os_str().as_bytes()));
        assert!(path_at(there).is_some() && path_at(8).is_none());
    }
}
