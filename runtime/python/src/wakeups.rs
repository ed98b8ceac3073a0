//! How streams wake an event loop of Python's: the engine's thread notes the stream and writes a byte to a pipe that the
//! loop watches. It never waits for the interpreter.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The streams that have events, and the pipe.
#[derive(Debug)]
pub(crate) struct Wakeups {
    ready: Mutex<Vec<u64>>,
    reader: UnixStream,
    writer: UnixStream,
}

impl Wakeups {
    pub(crate) fn new() -> io::Result<Arc<Wakeups>> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Arc::new(Wakeups { ready: Mutex::default(), reader, writer }))
    }

    /// What the event loop watches for reading.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// The streams that were woken since the last call.
    pub(crate) fn take(&self) -> Vec<u64> {
        // The bytes go first: whoever finds the list empty after this writes another one.
        let mut bytes = [0; 64];
        while (&self.reader).read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
        std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The waker of a stream.
    pub(crate) fn waker(self: &Arc<Self>, stream: u64) -> Waker {
        Waker::from(Arc::new(StreamWaker { stream, wakeups: Arc::clone(self) }))
    }
}

struct StreamWaker {
    stream: u64,
    wakeups: Arc<Wakeups>,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.wakeups.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ready.is_empty();
        ready.push(self.stream);
        drop(ready);
        if first {
            // A pipe that is full wakes its reader as well.
            let _ = (&self.wakeups.writer).write(&[1]);
        }
    }
}
