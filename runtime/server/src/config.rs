//! The configuration of a server. The command line fills it in; nothing here reads flags, files or the environment.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ossmith::{Adapter, EngineHandle, PAGE_TOKENS};
use ossmith_guide::GrammarHelper;

use crate::adapters::Adapters;
use crate::arrivals::ArrivalSink;
use crate::calendar;
use crate::error::ApiError;
use crate::files::FileLimits;
use crate::store::{SharedStore, StoreLimits};
use crate::tool_servers::{ToolLimits, ToolServer};

/// What does not change while a server runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names under which the model is served. Answers carry the first one.
    pub names: Vec<String>,
    /// Further names that requests may use. One that ends with `*` stands for every name that begins with the rest of it.
    pub aliases: Vec<String>,
    /// LoRA adapters, each of which requests name as their model.
    pub adapters: Adapters,
    /// The model's own name, shown as `root`.
    pub root: String,
    /// Most tokens of a prompt and its answer together.
    pub context: usize,
    /// Most tokens of an answer where the request names no limit; `None` is all that fit.
    pub max_new_tokens: Option<usize>,
    /// Ranks that share the model, which routers ask for.
    pub ranks: usize,
    /// Engines that share the requests, which routers ask for.
    pub engines: usize,
    /// The number of the model's parameters; 0 if it is not known.
    pub parameters: u64,
    /// Bytes of its weights; 0 if that is not known.
    pub weight_bytes: u64,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// The lowest `priority` that a request may have, and so the most urgent; a lower one counts as this.
    pub min_priority: i32,
    /// API keys. If there are none, no key is needed.
    pub keys: Vec<String>,
    /// All keys are of one trust domain: each reads what another has stored, and they share cached prefixes.
    pub one_tenant: bool,
    /// The key that opens `/debug`, which shows the traffic of all keys. Without one any key opens it, if there are no other
    /// tenants.
    pub operator_key: Option<String>,
    /// Origins from which browsers may call; `*` allows all. Pages of the server's own may always.
    pub origins: Vec<String>,
    /// Most bytes of a request body.
    pub body_bytes: usize,
    /// Most bytes of all request bodies that are received or read at a time, besides the first 64 KiB of each. Where
    /// requests are told apart by their keys, one key's may take half.
    pub bodies_bytes: usize,
    /// How long a request body may take to arrive.
    pub body_timeout: Option<Duration>,
    /// How long a request may take, in the background too.
    pub timeout: Option<Duration>,
    /// How long the server waits for requests in flight when it stops.
    pub drain: Duration,
    /// The date in the system message; `None` takes it from `today`.
    pub date: Option<String>,
    /// Returns today's date as `2026-01-31`.
    pub today: fn() -> String,
    /// Prompts and answers are logged.
    pub log_prompts: bool,
    /// Reasoning is also sent under its older name, `reasoning_content`.
    pub reasoning_content: bool,
    /// Tokens per chunk of a stream, unless the request names a number.
    pub stream_interval: usize,
    /// Tools of a type that this server does not run are refused; else they are left out, and a header of the answer names them.
    pub strict_tools: bool,
    /// Servers whose tools requests to Responses may use; where there are any, the server needs a tokio runtime from its start.
    pub tool_servers: Vec<ToolServer>,
    /// What calls of those tools may take.
    pub tool_limits: ToolLimits,
    /// The routes that load generators and trainers call exist: `/reset_prefix_cache`, those for profiles, which do nothing, and
    /// those that pause the engine, put it to sleep and change its weights.
    pub development: bool,
    /// Bounds of the stored responses.
    pub store: StoreLimits,
    /// What several servers store together; without it each stores in its own memory.
    pub shared_store: Option<SharedStore>,
    /// Where uploaded files and the results of batches are kept; without it there are neither.
    pub files: Option<FileLimits>,
    /// With what keys are hashed, where what a tenant stores outlives the process or is shared; `None` is a random salt.
    pub tenant_salt: Option<[u8; 32]>,
    /// Seals the reasoning that clients keep; `None` is a random key, with which only this process can open it.
    pub seal_key: Option<String>,
    /// How to start the processes in which grammars are tried out; without one only llguidance's own limits bound what a
    /// grammar takes.
    pub grammar_helper: Option<GrammarHelper>,
    /// Gets when each generation came and how long it was, for load that is replayed.
    pub arrivals: Option<ArrivalSink>,
    /// Seconds that each phase of starting took, for `/metrics`.
    pub startup: Vec<(String, f64)>,
    /// Lines of the log that could not be written, as whoever writes it counts them, for `/metrics`.
    pub dropped_log_lines: Arc<AtomicU64>,
}

