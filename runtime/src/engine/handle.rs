//! An engine on a thread of its own, driven from any other: [`EngineHandle::start`] moves it there, and every clone
//! of the handle submits requests and reads their [`Events`].
//!
//! The thread executes commands, makes a step, delivers its events, and sleeps when nothing can run. Whatever happens to
//! it, every reader gets the end of its request.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ossmith_plan::ModelSpec;

use super::Engine;
use super::admission::Room;
use super::clock::Clock;
use super::events::{Command, Events, LogitsJob, Sink, WeightsJob, queue};
use super::flight_recorder::{FlightRecorder, StepRecord};
use super::logits::LogitsOptions;
use super::metrics::EngineMetrics;
use super::pause::PauseMode;
use super::request::{FinishReason, Request, RequestId, TokenEvent};
use super::validate::{check_adapter, validate};
use crate::backend::SleepLevel;
use crate::error::panic_message;
use crate::priority::run_promptly;
use crate::{AdapterSupport, Checkpoint, Error, Limits, Result};

/// Time that commands take between two steps, if more of them wait: each new choice copies its prompt, and a thousand of them
/// at once would hold up the answers of others.
const COMMAND_TIME: Duration = Duration::from_millis(2);

/// What handles and thread share.
#[derive(Debug)]
struct Shared {
    spec: &'static ModelSpec,
    limits: Limits,
    adapter_support: AdapterSupport,
    paused: AtomicBool,
    asleep: AtomicBool,
    describe: String,
    event_capacity: usize,
    clock: Clock,
    recorder: FlightRecorder,
    next_id: AtomicU64,
    /// As of the last step or, where none can run, of the last command.
    room: Mutex<Room>,
    metrics: Mutex<EngineMetrics>,
    /// How the thread ended.
    end: Mutex<Option<End>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How the thread ends.
#[derive(Clone, Debug)]
pub(super) enum End {
    ShutDown,
    Failed(String),
}

impl End {
    /// The error of every later call.
    fn error(&self) -> Error {
        match self {
            End::ShutDown => Error::ShutDown,
            End::Failed(reason) => Error::Stopped { reason: reason.clone() },
        }
    }

