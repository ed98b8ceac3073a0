//! How a server is set up. The command line fills this in; nothing here reads flags, files or the environment.

use std::time::Duration;

use crate::guide::GrammarHelper;

/// Everything that does not change while a server runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names under which the model is served; the first is the one it answers with.
    pub names: Vec<String>,
    /// Further names that requests may use.
    pub aliases: Vec<String>,
    /// The model's own name, shown as `root`.
    pub root: String,
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Tokens of an answer where a request names no limit; `None` is all that fit.
    pub max_new_tokens: Option<usize>,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// API keys; none means that no key is needed.
    pub keys: Vec<String>,
    /// Origins that browsers may call from; `*` allows all.
    pub origins: Vec<String>,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// How long a request may take, one in the background too.
    pub timeout: Option<Duration>,
    /// How long to wait for requests under way when stopping.
    pub drain: Duration,
    /// The date in the system message; none asks `today`.
    pub date: Option<String>,
    /// Today, as `2026-01-31`.
    pub today: fn() -> String,
    /// Log prompts and answers.
    pub log_prompts: bool,
    /// Send thoughts under the older name `reasoning_content` too.
    pub reasoning_content: bool,
    /// Tokens a chunk of a stream, unless the request says.
    pub stream_interval: usize,
    /// The routes that load generators use: to forget cached prefixes, and to profile (which does nothing here).
    pub development: bool,
    /// Bounds of the store of responses.
    pub store: StoreLimits,
    /// How to start the processes in which grammars are tried out; without one only llguidance's own limits bound what a
    /// grammar takes.
    pub grammar_helper: Option<GrammarHelper>,
    /// Seconds that each phase of starting took, for `/metrics`.
    pub startup: Vec<(String, f64)>,
}

/// Bounds of the store of responses; the least recently used go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Responses.
    pub entries: usize,
    /// Bytes of their JSON.
    pub bytes: usize,
    /// Time since the last use.
    pub lifetime: Duration,
}

impl Default for StoreLimits {
    /// 1024 responses, 256 MiB, a day.
    fn default() -> StoreLimits {
        StoreLimits { entries: 1024, bytes: 256 << 20, lifetime: Duration::from_secs(24 * 3600) }
    }
}

impl Config {
    /// A server for a model of this name, context and vocabulary, with defaults for the rest.
    #[must_use]
    pub fn new(name: &str, context: usize, vocab: usize) -> Config {
        Config {
            names: vec![name.to_owned()],
            aliases: Vec::new(),
            root: name.to_owned(),
            context,
            max_new_tokens: None,
            vocab,
            keys: Vec::new(),
            origins: vec!["*".to_owned()],
            body_bytes: 16 << 20,
            timeout: None,
            drain: Duration::from_secs(10),
            date: None,
            today: || "1970-01-01".to_owned(),
            log_prompts: false,
            reasoning_content: false,
            stream_interval: 1,
            development: false,
            store: StoreLimits::default(),
            grammar_helper: None,
            startup: Vec::new(),
        }
    }

    /// The name that answers carry.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether a request's `model` means the model that is served.
    #[must_use]
    pub fn serves(&self, model: &str) -> bool {
        self.names.iter().chain(&self.aliases).any(|name| name == model)
    }

    /// The date for a prompt that is made now.
    #[must_use]
    pub fn date(&self) -> String {
        self.date.clone().unwrap_or_else(|| (self.today)())
    }
}
