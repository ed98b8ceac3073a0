//! How streams wake an event loop of Python's: the engine's thread notes the stream and writes a byte to a pipe that the
//! loop watches. It never waits for the interpreter.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The streams that have events, and the pipe. The pipe holds one byte while there are such streams and none otherwise, so that
/// neither end ever waits, and both change under the lock.
#[derive(Debug)]
pub(crate) struct Wakeups {
    ready: Mutex<Vec<u64>>,
    reader: PipeReader,
    writer: PipeWriter,
}

impl Wakeups {
    pub(crate) fn new() -> io::Result<Arc<Wakeups>> {
        let (reader, writer) = io::pipe()?;
        Ok(Arc::new(Wakeups { ready: Mutex::default(), reader, writer }))
    }

    /// What the event loop watches for reading.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// The streams that were woken since the last call.
    pub(crate) fn take(&self) -> io::Result<Vec<u64>> {
        let mut ready = self.lock();
        if !ready.is_empty() {
            (&self.reader).read_exact(&mut [0])?;
        }
        Ok(std::mem::take(&mut *ready))
    }

    /// The waker of a stream.
    pub(crate) fn waker(self: &Arc<Self>, stream: u64) -> Waker {
        Waker::from(Arc::new(StreamWaker { stream, wakeups: Arc::clone(self) }))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StreamWaker {
    stream: u64,
    wakeups: Arc<Wakeups>,
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.wakeups.lock();
        // The reading end lives as long as this does, and a pipe has room for a byte.
        if !ready.is_empty() || (&self.wakeups.writer).write_all(&[1]).is_ok() {
            ready.push(self.stream);
        }
    }
}
