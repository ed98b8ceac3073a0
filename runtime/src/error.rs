//! What can go wrong. Each variant names what was being done, and its message says what to do next.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

/// The runtime's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that the runtime refuses or fails at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: `open`, `read`, `map`, `list`, `read the kernels of`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A checkpoint is corrupt or belongs to another model.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// File or folder.
        path: PathBuf,
        /// What is wrong, what was expected, and what to do.
        problem: String,
    },
    /// The stored values of a weight cannot be used.
    #[error("{weight}: {problem}")]
    Weight {
        /// Which weight, of which layer.
        weight: String,
        /// What is wrong with its values.
        problem: String,
    },
    /// An option with which no engine can be loaded or no call can be made.
    #[error("{problem}")]
    InvalidOption {
        /// The option or environment variable.
        option: &'static str,
        /// Its value, and which values are possible.
        problem: String,
    },
    /// A request that can never be served as it stands.
    #[error("{problem}")]
    InvalidRequest {
        /// The field of [`Request`](crate::Request) or [`SamplingParams`](crate::SamplingParams) that is wrong.
        field: &'static str,
        /// Its value, and which values are possible.
        problem: String,
    },
    /// The prompt does not fit into the model's context.
    #[error(
        "the prompt has {tokens} tokens, but the context has room for a prompt of at most {limit}: shorten the prompt by {}",
        tokens.saturating_sub(*limit)
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the longest prompt that can be served.
        limit: usize,
    },
    /// A request needs more pages than the whole key/value cache has.
    #[error(
        "{prompt_tokens} prompt tokens and {new_tokens} to generate need {needed_pages} cache pages, but there are {pages}: \
         request fewer tokens or load the model with more pages"
    )]
    CacheTooSmall {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens that the request generates.
        new_tokens: usize,
        /// Pages that these tokens need.
        needed_pages: usize,
        /// Pages that the cache has.
        pages: usize,
    },
    /// One of several prompts cannot be served; none of them ran.
    #[error("prompt {index}: {source}")]
    Prompt {
        /// Which of the call's prompts, counted from 0.
        index: usize,
        /// Why it was refused.
        source: Box<Error>,
    },
    /// The queue of waiting samples is full. The same request can be served later.
    #[error(
        "the queue is full: {waiting} samples are waiting and at most {limit} may; try again later"
    )]
    QueueFull {
        /// Samples that wait.
        waiting: usize,
        /// Samples that may wait: [`Policy::max_waiting`](crate::Policy::max_waiting).
        limit: usize,
        /// Samples that may run and wait together.
        capacity: usize,
    },
    /// A call that needs the whole engine was made while requests are in flight.
    #[error(
        "cannot {action} while requests are in flight: step the engine until it is idle, or cancel them"
    )]
    NotIdle {
        /// What the call does.
        action: &'static str,
    },
    /// A request failed after it was accepted.
    #[error("the request failed: {reason}")]
    RequestFailed {
        /// What failed.
        reason: String,
    },
    /// The engine was shut down.
    #[error("the engine has been shut down; load it again")]
    ShutDown,
    /// The engine sleeps, or has no weights since it slept.
    #[error("the engine {problem}")]
    Asleep {
        /// What it lacks, and what to do first.
        problem: &'static str,
    },
    /// The engine stopped because a step failed.
    #[error("the engine has stopped after an earlier failure ({reason}); load it again")]
    Stopped {
        /// What failed.
        reason: String,
    },
    /// A backend refused a step before anything of it ran.
    #[error("the step is refused: {problem}")]
    InvalidStep {
        /// Which limit or rule the step breaks.
        problem: String,
    },
    /// The largest logit of a row is not a finite number, so that no token can be sampled from it.
    #[error(
        "the largest logit at position {position} is not a finite number: weights or kernels are corrupt"
    )]
    NonFiniteLogits {
        /// Position of the token that was to be sampled.
        position: usize,
    },
    /// A device, or a library that it needs, cannot be used at all.
    #[error("{problem}")]
    DeviceUnavailable {
        /// What is missing, too old or unknown, and what to do.
        problem: String,
    },
    /// Not enough memory for the model and its limits.
    #[error("{problem}")]
    OutOfMemory {
        /// Bytes that were needed.
        needed_bytes: u64,
        /// Bytes that were free, where that is known.
        available_bytes: Option<u64>,
        /// What the memory was for, and what to do.
        problem: String,
    },
    /// A device, its driver or the operating system failed at something.
    #[error("cannot {action}: {problem}")]
    Device {
        /// What was being done.
        action: String,
        /// What the device reported.
        problem: String,
    },
    /// One of the ranks that share a model failed, and the others cannot go on without it.
    #[error("rank {rank} of {of} failed: {problem}")]
    Rank {
        /// Which rank, counted from 0.
        rank: usize,
        /// How many ranks there are.
        of: usize,
        /// What failed there: [`Error::OutOfMemory`] where its memory was short, for instance.
        problem: Arc<Error>,
    },
    /// A kernel source that is not the model's, or does not match its plan.
    #[error("{}: {problem}", path.display())]
    KernelSource {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the value found and the one expected, and what to do.
        problem: String,
    },
    /// A kernel did not compile.
    #[error("kernel {unit} does not compile: {log}")]
    Compile {
        /// Unit name.
        unit: String,
        /// The compiler's log.
        log: String,
    },
    /// Something that the runtime rules out has happened: a bug worth reporting.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// Whether another prompt or other settings would have been accepted: [`Error::InvalidRequest`],
    /// [`Error::PromptTooLong`] or [`Error::CacheTooSmall`], of one prompt or of one among several.
    #[must_use]
    pub fn is_bad_request(&self) -> bool {
        match self {
            Error::InvalidRequest { .. }
            | Error::PromptTooLong { .. }
            | Error::CacheTooSmall { .. } => true,
            Error::Prompt { source, .. } => source.is_bad_request(),
            _ => false,
        }
    }

    /// The same as the failure of a rank, unless it is one already.
    pub(crate) fn of_rank(self, rank: usize, of: usize) -> Error {
        match self {
            Error::Rank { .. } => self,
            own => Error::Rank { rank, of, problem: Arc::new(own) },
        }
    }

    /// A setting of a request that is out of range.
    pub(crate) fn invalid_request(field: &'static str, problem: impl Into<String>) -> Error {
        Error::InvalidRequest { field, problem: problem.into() }
    }

    /// An option that is out of range.
    pub(crate) fn invalid_option(option: &'static str, problem: impl Into<String>) -> Error {
        Error::InvalidOption { option, problem: problem.into() }
    }

    /// A step that breaks a rule.
    pub(crate) fn invalid_step(problem: impl Into<String>) -> Error {
        Error::InvalidStep { problem: problem.into() }
    }

    /// A device that cannot be used.
    pub(crate) fn unavailable(problem: impl Into<String>) -> Error {
        Error::DeviceUnavailable { problem: problem.into() }
    }

    /// Something that a device, its driver or the system failed at.
    pub(crate) fn device(action: impl Into<String>, problem: impl std::fmt::Display) -> Error {
        Error::Device { action: action.into(), problem: problem.to_string() }
    }
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
