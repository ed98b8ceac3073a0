//! `ossmith serve`: flags to an engine and a server's configuration. The server itself is the crate `ossmith-server`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use ossmith::{Device, Policy};
use ossmith_plan::Model;
use ossmith_server::{ArrivalSink, Config, SharedStore, StoreLimits, ToolLimits, ToolServer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::adapter_args::AdapterArgs;
use crate::failure::fail;
use crate::interrupt;
use crate::load::{DeviceArgs, EngineCountArgs, EngineSetup};
use crate::log::{self, LineQueue};
use crate::model::{ModelArgs, ModelName};
use crate::model_settings::{EngineLimitArgs, ModelSettings};
use crate::storage::StorageArgs;
use crate::today;

/// Milliseconds that prompts take of a step on the CPU, where a step of --max-num-batched-tokens would hold up the answers
/// of others for a long time, and a token's bits do not depend on how its prompt is divided.
const CPU_PROMPT_MS: u64 = 6;

/// File descriptors that a server needs besides those that are open when it starts.
const MIN_DESCRIPTORS: usize = 24;

/// Serve a model to the SDKs of OpenAI, Anthropic and Ollama, to agents, curl and load generators.
///
/// Chat Completions, Completions, Responses and Anthropic's Messages under /v1, Ollama's API under /api, a chat page at /, metrics
/// at /metrics, the whole list at /openapi.json. Ctrl-C or SIGTERM stops it: running requests are finished first, for at most --shutdown-timeout seconds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The model, as --model takes it.
    #[arg(value_name = "MODEL", value_parser = ModelName::parser())]
    positional: Option<ModelName>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    engines: EngineCountArgs,

    /// Address to listen on; 0.0.0.0 is every one of this machine.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: String,

    /// Port to listen on; 0 takes a free one and prints it.
    #[arg(long, short, default_value_t = 8000, value_name = "N")]
    port: u16,

    /// Name under which the model is served; several may be given [default: the model's own].
    #[arg(long, value_name = "NAME", num_args = 1.., value_parser = NonEmptyStringValueParser::new())]
    served_model_name: Vec<String>,

    /// Further name that requests may use; several may be given, and `*` at the end stands for anything.
    ///
    /// Answers are the served model's all the same. The default is for Claude Code, which calls several models of Anthropic's by
    /// names that no setting of its own covers all.
    #[arg(long, value_name = "NAME", num_args = 0.., default_value = "claude-*")]
    model_alias: Vec<String>,

    /// Key that clients must send; several may be given [default: OSSMITH_API_KEY, if set; else no key is required].
    #[arg(long, value_name = "KEY", num_args = 1..)]
    api_key: Vec<String>,

    /// File with such keys, one per line; lines that begin with # are comments.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// All keys are of one trust domain: each may read what another has stored, and prompts share one cache.
    #[arg(long)]
    one_tenant: bool,

    /// Key that opens /debug, which shows the traffic of all keys, as numbers [default: OSSMITH_OPERATOR_KEY, if set; else any
    /// key does, if there is one tenant].
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    operator_key: Option<String>,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    storage: StorageArgs,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    tools: ToolArgs,

    #[command(flatten)]
    adapters: AdapterArgs,
}

/// Tools that servers of the operator's run for the model.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tools")]
struct ToolArgs {
    /// MCP server whose tools requests to /v1/responses may use: [LABEL=]http://HOST:PORT/PATH or [LABEL=]stdio:COMMAND.
    ///
    /// Several may be given, each with a label. A server's `python` runs the model's code where a request has the tool
    /// code_interpreter, its `search`, `open` and `find` are the browser where it has web_search, and all its tools may be named by
    /// a tool of the type mcp. Clients choose among these servers and cannot name others. A command is read by the shell and
    /// started anew for each answer.
    #[arg(long, value_name = "SERVER", value_parser = str::parse::<ToolServer>)]
    tool_server: Vec<ToolServer>,

