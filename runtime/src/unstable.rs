//! What the command, the benches and the tests of this workspace need beyond the public API: the contract of a backend,
//! both backends, and how synthetic weights are made. Any of it may change in any release.

pub use crate::allocator::{limit_arenas, release_memory};
#[cfg(feature = "cuda")]
pub use crate::backend::cuda;
pub use crate::backend::{
    Backend, Input, LayerActivations, LogitRows, PromptReport, RowSampling, Sequence, Step,
    StepForm, StepOutput, StepTime, cpu,
};
pub use crate::checkpoint::{Tensor, end_on_lost_pages, export, synthetic};
pub use crate::engine::LogitsOptions;
pub use crate::pool::ranks_on_devices;
pub use crate::priority::{
    Rise, on_yielding_thread, rise, this_thread, yield_thread, yield_to_others,
};
pub use crate::sampling::{Penalties, SamplerConfig, TokenHistory};
