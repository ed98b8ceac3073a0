//! Several engines of one model behind one address: data parallelism. [`EnginePool`] places each request at one of them and
//! passes its events on; it knows nothing of steps, caches and devices, which are each engine's own.
//!
//! [`placement`] decides where a request goes, [`events`] is what comes back, [`load`] gets several engines ready.
//!
//! Priorities, tenants' shares and deadlines are kept by the engine that has a request; how many requests may wait is one
//! number for all engines together.

mod events;
mod load;
mod placement;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ossmith_plan::ModelSpec;

pub use events::{BlockingPoolEvents, PoolEvents};
pub use load::ranks_on_devices;

use crate::engine::EngineMetrics;
use crate::{Engine, EngineHandle, Error, Limits, PauseMode, Request, Result, SleepLevel};
use placement::{Chain, Loads, Prompt};

/// Engines of one model, each on a thread of its own, that share the requests. Clones are handles of the same pool.
///
/// A request goes to the engine for which the tokens of its prompt that are not in the prefix cache, and 256 for every sample
/// that runs or waits there, are fewest. So a conversation comes back to the engine that has its pages unless that is much
/// busier; a prefix of fewer than 256 tokens counts for nothing. It stays at that engine to its end.
///
/// An engine that fails ends its requests, except those of which no event was read and that were not cancelled: they are
/// placed again. The other engines go on, and the log names the failure once.
#[derive(Clone, Debug)]
pub struct EnginePool {
    shared: Arc<Shared>,
}

/// What the handles and the events of a pool share.
#[derive(Debug)]
struct Shared {
    engines: Vec<EngineHandle>,
    hasher: RandomState,
    loads: Mutex<Loads>,
    /// Samples that run at once in an engine.
    slots: usize,
    /// Samples that may wait in all engines together.
    max_waiting: usize,
}

impl EnginePool {
    /// Moves each engine to a thread of its own. They must run the same model and have the same limits and policy;
    /// [`Policy::max_waiting`](crate::Policy::max_waiting) is that of all together.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if there is no engine, or if they differ; [`Error::Device`] if the system refuses a thread.
    pub fn start(mut engines: Vec<Engine>) -> Result<EnginePool> {
        let none = || Error::invalid_option("engines", "a pool needs at least one engine");
        let first = engines.first().ok_or_else(none)?;
        let (spec, limits, policy) = (first.spec(), first.limits(), *first.policy());
        let differs = |engine: &Engine| {
            engine.spec() != spec || engine.limits() != limits || *engine.policy() != policy
        };
        if let Some(at) = engines.iter().position(differs) {
            let problem = format!(
                "engine {at} of the pool has another model, other limits or another policy than engine 0: load all with the same"
            );
            return Err(Error::invalid_option("engines", problem));
        }
        let count = engines.len();
        engines.iter_mut().for_each(|engine| engine.share_cores(count));
        let pages = std::iter::repeat_n(limits.pages, count);
        let loads = Loads::new(pages, policy.prefix_cache);
        let engines = engines.into_iter().map(EngineHandle::start).collect::<Result<_>>()?;
        let shared = Shared {
            engines,
            hasher: RandomState::new(),
            loads: Mutex::new(loads),
            slots: limits.max_sequences,
            max_waiting: policy.max_waiting,
        };
        Ok(EnginePool { shared: Arc::new(shared) })
    }

    /// Places a request; its events arrive as its tokens become known.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`]. [`Error::QueueFull`] counts the samples of all engines together; [`Error::ShutDown`] or
    /// [`Error::Stopped`] means that no engine runs any more.
    pub fn submit(&self, request: Request) -> Result<PoolEvents> {
        self.shared.clone().place(request, false)
    }

    /// What all engines have counted and are doing, added up.
    #[must_use]
    pub fn metrics(&self) -> EngineMetrics {
        let mut sum = EngineMetrics::new(0);
        self.shared.engines.iter().for_each(|engine| sum += &engine.metrics());
        sum
    }

    /// The engines, in order: their own metrics, steps and limits. A request that is submitted to one of them directly is
    /// not counted where the pool places others.
    #[must_use]
    pub fn engines(&self) -> &[EngineHandle] {
        &self.shared.engines
    }

    /// [`EngineHandle::pause`], of all engines at once; those that have failed are passed over.
    ///
    /// # Errors
    /// As [`EngineHandle::pause`], if no engine runs any more.
    pub fn pause(&self, mode: PauseMode) -> Result<()> {
        // An engine that fails here is no longer one of the pool's, which reports it.
        std::thread::scope(|scope| {
            self.engines().iter().for_each(|engine| drop(scope.spawn(move || engine.pause(mode))));
        });
        self.closed().map_or(Ok(()), Err)
    }

    /// [`EngineHandle::unpause`], of all engines; those that have failed are passed over.
    ///
    /// # Errors
    /// As [`EngineHandle::unpause`].
    pub fn unpause(&self) -> Result<()> {
        self.on_running(EngineHandle::unpause)
    }

    /// [`EngineHandle::sleep`], of one engine after the other, once all are paused; those that have failed are passed over.
    ///
    /// # Errors
    /// As [`EngineHandle::sleep`]: then all are paused and awake.
    pub fn sleep(&self, level: SleepLevel, mode: PauseMode) -> Result<()> {
        self.pause(mode)?;
        self.on_running(|engine| engine.sleep(level, PauseMode::Keep)).or_else(|why| {
            self.wake().and_then(|()| self.pause(PauseMode::Keep))?;
            Err(why)
        })?;
        self.shared.loads().reset_prefixes();
        Ok(())
    }

    /// [`EngineHandle::wake`], of all engines; those that have failed are passed over.
    ///
    /// # Errors
    /// As [`EngineHandle::wake`].
    pub fn wake(&self) -> Result<()> {
        self.on_running(EngineHandle::wake)
    }

