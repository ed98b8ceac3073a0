//! The real backend: requests go to the engine's thread, its events come back as they are.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use ossmith::engine::{EngineHandle, Events, Metrics, TokenEvent};

use super::{GenerationBackend, GenerationRequest, GenerationStream};

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
        let events = self.handle.submit(request.engine_request)?;
        Ok(Box::pin(EventStream(events)))
    }

    fn metrics(&self) -> Metrics {
        self.handle.metrics()
    }

    fn failure(&self) -> Option<String> {
        self.handle.closed()
    }

    fn reset_prefix_cache(&self) {
        self.handle.reset_prefix_cache();
    }

    fn stop(&self) {
        self.handle.shutdown();
    }
}

struct EventStream(Events);

impl Stream for EventStream {
    type Item = TokenEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TokenEvent>> {
        self.0.poll_next(context)
    }
}
