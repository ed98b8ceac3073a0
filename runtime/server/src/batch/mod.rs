//! Many requests from a file, each a line, in OpenAI's batch format. `line` reads a request and writes its result, `runner` runs
//! the lines through the same handlers as requests over HTTP, `job` runs a batch that a client has started, and `routes` and
//! `file_routes` are `/v1/batches` and `/v1/files`. The files themselves are in `crate::files`.

mod file_routes;
mod job;
mod line;
mod routes;
mod runner;

pub(crate) use file_routes::{
    content, delete, list as list_files, retrieve as retrieve_file, upload,
};
pub(crate) use routes::{cancel, create, list, retrieve};
pub use runner::{BatchCounts, BatchError, run_batch};