    /// Seconds that one call of a tool may take.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    tool_timeout: u64,

    /// Calls of tools that servers run, for one answer.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    max_tool_calls: usize,

    /// Bytes of a tool's result that the model reads; the rest is cut off.
    #[arg(long, default_value_t = 64 << 10, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(64..))]
    max_tool_result_bytes: usize,
}

impl ToolArgs {
    fn limits(&self) -> ToolLimits {
        ToolLimits {
            time: Duration::from_secs(self.tool_timeout),
            result_bytes: self.max_tool_result_bytes,
            calls: self.max_tool_calls,
        }
    }

    /// The servers, whose labels differ.
    fn servers(&self) -> anyhow::Result<Vec<ToolServer>> {
        let servers = &self.tool_server;
        let again = |at: &usize| servers[..*at].iter().any(|one| one.label == servers[*at].label);
        match (0..servers.len()).find(again) {
            Some(at) => Err(fail(
                format!("two tool servers have the label `{}`", servers[at].label),
                "give each a label of its own: --tool-server LABEL=URL",
            )),
            None => Ok(servers.clone()),
        }
    }
}

/// What requests may take, wait for and leave behind.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    #[command(flatten)]
    engine: EngineLimitArgs,

    /// Milliseconds that prompts may take of a step in which answers are generated; 0 is no limit [default: 6 on the CPU,
    /// 0 elsewhere].
    #[arg(long, value_name = "MS")]
    max_prompt_ms: Option<u64>,

    /// Milliseconds that a whole step may take in which answers are generated: prompts get what the answers leave of it, and at
    /// least 8 tokens; 0 is no limit [default: 0]. Given without --max-prompt-ms, it replaces that limit.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    max_step_ms: u64,

    /// Requests that may wait for one of --max-num-seqs places; any more are refused with 429 and Retry-After.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    max_queue: usize,

    /// The most urgent priority that a request may ask for: lower numbers run first, and what is below this counts as this.
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(..=0))]
    min_priority: i32,

    /// Seconds that a request may take; 0 is no limit.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    request_timeout: u64,

    /// Bytes of a request body.
    #[arg(long, default_value_t = 16 << 20, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    max_body_bytes: usize,

    /// Bytes of all request bodies that are received at a time; with several keys, one key's may take half.
    #[arg(long, default_value_t = 256 << 20, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    max_bodies_bytes: usize,

    /// Seconds in which a request's body must arrive; 0 is no limit.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    body_timeout: u64,

    /// Responses that are kept for previous_response_id.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    store_entries: usize,

    /// Bytes of the responses that are kept.
    #[arg(long, default_value_t = 256 << 20, value_name = "N")]
    store_bytes: usize,

    /// Seconds for which responses are kept.
    #[arg(long, default_value_t = 24 * 3600, value_name = "SECONDS")]
    store_seconds: u64,
}

/// How the server speaks HTTP.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
struct HttpArgs {
    /// Origins that pages in a browser may call from: https://example.com, or * for any [default: any if a key is
    /// required, else the server's own pages only].
    #[arg(long, value_name = "ORIGIN", num_args = 1.., value_parser = origin)]
    allowed_origins: Vec<String>,

    /// The date in the system message [default: SYSTEM_START_DATE, else today].
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = today::parse)]
    date: Option<String>,

    /// Seconds to wait for running requests when stopping.
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    shutdown_timeout: u64,

    /// Tokens per chunk of a stream.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    stream_interval: u16,

    /// Send the reasoning under the older name reasoning_content too.
    #[arg(long)]
    reasoning_content: bool,

    /// Refuse tools and input items of types that this server does not run, instead of leaving them out and naming them in a header.
    #[arg(long)]
    strict_tools: bool,

    /// Secret with which reasoning that clients keep is sealed; replicas need the same [default: OSSMITH_SEAL_KEY, if set; else a
    /// random one, with which no other process can open it].
    #[arg(long, value_name = "SECRET", value_parser = NonEmptyStringValueParser::new())]
    seal_key: Option<String>,

    /// Log prompts and answers.
    #[arg(long)]
    log_prompts: bool,

    /// Write to a new file when each generation came and how long prompt and answer were, without a word of them, one line of
    /// JSON each; `bench serve --replay` sends the same load again.
    #[arg(long, value_name = "FILE")]
    record_arrivals: Option<PathBuf>,

    /// Also answer what load generators and trainers call: /reset_prefix_cache, /start_profile and /stop_profile, which do
    /// nothing, /pause, /resume, /sleep, /wake_up and /update_weights.
    #[arg(long)]
    development: bool,
}

