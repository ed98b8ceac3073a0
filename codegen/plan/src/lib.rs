//! The plain types that generated code and the runtime share: what a model is ([`ModelSpec`]), what it
//! computes ([`Graph`]), how its weights lie in device memory ([`WeightLayout`]), for which GPUs ([`Arch`]), and which
//! phases and kernels run it ([`Model`], [`Schedule`], [`Kernel`], [`params`]).
//!
//! Everything here is `const`-constructible data with public fields: `ossmith-codegen` writes it, either at
//! build time through the `model!` macro or when a foreign `config.json` is loaded, and the runtime reads it.
//! This crate has no dependencies and knows neither files, GPUs nor CUDA text.

#![forbid(unsafe_code)]

mod arch;
mod cost;
pub mod facts;
mod graph;
mod kernel;
mod layout;
mod model;
pub mod params;
mod predict;
mod schedule;
mod shapes;
mod shard;
mod spec;

pub use arch::{Arch, Family};
pub use cost::{Cost, Gemm, PhaseTotal, Section, StepShape, shadow_bytes};
pub use graph::{DType, Graph, Node, Op, Shapes, Value, ValueInfo, Weight, WeightInfo};
pub use kernel::{Axis, BODY_MARKER, Extent, Grid, Kernel, KernelInfo, Unit};
pub use layout::{RowOrder, TILE_K, TILE_ROWS, WeightLayout};
pub use model::{Loss, Model, Tools, Tuned};
pub use params::PhaseKernel;
pub use predict::{Prediction, Rates};
pub use schedule::{Auxiliary, Phase, Regime, Schedule};
pub use shard::{Local, Shard, ShardError, Slice};
pub use spec::{Layer, LayerKind, ModelSpec, Rope, SWIGLU_ALPHA};
