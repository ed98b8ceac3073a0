//! How far a long task is. It stands alone because checkpoints and backends report it, and backends know checkpoints.

/// Reported while weights load and kernels compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `load weights`, `compile kernels`, …
    pub stage: &'static str,
    /// Units done (bytes or kernels).
    pub done: u64,
    /// Units in all.
    pub total: u64,
}
