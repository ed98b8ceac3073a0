//! The plain types that generated code and the runtime share: what a model is ([`ModelSpec`]), what it
//! computes ([`Graph`]), how its weights lie in device memory ([`WeightLayout`]), and which kernels run it
//! ([`Model`], [`Kernel`], [`params`]).
//!
//! Everything here is `const`-constructible data with public fields: `ossmith-codegen` writes it, either at
//! build time through the `model!` macro or when a foreign `config.json` is loaded, and the runtime reads it.
//! This crate has no dependencies and knows neither files, GPUs nor CUDA text.

#![forbid(unsafe_code)]

mod cost;
mod graph;
mod kernel;
mod layout;
pub mod params;
mod shard;
mod spec;

pub use cost::StepShape;
pub use graph::{DType, Graph, Node, Op, Shapes, Value, ValueInfo, Weight, WeightInfo};
pub use kernel::{
    Axis, BODY_MARKER, Grid, Kernel, KernelInfo, LargeStep, MOST_KEY_SPLITS, MOST_SMALL_TOKENS,
    Model, PRODUCT_BLOCKS_PER_SM, Phase, Schedule, Target, Tools, Unit,
};
pub use layout::{RowOrder, TILE_K, TILE_ROWS, WeightLayout};
pub use shard::{Local, Shard, ShardError, Slice};
pub use spec::{Layer, LayerKind, ModelSpec, Rope, SWIGLU_ALPHA};
