//! An engine on a thread of its own, driven from any other: [`EngineHandle::start`] moves it there, and every clone
//! of the handle submits requests and reads their [`Events`].
//!
//! The thread takes commands, makes a step, hands out its events, and sleeps when nothing can run. Whatever happens
//! to it, every reader gets the end of its request.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use ossmith_plan::ModelSpec;

use super::Engine;
use super::accept::{Accepted, accept, busy};
use super::events::{Events, Sink, queue};
use super::metrics::Metrics;
use super::request::{FinishReason, Request, RequestId, TokenEvent};
use super::run::said;
use crate::{Error, Limits, Result};

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<Accepted>, Sink),
    Cancel(RequestId),
    Resume(RequestId),
    ResetPrefixCache,
    Shutdown,
}

/// What handles and thread share.
#[derive(Debug)]
struct Shared {
    spec: &'static ModelSpec,
    limits: Limits,
    describe: String,
    max_waiting: usize,
    event_capacity: usize,
    next_id: AtomicU64,
    /// Samples that the thread has not heard of yet.
    arriving: AtomicUsize,
    /// Samples that wait, as of the last step or, where none can run, of the last command.
    waiting: AtomicUsize,
    metrics: Mutex<Metrics>,
    /// Why nothing runs any more.
    closed: Mutex<Option<String>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A way to an engine that runs on a thread of its own. Clones are ways to the same engine; the thread ends with
/// [`EngineHandle::shutdown`], or when the last handle and the last [`Events`] are gone and nothing runs.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    commands: Sender<Command>,
}

impl EngineHandle {
    /// Moves an engine to a thread of its own.
    ///
    /// # Errors
    /// [`Error::Device`] if the system refuses a thread.
    pub fn start(engine: Engine) -> Result<EngineHandle> {
        let (commands, inbox) = channel();
        let shared = Arc::new(Shared {
            spec: engine.spec(),
            limits: engine.limits(),
            describe: engine.describe(),
            max_waiting: engine.policy().max_waiting,
            event_capacity: engine.policy().event_capacity,
            next_id: AtomicU64::new(0),
            arriving: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            metrics: Mutex::new(engine.metrics().clone()),
            closed: Mutex::new(None),
            thread: Mutex::new(None),
        });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("ossmith-engine".to_owned())
            .spawn(move || Worker { engine, shared: of_thread, sinks: HashMap::new() }.run(&inbox))
            .map_err(|error| Error::Device(format!("cannot start the engine's thread: {error}")))?;
        *lock(&shared.thread) = Some(thread);
        Ok(EngineHandle { shared, commands })
    }

    /// Queues a request; its events come as they become known.
    ///
    /// # Errors
    /// [`Error::Request`] if it can never be served as it stands, [`Error::Busy`] if the queue is full,
    /// [`Error::Closed`] if the engine runs no more. None of these touches another request.
    pub fn submit(&self, request: Request) -> Result<Events> {
        self.check_open()?;
        let id = RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let accepted = accept(id, request, self.shared.spec, &self.shared.limits)?;
        let samples = accepted.params.n;
        let waiting = self.shared.waiting.load(Ordering::Relaxed)
            + self.shared.arriving.fetch_add(samples, Ordering::Relaxed);
        if waiting + samples > self.shared.max_waiting {
            self.shared.arriving.fetch_sub(samples, Ordering::Relaxed);
            return Err(busy(waiting, self.shared.max_waiting));
        }
        let (sink, events) = queue(id, samples, self.shared.event_capacity, self.commands.clone());
        if self.commands.send(Command::Submit(Box::new(accepted), sink)).is_err() {
            self.check_open()?;
            return Err(Error::Closed("the engine has been shut down".to_owned()));
        }
        Ok(events)
    }

    /// Cancels a request; unknown and finished ones are ignored.
    pub fn cancel(&self, request: RequestId) {
        let _ = self.commands.send(Command::Cancel(request));
    }

    /// Forgets all cached prefixes that no request holds.
    pub fn reset_prefix_cache(&self) {
        let _ = self.commands.send(Command::ResetPrefixCache);
    }