impl Args {
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        if let Some(name) = self.positional.take() {
            self.model.model = name;
        }
        let keys = self.keys()?;
        let operator_key = self.operator_key()?;
        let tool_servers = self.tools.servers()?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        // Grammars of strangers are compiled on short-lived threads; over more areas their memory would not come back.
        ossmith::unstable::limit_arenas(cores.clamp(2, 8));
        log_panics();
        check_descriptors()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .max_blocking_threads(ossmith_server::reading_threads())
            .enable_all()
            .build()
            .context("cannot start the server's threads")?;
        // A taken port shows now, not after the weights are loaded.
        runtime.block_on(self.listen())?;
        // So does a store that is not there.
        let shared_store = self.storage.shared_store()?;
        // Last of these, so that a start that fails leaves no empty recording in the way of the next.
        let recording = self.http.record_arrivals.as_deref().map(record_to).transpose()?;
        let start = Instant::now();
        let chosen = self.model.choose()?;
        chosen.warn_if_random();
        let opened = start.elapsed().as_secs_f64();
        let spec = &chosen.model.spec;
        if let Some(requested) =
            self.limits.engine.max_model_len.filter(|&tokens| tokens as usize > spec.context)
        {
            let (name, context) = (spec.name, spec.context);
            tracing::warn!(
                "--max-model-len {requested} is reduced to the context of {name}, {context}"
            );
        }
        let setup = self.device.setup(chosen.model, self.engines.count())?;
        let limits = self.model_settings(&setup).engine_limits(chosen.model)?;
        let policy = Policy::default()
            .with_max_waiting(self.limits.max_queue)
            .with_prompt_time(self.prompt_time(setup.device()))
            .with_step_time(milliseconds(self.limits.max_step_ms));
        let (backend, described) = self.device.load_backend(&chosen, &setup, limits, policy)?;
        let loaded = start.elapsed().as_secs_f64() - opened;
        let startup = vec![("open".to_owned(), opened), ("load".to_owned(), loaded)];
        let mut config =
            self.config(chosen.model, &setup, limits.pages, keys, startup, shared_store)?;
        config.operator_key = operator_key;
        config.adapters = self.adapters.load(spec, backend.adapter_support(), &config)?;
        config.arrivals = recording.as_ref().map(arrivals_of);
        config.tool_servers = tool_servers;
        let name = config.name().to_owned();
        let served = runtime.block_on(async {
            let listener = self.listen().await?;
            let address = listener.local_addr().context("the socket has no address")?;
            announce(&name, &described, address)?;
            let stop = stop_signal()?;
            ossmith_server::serve(listener, config, backend, stop)
                .await
                .context("the server failed")
        });
        recording.iter().for_each(|recording| recording.flush());
        served?;
        // A request to stop is how a server ends normally.
        interrupt::clear();
        Ok(())
    }

    async fn listen(&self) -> anyhow::Result<TcpListener> {
        let address = (self.host.as_str(), self.port);
        TcpListener::bind(address).await.map_err(|why| {
            fail(
                format!("cannot listen on {}:{}: {why}", self.host, self.port),
                "choose another --port (0 takes a free one) or --host",
            )
        })
    }

    fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if keys.iter().any(|key| key.trim().is_empty()) {
            // What `--api-key "$KEY"` gives where KEY is not set: no client could send it.
            return Err(fail("--api-key is empty", "give a key, or leave the flag out"));
        }
        if let Some(file) = &self.api_key_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the keys in {}", file.display()))?;
            keys.extend(keys_of(&text));
            if keys.is_empty() {
                // A server that was to be guarded must not start open.
                return Err(fail(
                    format!("{} has no keys", file.display()),
                    "write one key per line",
                ));
            }
        }
        if keys.is_empty() {
            keys.extend(key_of_environment(
                "OSSMITH_API_KEY",
                std::env::var_os("OSSMITH_API_KEY"),
            )?);
        }
        Ok(keys)
    }

    fn operator_key(&self) -> anyhow::Result<Option<String>> {
        const VARIABLE: &str = "OSSMITH_OPERATOR_KEY";
        match &self.operator_key {
            Some(key) if key.trim().is_empty() => {
                Err(fail("--operator-key is empty", "give a key, or leave the flag out"))
            }
            Some(key) => Ok(Some(key.clone())),
            None => key_of_environment(VARIABLE, std::env::var_os(VARIABLE)),
        }
    }

    /// A page needs a key like any other client where there are keys, so there it may come from anywhere.
    fn origins(&self, keys: bool) -> Vec<String> {
        match self.http.allowed_origins.as_slice() {
            [] if keys => vec!["*".to_owned()],
            given => given.to_vec(),
        }
    }

    fn model_settings<'a>(&'a self, setup: &'a EngineSetup) -> ModelSettings<'a> {
        ModelSettings {
            model: &self.model,
            setup,
            limits: &self.limits.engine,
            names: &self.served_model_name,
            date: self.http.date.as_deref(),
        }
    }

    /// What prompts may take of a step in which answers are generated.
    fn prompt_time(&self, device: Device) -> Option<Duration> {
        let steps_are_limited = self.limits.max_step_ms > 0;
        let default = if device == Device::Cpu && !steps_are_limited { CPU_PROMPT_MS } else { 0 };
        milliseconds(self.limits.max_prompt_ms.unwrap_or(default))
    }

    fn config(
        &self,
        model: &Model,
        setup: &EngineSetup,
        pages: usize,
        keys: Vec<String>,
        startup: Vec<(String, f64)>,
        shared_store: Option<SharedStore>,
    ) -> anyhow::Result<Config> {
        let (limits, http) = (&self.limits, &self.http);
        let seconds = |seconds: u64| Duration::from_secs(seconds);
        let files = self.storage.limits()?;
        let salt = StorageArgs::tenant_salt(shared_store.as_ref(), files.as_ref())?;
        let mut config = self.model_settings(setup).config(model, pages);
        config.aliases.extend(self.model_alias.iter().cloned());
        Ok(Config {
            origins: self.origins(!keys.is_empty()),
            min_priority: limits.min_priority,
            keys,
            one_tenant: self.one_tenant,
            body_bytes: limits.max_body_bytes,
            bodies_bytes: limits.max_bodies_bytes.max(limits.max_body_bytes),
            body_timeout: (limits.body_timeout > 0).then(|| seconds(limits.body_timeout)),
            timeout: (limits.request_timeout > 0).then(|| seconds(limits.request_timeout)),
            drain: seconds(http.shutdown_timeout),
            strict_tools: http.strict_tools,
            tool_limits: self.tools.limits(),
            files,
            shared_store,
            tenant_salt: salt,
            seal_key: http.seal_key.clone().or_else(seal_key_of_environment),
            log_prompts: http.log_prompts,
            reasoning_content: http.reasoning_content,
            stream_interval: http.stream_interval.into(),
            development: http.development,
            store: StoreLimits {
                entries: limits.store_entries,
                bytes: limits.store_bytes,
                lifetime: seconds(limits.store_seconds),
            },
            startup,
            dropped_log_lines: log::dropped(),
            ..config
        })
    }
}