    /// How the requests end that are unfinished.
    fn finish(&self) -> FinishReason {
        match self {
            End::ShutDown => FinishReason::Cancelled,
            End::Failed(reason) => FinishReason::Failed(reason.as_str().into()),
        }
    }
}

/// Access to an engine that runs on a thread of its own. Clones are handles of the same engine. The thread ends with
/// [`EngineHandle::shutdown`], or when the last handle and the last [`Events`] are dropped and nothing runs.
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
        let (handle, worker) = parts(engine);
        let thread = std::thread::Builder::new()
            .name("ossmith-engine".to_owned())
            .spawn(move || {
                run_promptly();
                worker.run();
            })
            .map_err(|error| Error::device("start the engine's thread", error))?;
        *lock(&handle.shared.thread) = Some(thread);
        Ok(handle)
    }

    /// Queues a request; its events arrive as its tokens become known.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::PromptTooLong`] or [`Error::CacheTooSmall`] if the request can never be served
    /// as it stands, [`Error::QueueFull`] if it can be served later, [`Error::ShutDown`] or [`Error::Stopped`] if the
    /// engine no longer runs. None of these affects another request.
    pub fn submit(&self, request: Request) -> Result<Events> {
        self.check_running()?;
        let id = RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let request = {
            let Shared { spec, limits, clock, adapter_support, .. } = &*self.shared;
            check_adapter(&request, spec, *adapter_support)?;
            validate(id, request, spec, limits, clock.now())?
        };
        let samples = request.params.n;
        {
            let mut room = lock(&self.shared.room);
            room.check(samples)?;
            room.arriving += samples;
        }
        let (sink, events) = queue(id, samples, self.shared.event_capacity, self.commands.clone());
        if self.commands.send(Command::Submit(Box::new(request), sink)).is_err() {
            self.check_running()?;
            return Err(Error::ShutDown);
        }
        Ok(events)
    }

    /// Which adapters requests may have.
    #[must_use]
    pub fn adapter_support(&self) -> AdapterSupport {
        self.shared.adapter_support
    }

    /// Cancels a request; unknown and finished requests are ignored.
    pub fn cancel(&self, request: RequestId) {
        let _ = self.commands.send(Command::Cancel(request));
    }

    /// Evicts all cached prefixes that no request uses.
    pub fn reset_prefix_cache(&self) {
        let _ = self.commands.send(Command::ResetPrefixCache);
    }

    /// Starts no further step until [`EngineHandle::unpause`]; returns once none is in flight and what ran has become what the
    /// mode says. Requests are taken meanwhile, wait, and end at their deadlines.
    ///
    /// # Errors
    /// [`Error::ShutDown`] or [`Error::Stopped`] if the engine no longer runs.
    pub fn pause(&self, mode: PauseMode) -> Result<()> {
        self.ask(|reply| Command::Pause(mode, reply))
    }

    /// Starts steps again. A pause that still waits for requests to finish ends.
    ///
    /// # Errors
    /// As [`EngineHandle::pause`], and [`Error::Asleep`] while the engine sleeps or has no weights.
    pub fn unpause(&self) -> Result<()> {
        self.ask(Command::Unpause)?
    }

    /// Pauses as `mode` says, and gives back the memory of the cache and, as `level` says, of the weights. Requests that were kept
    /// compute again later.
    ///
    /// # Errors
    /// As [`EngineHandle::pause`]; [`Error::InvalidOption`] where the backend cannot sleep, [`Error::OutOfMemory`] if the host has
    /// no room for the weights: then the engine is paused and awake.
    pub fn sleep(&self, level: SleepLevel, mode: PauseMode) -> Result<()> {
        self.pause(mode)?;
        self.ask(|reply| Command::Sleep(level, reply))?
    }

    /// Takes the memory again, and starts steps unless the weights were given up: then replace all of them and
    /// [`unpause`](EngineHandle::unpause). An engine that does not sleep is left as it is.
    ///
    /// # Errors
    /// As [`EngineHandle::pause`]; [`Error::OutOfMemory`], when it sleeps on.
    pub fn wake(&self) -> Result<()> {
        self.ask(Command::Wake)?
    }

    /// Whether the engine sleeps.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.shared.asleep.load(Ordering::Acquire)
    }

    /// Whether steps are paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.paused.load(Ordering::Acquire)
    }

    /// [`Engine::replace_weights`], after the steps in flight.
    ///
    /// # Errors
    /// As [`Engine::replace_weights`], but for [`Error::NotIdle`]; [`Error::ShutDown`] if the engine no longer runs.
    pub fn replace_weights(&self, weights: Arc<Checkpoint>) -> Result<()> {
        self.ask(|reply| Command::Weights(WeightsJob::Replace(weights, reply)))?
    }

    /// [`Engine::update_weights`], after the steps in flight.
    ///
    /// # Errors
    /// As [`Engine::update_weights`], but for [`Error::NotIdle`]; [`Error::ShutDown`] if the engine no longer runs.
    pub fn update_weights(&self, path: &Path) -> Result<usize> {
        self.ask(|reply| Command::Weights(WeightsJob::Update(path.to_owned(), reply)))?
    }

    /// Sends a command, and waits for its answer.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T> {
        self.check_running()?;
        let (reply, answer) = channel();
        let sent = self.commands.send(command(reply));
        match sent.is_ok().then(|| answer.recv()) {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(self.closed().unwrap_or(Error::ShutDown)),
        }
    }

    /// The logits of every token of a prompt, `[tokens, vocab]`, in as many steps as the backend needs.
    ///
    /// # Errors
    /// [`Error::NotIdle`] while requests are in flight, [`Error::InvalidRequest`], [`Error::PromptTooLong`] or
    /// [`Error::CacheTooSmall`] for the prompt, [`Error::ShutDown`] or [`Error::Stopped`] if the engine no longer runs, and
    /// what the backend reports.
    pub fn logits(&self, prompt: Vec<u32>) -> Result<Vec<f32>> {
        self.ask(|reply| Command::Logits(LogitsJob { prompt, reply }))?
    }

    /// What the engine counted up to its last step; if no step can run, what waits and runs now. An event that has
    /// arrived is counted, and a request that was submitted waits from then on.
    #[must_use]
    pub fn metrics(&self) -> EngineMetrics {
        let room = lock(&self.shared.room);
        let mut metrics = lock(&self.shared.metrics).clone();
        metrics.waiting += room.arriving;
        metrics
    }

    /// The last `count` steps that were collected or have failed, oldest first; as many as are kept. They can be read after
    /// the engine has stopped.
    #[must_use]
    pub fn recent_steps(&self, count: usize) -> Vec<StepRecord> {
        self.shared.recorder.recent(count)
    }

    /// Why the engine no longer runs; `None` while it does.
    #[must_use]
    pub fn closed(&self) -> Option<Error> {
        lock(&self.shared.end).as_ref().map(End::error)
    }

    /// The model's dimensions.
    #[must_use]
    pub fn spec(&self) -> &'static ModelSpec {
        self.shared.spec
    }

    /// The limits that the backend was built for.
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

    fn check_running(&self) -> Result<()> {
        self.closed().map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle, and the worker that does what its clones request.
pub(super) fn parts(engine: Engine) -> (EngineHandle, Worker) {
    let (commands, inbox) = channel();
    let shared = Arc::new(Shared {
        spec: engine.spec(),
        limits: engine.limits(),
        adapter_support: engine.backend.adapter_support(),
        paused: AtomicBool::new(false),
        asleep: AtomicBool::new(false),
        describe: engine.describe(),
        event_capacity: engine.policy().event_capacity,
        clock: engine.clock.clone(),
        recorder: engine.recorder.clone(),
        next_id: AtomicU64::new(0),
        room: Mutex::new(engine.room()),
        metrics: Mutex::new(engine.metrics().clone()),
        end: Mutex::new(None),
        thread: Mutex::new(None),
    });
    let worker = Worker {
        engine,
        shared: shared.clone(),
        sinks: HashMap::new(),
        inbox,
        pausing: Vec::new(),
    };
    (EngineHandle { shared, commands }, worker)
}

/// What the engine's thread does: commands, steps, and the delivery of their events.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) engine: Engine,
    shared: Arc<Shared>,
    sinks: HashMap<RequestId, Sink>,
    inbox: Receiver<Command>,
    /// Who waits for the engine to be paused.
    pausing: Vec<Sender<()>>,
}

