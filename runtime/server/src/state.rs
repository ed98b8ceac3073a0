//! What all handlers share: the configuration, the backend, what is counted and what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::backend::{GenerationBackend, GenerationRequest};
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::generation::Generation;
use crate::guide::compiler::Compiler;
use crate::ids::unix_seconds;
use crate::metrics::Metrics;
use crate::store::Store;

/// The state of a server.
pub(crate) struct AppState {
    pub(crate) config: Config,
    pub(crate) backend: Arc<dyn GenerationBackend>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) compiler: Compiler,
    pub(crate) store: Store,
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
    stopping: AtomicBool,
}

impl AppState {
    pub(crate) fn new(config: Config, backend: Arc<dyn GenerationBackend>) -> Arc<AppState> {
        let store = Store::new(config.store);
        let compiler = Compiler::new(config.grammar_helper.clone());
        Arc::new(AppState {
            config,
            backend,
            metrics: Arc::new(Metrics::new()),
            compiler,
            store,
            created: unix_seconds(),
            stopping: AtomicBool::new(false),
        })
    }

    /// From now on no generation starts.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Starts the generations of a request that arrived then, each with what is left of the configured time.
    pub(crate) fn generate(
        &self,
        requests: Vec<GenerationRequest>,
        arrival: Instant,
    ) -> Result<Generation> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable("the server is stopping"));
        }
        let timeout = self.config.timeout;
        Generation::start(self.backend.as_ref(), &self.metrics, requests, arrival, timeout)
    }

    /// An error unless this is a name of the model that is served, or no name at all.
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if !self.config.serves(name) => {
                Err(ApiError::no_model(name, &self.config.names))
            }
            _ => Ok(()),
        }
    }
}