/// The keys in a file: one per line, without the mark that some editors put at its start, comments and empty lines.
fn keys_of(text: &str) -> impl Iterator<Item = String> {
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

/// Refuses to start where there are too few file descriptors: the asynchronous runtime panics without its own.
fn check_descriptors() -> anyhow::Result<()> {
    let all: Result<Vec<File>, _> = (0..MIN_DESCRIPTORS).map(|_| File::open("/dev/null")).collect();
    all.map(drop).map_err(|why| {
        fail(
            format!("a server needs {MIN_DESCRIPTORS} more open files: {why}"),
            "raise the limit: ulimit -n 1024",
        )
    })
}

/// A panic is logged like everything else: standard error may be a pipe that nobody reads.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(panic = panic.to_string(), "a panic, which is a bug");
        // That of the main thread ends the process.
        if std::thread::current().name() == Some("main") {
            log::flush();
        }
    }));
}

/// An empty secret counts as none.
fn seal_key_of_environment() -> Option<String> {
    std::env::var("OSSMITH_SEAL_KEY").ok().filter(|secret| !secret.trim().is_empty())
}

/// A recording of what arrives in a new file, one line of JSON each. A thread writes it, so that a slow disk delays no request.
fn record_to(path: &Path) -> anyhow::Result<Arc<LineQueue>> {
    let file = File::create_new(path).map_err(|why| {
        let hint = match why.kind() {
            ErrorKind::AlreadyExists => "name a new file, or move this one away: it is kept",
            _ => "name a file in a folder that can be written to",
        };
        fail(format!("cannot record to {}: {why}", path.display()), hint)
    })?;
    let lines = Arc::new(LineQueue::default());
    lines.write_on_thread("recording", file).context("no thread can be started to record")?;
    Ok(lines)
}