    /// What the engine counted up to its last step, and what waits and runs now that none can.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        lock(&self.shared.metrics).clone()
    }

    /// Why the engine runs no more; `None` while it does.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        lock(&self.shared.closed).clone()
    }

    /// The model's dimensions.
    #[must_use]
    pub fn spec(&self) -> &'static ModelSpec {
        self.shared.spec
    }

    /// What the backend was made to fit.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// The backend in one line.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.shared.describe
    }

    /// Cancels everything and ends the thread; returns once it has ended.
    pub fn shutdown(&self) {
        let _ = self.commands.send(Command::Shutdown);
        if let Some(thread) = lock(&self.shared.thread).take() {
            let _ = thread.join();
        }
    }

    fn check_open(&self) -> Result<()> {
        match self.closed() {
            None => Ok(()),
            Some(why) => Err(Error::Closed(why)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's thread.
struct Worker {
    engine: Engine,
    shared: Arc<Shared>,
    sinks: HashMap<RequestId, Sink>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Command>) {
        let end = loop {
            match catch_unwind(AssertUnwindSafe(|| self.turn(inbox))) {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(panic) => {
                    break End::Failure(format!("the engine panicked: {}", said(&*panic)));
                }
            }
        };
        let (why, reason) = match end {
            End::Shutdown => ("the engine has been shut down".to_owned(), FinishReason::Cancelled),
            End::Failure(why) => (why.clone(), FinishReason::Failed(why.into())),
        };
        *lock(&self.shared.closed) = Some(why);
        self.sinks.values().for_each(|sink| sink.close(&reason));
        // Whoever submitted before the notice above still gets an end.
        while let Ok(command) = inbox.try_recv() {
            if let Command::Submit(_, sink) = command {
                sink.close(&reason);
            }
        }
    }

    /// Takes what was asked, makes a step, hands out what came of it.
    fn turn(&mut self, inbox: &Receiver<Command>) -> Option<End> {
        if let Some(end) = self.take_commands(inbox) {
            return Some(end);
        }
        let events = match self.engine.step() {
            Ok(events) => events,
            Err(error) => return Some(End::Failure(error.to_string())),
        };
        self.hand_out(events);
        self.publish();
        self.engine.failure().map(|why| End::Failure(why.to_owned()))
    }

    /// Lets the handles see what waits and runs.
    fn publish(&self) {
        let metrics = self.engine.metrics();
        self.shared.waiting.store(metrics.waiting, Ordering::Relaxed);
        lock(&self.shared.metrics).clone_from(metrics);
    }

    /// Takes every command that is there, and waits for one if no step can run.
    fn take_commands(&mut self, inbox: &Receiver<Command>) -> Option<End> {
        loop {
            let command = if self.engine.can_step() {
                inbox.try_recv().map_err(|error| error == TryRecvError::Disconnected)
            } else {
                // No step will come to say what commands have changed.
                self.publish();
                match self.engine.next_deadline() {
                    None => inbox.recv().map_err(|_| true),
                    Some(deadline) => inbox
                        .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                        .map_err(|error| error == RecvTimeoutError::Disconnected),
                }
            };
            match command {
                Ok(Command::Submit(request, sink)) => {
                    self.shared.arriving.fetch_sub(request.params.n, Ordering::Relaxed);
                    self.shared.waiting.fetch_add(request.params.n, Ordering::Relaxed);
                    self.sinks.insert(request.id, sink);
                    self.engine.enqueue(*request);
                }
                Ok(Command::Cancel(id)) => {
                    self.engine.cancel(id);
                    if let Some(sink) = self.sinks.remove(&id) {
                        sink.close(&FinishReason::Cancelled);
                    }
                }
                Ok(Command::Resume(id)) => self.engine.resume(id),
                Ok(Command::ResetPrefixCache) => self.engine.reset_prefix_cache(),
                Ok(Command::Shutdown) => return Some(End::Shutdown),
                // Nobody can ask or listen any more.
                Err(true) => return Some(End::Shutdown),
                Err(false) => return None,
            }
        }
    }

    fn hand_out(&mut self, events: Vec<TokenEvent>) {
        for event in events {
            let id = event.request;
            let Some(sink) = self.sinks.get(&id) else { continue };
            let pushed = sink.push(event);
            if pushed.hold {
                self.engine.hold(id);
            }
            if pushed.done {
                self.sinks.remove(&id);
            }
        }
    }
}

/// How the thread ends.
enum End {
    Shutdown,
    Failure(String),
}
