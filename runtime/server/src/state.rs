//! What all handlers share: the configuration, the backend, what is counted and what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::backend::{GenerationBackend, GenerationRequest};
use crate::bodies::{Bodies, BodyLimits};
use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::files::{BatchSlots, Files};
use crate::generation::Generation;
use crate::guide::compiler::Compiler;
use crate::ids::unix_seconds;
use crate::metrics::Metrics;
use crate::reading::{ReadingTurns, reading_threads};
use crate::seal::Sealer;
use crate::store::Store;
use crate::tenant::{Keys, Tenant};
use crate::tool_servers::ToolServers;

/// The state of a server.
pub(crate) struct AppState {
    pub(crate) config: Config,
    pub(crate) backend: Arc<dyn GenerationBackend>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) compiler: Compiler,
    pub(crate) store: Arc<Store>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) reading: ReadingTurns,
    /// Files of clients, if the server keeps any.
    pub(crate) files: Option<Files>,
    pub(crate) batches: BatchSlots,
    pub(crate) sealer: Sealer,
    pub(crate) tool_servers: ToolServers,
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
    stopping: AtomicBool,
    /// Calls that generate, so far.
    calls: AtomicU64,
}

impl AppState {
    pub(crate) fn new(config: Config, backend: Arc<dyn GenerationBackend>) -> Arc<AppState> {
        let store = Arc::new(Store::new(config.store, config.shared_store.clone()));
        let keys = Keys::new(&config.keys, config.one_tenant, config.tenant_salt);
        let keys = Arc::new(keys.with_operator(config.operator_key.clone()));
        AppState::over(store, keys, config, backend)
    }

    /// The state of a server over a store that is there already, with the tenants whose responses it holds.
    pub(crate) fn over(
        store: Arc<Store>,
        keys: Arc<Keys>,
        config: Config,
        backend: Arc<dyn GenerationBackend>,
    ) -> Arc<AppState> {
        let compiler = Compiler::new(config.grammar_helper.clone());
        let sealer = Sealer::new(config.seal_key.as_deref(), &keys);
        let bodies = Bodies::new(BodyLimits {
            body_bytes: config.body_bytes,
            total_bytes: config.bodies_bytes,
            tenant_bytes: config.bodies_bytes / if keys.has_tenants() { 2 } else { 1 },
            time: config.body_timeout,
        });
        let has_tenants = keys.has_tenants();
        let tool_servers = ToolServers::new(&config.tool_servers, config.tool_limits, has_tenants);
        let files = config.files.clone().map(|limits| Files::new(limits, has_tenants));
        Arc::new(AppState {
            tool_servers,
            config,
            backend,
            metrics: Arc::new(Metrics::new()),
            compiler,
            store,
            keys,
            bodies,
            reading: ReadingTurns::new(reading_threads(), has_tenants),
            files,
            batches: BatchSlots::new(has_tenants),
            sealer,
            created: unix_seconds(),
            stopping: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        })
    }

    /// From now on no generation starts.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether generations can start, now or later.
    pub(crate) fn is_running(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && self.backend.failure().is_none()
    }

    /// Starts the generations of a tenant's request that arrived then, each with what is left of the configured time. They
    /// share cached prefixes with that tenant's requests only.
    pub(crate) fn generate(
        &self,
        mut requests: Vec<GenerationRequest>,
        tenant: Tenant,
        arrival: Instant,
    ) -> Result<Generation> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable("the server is stopping"));
        }
        let group = self.calls.fetch_add(1, Ordering::Relaxed);
        for request in &mut requests {
            let engine = &mut request.engine_request;
            engine.cache_salt = tenant.cache_salt(engine.cache_salt);
            engine.tenant = tenant.number();
            engine.group = Some(group);
        }
        let timeout = self.config.timeout;
        let arrivals = self.config.arrivals.as_ref();
        let backend = self.backend.as_ref();
        Generation::start(backend, &self.metrics, arrivals, requests, arrival, timeout)
    }

    /// An error unless this is a name of the model that is served, or no name at all.
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) if !self.config.serves(name) => {
                Err(ApiError::no_model(name, &self.config.all_names()))
            }
            _ => Ok(()),
        }
    }
}