/// A limit that a flag gives; 0 is none.
fn milliseconds(limit: u64) -> Option<Duration> {
    (limit > 0).then(|| Duration::from_millis(limit))
}

/// Hands a recording what arrives. The first line that cannot be written is logged.
fn arrivals_of(recording: &Arc<LineQueue>) -> ArrivalSink {
    let (lines, failed) = (Arc::clone(recording), AtomicBool::new(false));
    ArrivalSink::new(move |arrival| {
        // Numbers and our own words always serialise.
        let line = serde_json::to_string(arrival).unwrap_or_default();
        lines.push(format!("{line}\n").as_bytes());
        if lines.dropped() > 0 && !failed.swap(true, Ordering::Relaxed) {
            tracing::error!("arrivals cannot be recorded: the disk is full or too slow");
        }
    })
}

/// The key in this variable of the environment. One that no client could send must not leave open what it guards.
fn key_of_environment(variable: &str, value: Option<OsString>) -> anyhow::Result<Option<String>> {
    let Some(value) = value else { return Ok(None) };
    let hint = "give a key, or unset the variable to serve without one";
    match value.into_string() {
        Ok(key) if !key.trim().is_empty() => Ok(Some(key)),
        Ok(_) => Err(fail(format!("{variable} is empty"), hint)),
        Err(_) => Err(fail(format!("{variable} is not valid UTF-8"), hint)),
    }
}

/// An origin as browsers write it in their `Origin` header (RFC 6454, section 6.2).
fn origin(text: &str) -> Result<String, String> {
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        let odd = |c: char| "/,*".contains(c) || c.is_whitespace() || c.is_uppercase();
        [scheme, host].iter().all(|part| !part.is_empty() && !part.contains(odd))
    });
    if is_origin || text == "*" || text == "null" {
        return Ok(text.to_owned());
    }
    Err("expected *, null, or a scheme and a host as in https://example.com:8443".to_owned())
}

/// One line on standard output, for people and for programs that wait for it.
fn announce(name: &str, backend: &str, address: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "serving {name} on http://{address} ({backend})")?;
    out.flush()?;
    Ok(())
}

/// Ready on the first Ctrl-C or SIGTERM. A second Ctrl-C ends the server at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let watch = interrupt::Watch::start();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        drop(watch);
    })
}