    /// Does something to one engine after the other of those that run, at least one, up to the first error.
    fn on_running(&self, work: impl FnMut(&EngineHandle) -> Result<()>) -> Result<()> {
        self.closed().map_or(Ok(()), Err)?;
        self.engines().iter().filter(|engine| engine.closed().is_none()).try_for_each(work)
    }

    /// [`EngineHandle::update_weights`], of one engine after the other; those that have failed are passed over. Pause the pool
    /// for it, or requests that run meanwhile are answered by old and new weights side by side.
    ///
    /// # Errors
    /// As [`EngineHandle::update_weights`]. What is wrong with the files is found by the first engine and changes none; should
    /// a later one refuse them, the files have changed meanwhile, and the engines have different weights until the next update.
    pub fn update_weights(&self, path: &Path) -> Result<usize> {
        let mut count = 0;
        self.on_running(|engine| engine.update_weights(path).map(|replaced| count = replaced))?;
        self.shared.loads().reset_prefixes();
        Ok(count)
    }

    /// Evicts all cached prefixes that no request uses.
    pub fn reset_prefix_cache(&self) {
        self.shared.loads().reset_prefixes();
        self.shared.engines.iter().for_each(EngineHandle::reset_prefix_cache);
    }

    /// Why no engine runs any more; `None` while one does.
    #[must_use]
    pub fn closed(&self) -> Option<Error> {
        self.shared.closed()
    }

    /// The model's dimensions.
    #[must_use]
    pub fn spec(&self) -> &'static ModelSpec {
        self.shared.engines[0].spec()
    }

    /// The limits of each engine.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.shared.engines[0].limits()
    }

    /// The backends in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let [first, rest @ ..] = &self.shared.engines[..] else { return String::new() };
        if rest.is_empty() {
            return first.describe().to_owned();
        }
        let count = rest.len() + 1;
        if rest.iter().all(|engine| engine.describe() == first.describe()) {
            return format!("{count} engines, each {}", first.describe());
        }
        let all: Vec<&str> = self.shared.engines.iter().map(EngineHandle::describe).collect();
        format!("{count} engines: {}", all.join("; "))
    }

    /// Cancels everything and ends the threads; returns once they have ended.
    pub fn shutdown(&self) {
        self.shared.engines.iter().for_each(EngineHandle::shutdown);
    }
}

impl Shared {
    fn loads(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request to the best engine that takes it. A request that was `admitted` before is not refused because others
    /// wait, unless every engine refuses it.
    fn place(self: Arc<Shared>, request: Request, admitted: bool) -> Result<PoolEvents> {
        let chain = Chain::new(&self.hasher, request.prefix_scope());
        let prompt = Prompt::new(chain, &request.prompt);
        let samples = request.params.n;
        let (mut tried, mut refusal) = (Vec::new(), None);
        loop {
            let mut loads = self.loads();
            let room = if admitted { Ok(()) } else { self.check_room(&loads, samples) };
            if let Err(full) = room {
                drop(loads);
                // Those who wait may wait for engines that have failed.
                return Err(self.closed().unwrap_or(full));
            }
            let next = loads.order(&prompt).into_iter().find(|engine| !tried.contains(engine));
            let Some(engine) = next else { break };
            tried.push(engine);
            loads.place(engine, samples, &prompt);
            drop(loads);
            match self.engines[engine].submit(request.clone()) {
                Ok(inner) => return Ok(PoolEvents::new(self, engine, inner, prompt, request)),
                Err(error) => {
                    let mut loads = self.loads();
                    loads.end(engine, samples);
                    loads.end_prompt(engine, &prompt);
                    drop(loads);
                    match error {
                        Error::QueueFull { .. } => refusal = Some(error),
                        Error::Stopped { .. } | Error::ShutDown => {
                            self.has_failed(engine);
                            refusal = refusal.or(Some(error));
                        }
                        other => return Err(other),
                    }
                }
            }
        }
        Err(refusal.or_else(|| self.closed()).unwrap_or(Error::ShutDown))
    }

    /// Why no engine runs any more; `None` while one does.
    fn closed(&self) -> Option<Error> {
        let failures = (0..self.engines.len()).map(|at| {
            self.has_failed(at);
            self.engines[at].closed()
        });
        // All are asked, so that each failure is noticed.
        let failures: Vec<Option<Error>> = failures.collect();
        let mut failures = failures.into_iter().collect::<Option<Vec<Error>>>()?;
        let failed = failures.iter().position(|error| matches!(error, Error::Stopped { .. }));
        Some(failures.swap_remove(failed.unwrap_or(0)))
    }

    /// Refuses so many more samples if too many would wait. What no engine could ever take is left to the engine.
    fn check_room(&self, loads: &Loads, samples: usize) -> Result<()> {
        let slots = self.slots * loads.alive();
        if slots == 0 {
            // None runs, so none has a queue that could be full.
            return Ok(());
        }
        let capacity = self.max_waiting.saturating_add(slots);
        if loads.samples() + samples <= capacity || samples > capacity {
            return Ok(());
        }
        let waiting = loads.samples().saturating_sub(slots);
        Err(Error::QueueFull { waiting, limit: self.max_waiting, capacity })
    }

    /// Whether an engine runs no more. The first time that it has failed is logged.
    fn has_failed(&self, engine: usize) -> bool {
        let Some(why) = self.engines[engine].closed() else { return false };
        let mut loads = self.loads();
        let (new, left) = (loads.fail(engine), loads.alive());
        drop(loads);
        if new && let Error::Stopped { reason } = why {
            tracing::error!(engine, reason, left, "an engine of the pool has failed");
        }
        true
    }
}