impl Config {
    /// A configuration for a model of this name, context and vocabulary size, with defaults for the rest.
    #[must_use]
    pub fn new(name: &str, context: usize, vocab: usize) -> Config {
        Config {
            names: vec![name.to_owned()],
            aliases: Vec::new(),
            adapters: Adapters::default(),
            root: name.to_owned(),
            context,
            ranks: 1,
            engines: 1,
            parameters: 0,
            weight_bytes: 0,
            max_new_tokens: None,
            vocab,
            min_priority: 0,
            keys: Vec::new(),
            one_tenant: false,
            operator_key: None,
            origins: Vec::new(),
            body_bytes: 16 << 20,
            bodies_bytes: 256 << 20,
            body_timeout: Some(Duration::from_secs(60)),
            timeout: None,
            drain: Duration::from_secs(10),
            date: None,
            today: || "1970-01-01".to_owned(),
            log_prompts: false,
            reasoning_content: false,
            stream_interval: 1,
            strict_tools: false,
            tool_servers: Vec::new(),
            tool_limits: ToolLimits::default(),
            development: false,
            store: StoreLimits::default(),
            shared_store: None,
            files: None,
            tenant_salt: None,
            seal_key: None,
            grammar_helper: None,
            arrivals: None,
            startup: Vec::new(),
            dropped_log_lines: Arc::default(),
        }
    }

    /// The defaults for an engine's model, with today's date in UTC.
    #[must_use]
    pub fn of_engine(engine: &EngineHandle) -> Config {
        let (spec, limits) = (engine.spec(), engine.limits());
        let context = spec.context.min(limits.pages * PAGE_TOKENS);
        Config {
            max_new_tokens: spec.max_new_tokens,
            today: calendar::today,
            ..Config::new(spec.name, context, spec.vocab)
        }
    }

    /// The model name that answers carry.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether this is a name of the model that is served, or of an adapter.
    #[must_use]
    pub fn serves(&self, model: &str) -> bool {
        self.serves_itself(model) || self.adapters.get(model).is_some()
    }

    /// All names that are listed: those of the model, then those of adapters.
    pub(crate) fn all_names(&self) -> Vec<String> {
        let adapters = self.adapters.all();
        let of_adapters = adapters.iter().map(|adapter| adapter.name().to_owned());
        self.names.iter().cloned().chain(of_adapters).collect()
    }

    /// The adapter that a request for this model has; none for the model itself.
    ///
    /// # Errors
    /// Neither has this name, or an adapter had it until a moment ago.
    pub(crate) fn adapter(&self, model: Option<&str>) -> Result<Option<Arc<Adapter>>, ApiError> {
        let Some(model) = model.filter(|model| !self.serves_itself(model)) else { return Ok(None) };
        let adapter = self.adapters.get(model);
        adapter.map(Some).ok_or_else(|| ApiError::no_model(model, &self.all_names()))
    }

    /// Whether this is a name of the model itself. Ollama's clients write `:latest` after a name without a tag.
    #[must_use]
    pub fn serves_itself(&self, model: &str) -> bool {
        let matches = |name: &String, model: &str| match name.strip_suffix('*') {
            Some(start) => model.starts_with(start),
            None => name == model,
        };
        let untagged = model.strip_suffix(":latest").unwrap_or(model);
        let mut names = self.names.iter().chain(&self.aliases);
        names.any(|name| matches(name, model) || matches(name, untagged))
    }

    /// The date of a prompt that is made now.
    #[must_use]
    pub fn date(&self) -> String {
        self.date.clone().unwrap_or_else(|| (self.today)())
    }
}
