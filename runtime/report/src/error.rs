//! What can be wrong with a recorded result or with a file that people write.

use std::path::PathBuf;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not what its reader expects.
    #[error("{file}: {problem}")]
    Content {
        /// Which file.
        file: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl Error {
    pub(crate) fn content(file: &str, problem: impl Into<String>) -> Error {
        Error::Content { file: file.to_owned(), problem: problem.into() }
    }
}

/// The result of reading something.
pub type Result<T> = std::result::Result<T, Error>;