impl Worker {
    fn run(mut self) {
        let end = loop {
            match catch_unwind(AssertUnwindSafe(|| self.iterate())) {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(panic) => {
                    let message = panic_message(&*panic);
                    break End::Failed(format!("the engine panicked: {message}"));
                }
            }
        };
        self.finish(end);
    }

    /// Ends every request, those that were submitted before the end was recorded included.
    pub(super) fn finish(&mut self, end: End) {
        let finish = end.finish();
        *lock(&self.shared.end) = Some(end);
        self.sinks.values().for_each(|sink| sink.close(&finish));
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Submit(_, sink) = command {
                sink.close(&finish);
            }
        }
    }

    /// Executes the commands, waiting for one if no step can run, makes a step, delivers its events.
    pub(super) fn iterate(&mut self) -> Option<End> {
        let mut begin = None;
        loop {
            if !self.pausing.is_empty() && !self.engine.is_running() {
                return self.pause();
            }
            let enough = begin.is_some_and(|begin| self.shared.clock.since(begin) > COMMAND_TIME);
            if enough && self.can_step() {
                return self.step();
            }
            let command = if self.can_step() {
                self.inbox.try_recv().map_err(|error| error == TryRecvError::Disconnected)
            } else {
                // No step will publish what the commands have changed.
                self.publish_metrics();
                match self.engine.next_deadline() {
                    None => self.inbox.recv().map_err(|_| true),
                    Some(deadline) => self
                        .inbox
                        .recv_timeout(deadline.saturating_duration_since(self.shared.clock.now()))
                        .map_err(|error| error == RecvTimeoutError::Disconnected),
                }
            };
            match command {
                Ok(command) => {
                    begin.get_or_insert_with(|| self.shared.clock.now());
                    if let Some(end) = self.execute(command) {
                        return Some(end);
                    }
                }
                // Every sender is gone: no request can arrive and no reader is left.
                Err(true) => return Some(End::ShutDown),
                Err(false) => return self.step(),
            }
        }
    }

    /// The next command, if one has arrived.
    #[cfg(test)]
    pub(super) fn next_command(&self) -> Option<Command> {
        self.inbox.try_recv().ok()
    }

    /// Executes one command.
    pub(super) fn execute(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Submit(request, sink) => {
                let mut room = lock(&self.shared.room);
                room.arriving -= request.params.n;
                room.waiting += request.params.n;
                lock(&self.shared.metrics).waiting += request.params.n;
                drop(room);
                self.sinks.insert(request.id, sink);
                self.engine.enqueue(*request);
            }
            Command::Cancel(id) => {
                self.engine.cancel(id);
                if let Some(sink) = self.sinks.remove(&id) {
                    sink.close(&FinishReason::Cancelled);
                }
            }
            Command::Resume(id) => self.engine.resume(id),
            Command::ResetPrefixCache => self.engine.reset_prefix_cache(),
            Command::Logits(job) => {
                let logits = self.logits(&job.prompt);
                // A caller that is gone needs no answer.
                let _ = job.reply.send(logits);
                return self.engine.failure().map(|reason| End::Failed(reason.to_owned()));
            }
            Command::Pause(mode, reply) => {
                self.pausing.push(reply);
                if mode == PauseMode::Abort {
                    let events = self.engine.abort_all();
                    if let Some(end) = self.publish(events) {
                        return Some(end);
                    }
                }
                // No step of an engine that is paused already could finish what it keeps.
                let can_finish = !self.shared.paused.load(Ordering::Acquire);
                if mode == PauseMode::Wait && can_finish && self.engine.is_running() {
                    self.engine.set_admission(false);
                    return None;
                }
                return self.pause();
            }
            Command::Unpause(reply) => {
                // A caller that is gone needs no answer, here and below.
                let _ = reply.send(self.unpause());
            }
            Command::Sleep(level, reply) => {
                let slept = match self.shared.paused.load(Ordering::Acquire) {
                    true => self.engine.sleep(level),
                    // Somebody has resumed it meanwhile.
                    false => Err(Error::NotIdle { action: "sleep" }),
                };
                self.shared.asleep.fetch_or(slept.is_ok(), Ordering::Release);
                let _ = reply.send(slept);
            }
            Command::Wake(reply) => {
                let slept = self.shared.asleep.load(Ordering::Acquire);
                let woken = self.engine.wake();
                self.shared.asleep.fetch_and(woken.is_err(), Ordering::Release);
                // It stays paused while it lacks weights.
                if slept && woken.is_ok() && self.engine.check_awake().is_ok() {
                    let _ = self.unpause();
                }
                let _ = reply.send(woken);
            }
            Command::Weights(job) => {
                // Without an answer the caller finds why the engine has ended.
                if let Some(end) = self.drain() {
                    return Some(end);
                }
                match job {
                    WeightsJob::Replace(weights, reply) => {
                        let replaced = self.engine.replace_weights(weights);
                        self.publish_metrics();
                        let _ = reply.send(replaced);
                    }
                    WeightsJob::Update(path, reply) => {
                        let updated = self.engine.update_weights(&path);
                        self.publish_metrics();
                        let _ = reply.send(updated);
                    }
                }
            }
            Command::Shutdown => return Some(End::ShutDown),
        }
        None
    }

    /// Whether a step would do anything now.
    fn can_step(&self) -> bool {
        !self.shared.paused.load(Ordering::Acquire) && self.engine.can_step()
    }

    /// Starts no further step, and answers those who wait for that. Without an answer they find why the engine has ended.
    fn pause(&mut self) -> Option<End> {
        self.shared.paused.store(true, Ordering::Release);
        self.engine.set_admission(true);
        let end = self.drain();
        if end.is_none() {
            self.answer_pausing();
        }
        end
    }

    fn unpause(&mut self) -> Result<()> {
        self.engine.check_awake()?;
        self.shared.paused.store(false, Ordering::Release);
        self.engine.set_admission(true);
        self.answer_pausing();
        Ok(())
    }

    fn answer_pausing(&mut self) {
        for reply in self.pausing.drain(..) {
            // A caller that is gone needs no answer.
            let _ = reply.send(());
        }
    }

    /// Finishes the steps in flight and delivers their events.
    fn drain(&mut self) -> Option<End> {
        match self.engine.drain() {
            Ok(events) => self.publish(events),
            Err(error) => Some(End::Failed(error.to_string())),
        }
    }

    /// Makes a step and delivers its events; while steps are paused, ends what has reached its deadline.
    pub(super) fn step(&mut self) -> Option<End> {
        if self.shared.paused.load(Ordering::Acquire) {
            let events = self.engine.expire();
            return self.publish(events);
        }
        match self.engine.step() {
            Ok(events) => self.publish(events),
            Err(error) => Some(End::Failed(error.to_string())),
        }
    }

    /// Delivers events. Their readers find them counted and, after the end that a failure brings, the engine closed.
    fn publish(&mut self, events: Vec<TokenEvent>) -> Option<End> {
        self.publish_metrics();
        let end = self.engine.failure().map(|reason| End::Failed(reason.to_owned()));
        if end.is_some() {
            lock(&self.shared.end).clone_from(&end);
        }
        self.deliver(events);
        end
    }

    /// Publishes to the handles what waits and runs.
    pub(super) fn publish_metrics(&self) {
        let metrics = self.engine.metrics();
        let mut room = lock(&self.shared.room);
        *room = Room { arriving: room.arriving, ..self.engine.room() };
        drop(room);
        lock(&self.shared.metrics).clone_from(metrics);
    }

    fn logits(&mut self, prompt: &[u32]) -> Result<Vec<f32>> {
        self.engine.check_awake()?;
        // Steps of requests that were cancelled may still be in flight.
        while self.sinks.is_empty() && !self.engine.is_idle() {
            self.engine.step()?;
        }
        let mut all = Vec::new();
        self.engine.logits(prompt, LogitsOptions::default(), &mut |_, output| {
            for rows in output.logits {
                if all.is_empty() {
                    all = rows;
                } else {
                    all.extend_from_slice(&rows);
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    fn deliver(&mut self, events: Vec<TokenEvent>) {
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
