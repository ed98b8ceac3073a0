//! The real backend: requests go to the engine's thread, its events come back as they are.

use std::path::Path;

use ossmith::{AdapterSupport, EngineHandle, EngineMetrics, PauseMode, SleepLevel, StepRecord};

use super::{EngineControl, GenerationBackend, GenerationRequest, GenerationStream};

/// An engine that runs on a thread of its own.
#[derive(Clone, Debug)]
pub struct EngineBackend {
    handle: EngineHandle,
}

impl EngineBackend {
    /// Serves with this engine.
    #[must_use]
    pub fn new(handle: EngineHandle) -> EngineBackend {
        EngineBackend { handle }
    }
}

impl GenerationBackend for EngineBackend {
    fn submit(&self, request: GenerationRequest) -> ossmith::Result<GenerationStream> {
        Ok(Box::pin(self.handle.submit(request.engine_request)?))
    }

    fn metrics(&self) -> EngineMetrics {
        self.handle.metrics()
    }

    fn recent_steps(&self, _engine: usize, count: usize) -> Vec<StepRecord> {
        self.handle.recent_steps(count)
    }

    fn failure(&self) -> Option<String> {
        self.handle.closed().map(|error| error.to_string())
    }

    fn adapter_support(&self) -> AdapterSupport {
        self.handle.adapter_support()
    }

    fn reset_prefix_cache(&self) {
        self.handle.reset_prefix_cache();
    }

    fn control(&self) -> Option<&dyn EngineControl> {
        Some(self)
    }

    fn stop(&self) {
        self.handle.shutdown();
    }
}

impl EngineControl for EngineBackend {
    fn pause(&self, mode: PauseMode) -> ossmith::Result<()> {
        self.handle.pause(mode)
    }

    fn unpause(&self) -> ossmith::Result<()> {
        self.handle.unpause()
    }

    fn sleep(&self, level: SleepLevel, mode: PauseMode) -> ossmith::Result<()> {
        self.handle.sleep(level, mode)
    }

    fn wake(&self) -> ossmith::Result<()> {
        self.handle.wake()
    }

    fn is_asleep(&self) -> bool {
        self.handle.is_asleep()
    }

    fn is_paused(&self) -> bool {
        self.handle.is_paused()
    }

    fn update_weights(&self, path: &Path) -> ossmith::Result<usize> {
        self.handle.update_weights(path)
    }
}
