//! Ossmith's runtime: from a model and its weights to tokens.
//!
//! A model is a `&'static` [`Model`] (from `ossmith-models`), and its weights are a [`Checkpoint`]. [`Engine::load`]
//! puts them on a device. The engine then serves many requests at once: on the caller's own thread
//! ([`Engine::generate`], [`Engine::stream`]), or on a thread of its own ([`EngineHandle`]), whose [`Events`] can be read
//! by blocking, with a time limit, or as a `futures_core::Stream`. Several engines of one model behind one address are an
//! [`EnginePool`]. Prompts and answers are token ids: this crate knows neither HTTP nor a tokenizer.
//!
//! Everything that an embedder needs stands at the root of the crate; [`prelude`] holds the names that most programs use.

mod allocator;
mod backend;
mod checkpoint;
mod engine;
mod error;
mod pool;
pub mod prelude;
mod priority;
mod progress;
mod sampling;
mod setters;
#[doc(hidden)]
pub mod unstable;

pub use backend::{
    DenseWeights, Device, Limits, MAX_RANKS, MemoryBudget, PAGE_TOKENS, RankModels, Ranks,
    SleepLevel,
};
pub use checkpoint::{
    Adapter, AdapterBounds, AdapterSupport, Checkpoint, CheckpointOptions, Conversion,
    ExpertStorage, Gguf, GgufTokenizer, MAX_RANK,
};
pub use engine::{
    Allowed, BlockingEvents, Completion, Detokenizer, Engine, EngineHandle, EngineMetrics,
    EngineOptions, Events, FinishReason, Histogram, MaskSource, PauseMode, Policy, PromptInfo,
    Request, RequestId, SamplingParams, StepEntry, StepRecord, TextStream, TokenEvent,
    TokenLogprobs, TokenMask, TokenStream, memory_budget,
};
pub use error::{Error, Result};
pub use ossmith_plan::{Model, ModelSpec};
pub use pool::{BlockingPoolEvents, EnginePool, PoolEvents};
pub use progress::Progress;
