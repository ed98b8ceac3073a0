//! What can go wrong, each with what was being done and what to do next.

use std::path::PathBuf;

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
        /// Why not.
        source: std::io::Error,
    },
    /// A checkpoint is damaged or is not this model's.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// File or folder.
        path: PathBuf,
        /// What is wrong, what was expected, and what to do.
        problem: String,
    },
    /// A kernel source that is not the model's, or does not match its plan.
    #[error("{}: {problem}", path.display())]
    KernelSource {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the value found and the one expected, and what to do.
        problem: String,
    },
    /// A request that cannot be served as it stands.
    #[error("{0}")]
    Request(String),
    /// A request that could be served later: the queue is full.
    #[error("{0}")]
    Busy(String),
    /// The engine runs no more: it was shut down, or a step failed.
    #[error("{0}")]
    Closed(String),
    /// The device cannot run the model.
    #[error("{0}")]
    Device(String),
    /// A kernel did not compile.
    #[error("kernel {unit} does not compile: {log}")]
    Compile {
        /// Unit name.
        unit: String,
        /// The compiler's log.
        log: String,
    },
    /// Something that the runtime promises not to happen did: a bug worth reporting.
    #[error("internal error: {0}")]
    Internal(String),
}
