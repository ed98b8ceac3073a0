//! The seam between HTTP and what generates tokens: one generation as a request, its tokens as a stream of events, and the
//! trait that the engine ([`EngineBackend`]), several of them ([`PoolBackend`]) and the scripted backend ([`crate::stub`])
//! implement. Settings, events and counts are the engine's own types. Nothing here knows HTTP or text.

mod engine;
mod pool;

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use futures_core::Stream;
use ossmith::{
    AdapterSupport, EngineMetrics, PauseMode, Request, SleepLevel, StepRecord, TokenEvent,
};

use crate::error::ApiError;
pub use engine::EngineBackend;
pub use pool::PoolBackend;

/// One generation.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// What the engine runs; it has one sample.
    pub engine_request: Request,
    /// Which of the choices for its prompt this is, from 0.
    pub choice: usize,
    /// Why its masks ended before its text did, as its client will read it.
    pub(crate) mask_failure: MaskFailure,
}

/// Why the masks of a generation ended before its text did.
pub(crate) type MaskFailure = Arc<OnceLock<ApiError>>;

/// The events of one generation, in order. The last one carries a finish reason. Dropping the stream cancels the generation
/// within one step.
pub type GenerationStream = Pin<Box<dyn Stream<Item = TokenEvent> + Send>>;

/// One of a backend's engines.
#[derive(Clone, Debug)]
pub struct EngineState {
    /// What it has done and is doing.
    pub metrics: EngineMetrics,
    /// Why it runs no more; `None` while it does.
    pub failure: Option<String>,
}

/// Something that generates tokens.
pub trait GenerationBackend: Send + Sync {
    /// Starts a generation.
    ///
    /// # Errors
    /// [`ossmith::Error::QueueFull`] if the request can be served later, an error that
    /// [is a bad request](ossmith::Error::is_bad_request) if it can never be served as it stands,
    /// [`ossmith::Error::ShutDown`] or [`ossmith::Error::Stopped`] if the backend has stopped.
    fn submit(&self, request: GenerationRequest) -> ossmith::Result<GenerationStream>;

    /// What it has done and is doing, of all its engines together.
    fn metrics(&self) -> EngineMetrics;

    /// Each of its engines, in order.
    fn engines(&self) -> Vec<EngineState> {
        vec![EngineState { metrics: self.metrics(), failure: self.failure() }]
    }

    /// The last `count` steps of an engine, oldest first, as far as they are kept.
    fn recent_steps(&self, engine: usize, count: usize) -> Vec<StepRecord>;

    /// Why it cannot generate any more; `None` while it can.
    fn failure(&self) -> Option<String>;

    /// Which adapters requests may have.
    fn adapter_support(&self) -> AdapterSupport {
        AdapterSupport::None
    }

    /// Drops all cached prefixes that no generation uses.
    fn reset_prefix_cache(&self);

    /// How trainers stop it and change its weights; `None` where they cannot.
    fn control(&self) -> Option<&dyn EngineControl> {
        None
    }

    /// Stops the backend: generations in flight end with a failure.
    fn stop(&self);
}

/// What trainers do to engines that serve. All of it blocks.
pub trait EngineControl: Send + Sync {
    /// Runs nothing until [`unpause`](EngineControl::unpause); returns once generations have become what the mode says.
    ///
    /// # Errors
    /// [`ossmith::Error::ShutDown`] or [`ossmith::Error::Stopped`] if the backend has stopped.
    fn pause(&self, mode: PauseMode) -> ossmith::Result<()>;

    /// Runs again.
    ///
    /// # Errors
    /// As [`pause`](EngineControl::pause).
    fn unpause(&self) -> ossmith::Result<()>;

    /// Pauses as `mode` says, and gives memory back; see [`ossmith::EngineHandle::sleep`].
    ///
    /// # Errors
    /// As [`ossmith::EngineHandle::sleep`].
    fn sleep(&self, level: SleepLevel, mode: PauseMode) -> ossmith::Result<()>;

    /// Takes the memory again; see [`ossmith::EngineHandle::wake`].
    ///
    /// # Errors
    /// As [`ossmith::EngineHandle::wake`].
    fn wake(&self) -> ossmith::Result<()>;

    /// Whether it sleeps.
    fn is_asleep(&self) -> bool;

    /// Whether nothing runs until [`unpause`](EngineControl::unpause).
    fn is_paused(&self) -> bool;

    /// Replaces the weights whose tensors are in a file or folder of safetensors, drops all cached prefixes, and returns how
    /// many weights they were.
    ///
    /// # Errors
    /// What is wrong with the files; [`ossmith::Error::InvalidOption`] where the backend cannot.
    fn update_weights(&self, path: &Path) -> ossmith::Result<usize>;
}
