//! The log, and other lines that a server writes while it serves. They go to a thread that writes them, so that a reader who
//! does not read, a full disk or a closed pipe delays nobody and ends nothing: what cannot be written is dropped and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most bytes that wait to be written.
const MAX_BYTES: usize = 4 << 20;
/// How long the end of the command waits for what is still to be written.
const FLUSH: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line is being written.
    writing: bool,
}

/// Lines on their way to where they are written.
#[derive(Debug, Default)]
pub(crate) struct LineQueue {
    waiting: Mutex<Waiting>,
    /// There are lines, or none any more.
    changed: Condvar,
    dropped: Arc<AtomicU64>,
}

static QUEUE: LazyLock<Arc<LineQueue>> = LazyLock::new(Arc::default);

/// Where lines are logged to.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<LineQueue>);

/// Starts the thread that writes the log.
pub(crate) fn start() -> io::Result<Log> {
    // A descriptor of its own: while a write to it hangs, nobody else who writes to standard error waits for a lock.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    QUEUE.write_on_thread("log", out)?;
    Ok(Log(Arc::clone(&QUEUE)))
}

/// Lines that could not be written so far.
pub(crate) fn dropped() -> Arc<AtomicU64> {
    Arc::clone(&QUEUE.dropped)
}

/// Waits until everything is written, for a moment at most.
pub(crate) fn flush() {
    QUEUE.flush();
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        // A line that is dropped is no error of whoever logs it.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LineQueue {
    /// Starts a thread of this name that writes the lines.
    pub(crate) fn write_on_thread(
        self: &Arc<LineQueue>,
        name: &str,
        out: impl Write + Send + 'static,
    ) -> io::Result<()> {
        let queue = Arc::clone(self);
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || queue.write_all_to(out)).map(drop)
    }

    /// Lines that could not be written so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, for a moment at most.
    pub(crate) fn flush(&self) {
        self.flush_within(FLUSH);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, which ends with a line break. It is dropped if too much waits already.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > MAX_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.changed.notify_all();
    }

    fn write_all_to(&self, mut out: impl Write) {
        let mut cut = false;
        loop {
            let mut waiting = self.lock();
            waiting.writing = false;
            let line = loop {
                if let Some(line) = waiting.lines.pop_front() {
                    break line;
                }
                self.changed.notify_all();
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            };
            waiting.bytes -= line.len();
            waiting.writing = true;
            drop(waiting);
            // After a line that was written in part the next one begins a line of its own.
            let begin: &[u8] = if cut { b"\n" } else { b"" };
            cut = out.write_all(begin).and_then(|()| out.write_all(&line)).is_err();
            if cut {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn flush_within(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut waiting = self.lock();
        while !waiting.lines.is_empty() || waiting.writing {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Each write takes an outcome: nothing is written before there is one.
    struct Gate {
        outcomes: Receiver<io::Result<()>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.is_empty() {
                return Ok(0);
            }
            self.outcomes.recv().map_err(io::Error::other)??;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_delays_nobody() {
        let queue = Arc::new(LineQueue::default());
        let ((outcome, outcomes), (written, lines)) = (channel(), channel());
        let writer = Arc::clone(&queue);
        std::thread::spawn(move || writer.write_all_to(Gate { outcomes, written }));
        let mut log = Log(Arc::clone(&queue));
        // Nobody reads: this returns all the same, and what is too much is dropped.
        let line = vec![b'x'; MAX_BYTES / 4];
        for _ in 0..8 {
            log.write_all(&line).expect("a log never fails");
        }
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!((3..=4).contains(&dropped), "{dropped}");
        queue.flush_within(Duration::from_millis(1));
        // The disk is full for one line, and then has room again.
        outcome.send(Err(io::Error::other("full"))).expect("a writer");
        (0..10).for_each(|_| outcome.send(Ok(())).expect("a writer"));
        queue.flush_within(Duration::from_secs(20));
        assert_eq!(queue.dropped.load(Ordering::Relaxed), dropped + 1);
        let all: Vec<Vec<u8>> = lines.try_iter().collect();
        assert_eq!((all[0].as_slice(), all.len()), (&b"\n"[..], 1 + 8 - dropped as usize - 1));
    }
}
