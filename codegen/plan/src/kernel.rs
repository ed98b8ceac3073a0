//! Which kernels run a model: sources, launch geometry and the schedule of a step.

use std::marker::PhantomData;

use crate::params;
use crate::{Graph, LayerKind, ModelSpec, Node, Weight, WeightLayout};

/// The devices that a kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Ampere and later: `mma.sync` on bf16, `cp.async`.
    Any,
    /// Hopper (`sm_90a`): products by groups of four warps (`wgmma`), clusters, 227 KiB of shared memory a block.
    Hopper,
}

impl Target {
    /// Whether its kernels run on devices of this compute capability.
    #[must_use]
    pub const fn runs_on(self, compute: (i32, i32)) -> bool {
        match self {
            Target::Any => true,
            Target::Hopper => matches!(compute, (9, 0)),
        }
    }
}

/// The line of a unit that parts what the plan decides (`namespace spec`, the parameter structs), which the launch relies
/// on, from the kernel's body, which may be edited.
pub const BODY_MARKER: &str =
    "// The kernel's body. What is above is decided by the plan and must match its launch.";

/// One CUDA translation unit: a kernel with its constants, as a person would read it, compiled for the architecture of
/// the device at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Unit and file name without extension; also the entry point's name.
    pub name: &'static str,
    /// CUDA C++ text; includes only files of [`Model::headers`].
    pub source: &'static str,
    /// Devices that it compiles for.
    pub target: Target,
    /// Registers a thread may use at most (the gate that CI holds it to).
    pub max_registers: u32,
}

/// Blocks of a decode product that share a multiprocessor. Two of about sixteen warps fill it: the next kernel's
/// blocks come as these leave, so that its first tiles are on their way while the last sums are joined.
pub const PRODUCT_BLOCKS_PER_SM: usize = 2;

/// Tokens of a small step at most: one that runs by a decode schedule.
pub const MOST_SMALL_TOKENS: usize = 8;

/// Blocks that share the keys of one head of one token at most.
pub const MOST_KEY_SPLITS: usize = 16;

/// One axis of a launch grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Always this many.
    Fixed(u32),
    /// One a token of the step.
    Tokens,
    /// One for each started tile of this many tokens.
    TokenTiles(u32),
    /// The most tiles of this many slots that experts can start.
    ExpertTiles(u32),
    /// One for each started tile of this many tokens that follow one another in one sequence.
    RunTiles(u32),
    /// One for each part that a kernel's keys are split into at most.
    KeySplits,
    /// This many a multiprocessor.
    PerSm(u32),
}

/// A launch grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// `gridDim.x`.
    pub x: Axis,
    /// `gridDim.y`.
    pub y: Axis,
    /// `gridDim.z`.
    pub z: Axis,
}

/// What can be said of any kernel without its parameter type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Entry point; the unit has the same name.
    pub name: &'static str,
    /// Launch grid.
    pub grid: Grid,
    /// Threads a block.
    pub threads: u32,
    /// Blocks along z that form a cluster, on devices that have clusters (compute capability 9.0 and later).
    pub cluster: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Whether the kernel waits by programmatic dependent launch (`griddepcontrol.wait`) before it reads values.
    pub dependent_launch: bool,
}

/// A kernel that takes exactly the parameters `P`: launching it with others does not compile.
#[derive(Debug)]
pub struct Kernel<P: params::Params> {
    /// Name and geometry.
    pub info: KernelInfo,
    params: PhantomData<fn(&P)>,
}

impl<P: params::Params> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: params::Params> Copy for Kernel<P> {}

impl<P: params::Params> Kernel<P> {
    /// A kernel of this name and geometry.
    #[must_use]
    pub const fn new(info: KernelInfo) -> Self {
        Kernel { info, params: PhantomData }
    }
}

/// A fused group of graph nodes that one or a few kernels compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The operations fused, in order: `rmsnorm_qkv_rope`.
    pub name: &'static str,
    /// The graph's nodes, in order.
    pub nodes: &'static [Node],
}

/// The kernels of a step of at most [`Schedule::max_tokens`] tokens, phase by phase.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Most tokens of a step that this schedule runs.
    pub max_tokens: usize,
    /// Devices that it runs on.
    pub target: Target,
    /// Residual rows from the embedding.
    pub embed: Kernel<params::Embed>,
    /// The norm as a kernel of its own: before the unembedding, and before the first layer and the router of a large
    /// step.
    pub rmsnorm: Kernel<params::RmsNorm>,
    /// `rmsnorm_qkv_rope` of the fusion; batched and prefill steps norm before it.
    pub qkv_rope: Kernel<params::QkvRope>,
    /// `attention`, by layer kind: sliding first, then full.
    pub attention: [Kernel<params::Attention>; 2],
    /// `attn_out_residual`.
    pub attn_out_residual: Kernel<params::AttnOutResidual>,
    /// `moe_up_swiglu`.
    pub moe_up_swiglu: Kernel<params::MoeUpSwiglu>,
    /// `moe_down_residual`; batched and prefill steps add to the residual in [`LargeStep::moe_unpermute_rmsnorm`].
    pub moe_down: Kernel<params::MoeDown>,
    /// What large steps run beside these; small ones do it inside them.
    pub large: Option<LargeStep>,
    /// Unembedding of the normed rows whose logits are wanted. A step takes it from the schedule for as many tokens as it
    /// wants rows, which may be another than its own.
    pub unembed: Kernel<params::Unembed>,
    /// Whether the unembedding reads its rows in tile order, whatever [`LargeStep::tile_order`] says.
    pub unembed_tile_order: bool,
    /// Samples each sequence's next token.
    pub sample: Kernel<params::Sample>,
}

/// Kernels of a large step alone.
#[derive(Clone, Copy, Debug)]
pub struct LargeStep {
    /// Whether the rows that products read are in tile order (`ossmith_scalar::tile_position`), each 64 elements by
    /// themselves.
    pub tile_order: bool,
    /// Attention, by layer kind, of consecutive tokens. [`Schedule::attention`] takes the single-query tokens.
    pub attention_tiled: [Kernel<params::AttentionTiled>; 2],
    /// `rmsnorm_router`. In decode steps [`Schedule::attn_out_residual`] sums the logits up and
    /// [`Schedule::moe_up_swiglu`] finishes them.
    pub router: Kernel<params::Router>,
    /// Selects each token's experts; in decode steps each block does.
    pub moe_topk: Kernel<params::MoeTopk>,
    /// Permutes the routes by expert; in decode steps each block lists them.
    pub moe_permute: Kernel<params::MoePermute>,
    /// Sums the experts' outputs into the residual and norms it for the next layer; decode steps do so in
    /// [`Schedule::moe_down`].
    pub moe_unpermute_rmsnorm: Kernel<params::MoeUnpermuteRmsNorm>,
}

/// Kernels that are no part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Tools {
    /// Makes synthetic bf16 tiles and rows where they will lie.
    pub fill_bf16: Kernel<params::FillBf16>,
    /// Makes synthetic MXFP4 tiles where they will lie.
    pub fill_mxfp4: Kernel<params::FillMxfp4>,
    /// Reads memory and does nothing with it: the roofline that steps are measured against.
    pub flat_read: Kernel<params::FlatRead>,
}

impl Tools {
    /// Name and geometry of each.
    #[must_use]
    pub const fn infos(&self) -> [KernelInfo; 3] {
        [self.fill_bf16.info, self.fill_mxfp4.info, self.flat_read.info]
    }
}

/// A model, ready for a runtime: what `model!` expands to.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Dimensions.
    pub spec: ModelSpec,
    /// The op graph.
    pub graph: Graph,
    /// The fusion of the graph's layer and head.
    pub phases: &'static [Phase],
    /// Device layout of every weight.
    pub layouts: &'static [(Weight, WeightLayout)],
    /// Schedules by ascending `max_tokens`, of equal ones the more special target first; the last takes any number of
    /// tokens on any device.
    pub schedules: &'static [Schedule],
    /// Kernels that are no part of a step.
    pub tools: Tools,
    /// CUDA sources.
    pub units: &'static [Unit],
    /// The device library: (path, text) of every header that a unit may include.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Model {
    /// The model with the schedules that a device of this compute capability can choose. Their list lives as long as the
    /// program: ask once a device.
    #[must_use]
    pub fn on(&self, compute: (i32, i32)) -> Model {
        let mut schedules: Vec<Schedule> = Vec::new();
        for schedule in self.schedules.iter().filter(|one| one.target.runs_on(compute)) {
            if schedules.last().is_none_or(|last| last.max_tokens < schedule.max_tokens) {
                schedules.push(*schedule);
            }
        }
        Model { schedules: schedules.leak(), ..*self }
    }

    /// The units that the schedules and the tools launch.
    #[must_use]
    pub fn launched(&self) -> Vec<&'static Unit> {
        let mut infos: Vec<KernelInfo> = self.tools.infos().into();
        infos.extend(self.schedules.iter().flat_map(Schedule::infos));
        let launched = |unit: &&Unit| infos.iter().any(|info| info.name == unit.name);
        self.units.iter().filter(launched).collect()
    }

    /// The schedule for a step of `tokens` tokens.
    ///
    /// # Panics
    /// When the model has no schedule: a generator bug, found by its tests.
    #[must_use]
    pub fn schedule(&self, tokens: usize) -> &'static Schedule {
        let fits = self.schedules.iter().find(|schedule| tokens <= schedule.max_tokens);
        fits.expect("a model's last schedule takes any number of tokens")
    }
}

impl LargeStep {
    /// Tokens of a query tile of [`LargeStep::attention_tiled`].
    ///
    /// # Panics
    /// When its kernels are not launched by tiles: a generator bug, found by the tests of every shipped model.
    #[must_use]
    pub const fn attention_tile_tokens(&self) -> usize {
        match self.attention_tiled[0].info.grid.y {
            Axis::RunTiles(tokens) => tokens as usize,
            _ => panic!("tiles of tokens are the second axis"),
        }
    }

    /// Attention of a layer of this kind, for consecutive tokens.
    #[must_use]
    pub const fn attention_of(&self, kind: LayerKind) -> &Kernel<params::AttentionTiled> {
        match kind {
            LayerKind::Sliding => &self.attention_tiled[0],
            LayerKind::Full => &self.attention_tiled[1],
        }
    }
}

impl Schedule {
    /// Whether its products norm, route and combine themselves.
    #[must_use]
    pub const fn is_small(&self) -> bool {
        self.large.is_none()
    }

    /// Attention of a layer of this kind.
    #[must_use]
    pub const fn attention_of(&self, kind: LayerKind) -> &Kernel<params::Attention> {
        match kind {
            LayerKind::Sliding => &self.attention[0],
            LayerKind::Full => &self.attention[1],
        }
    }

    /// Name and geometry of every kernel, in the order of a step.
    #[must_use]
    pub fn infos(&self) -> Vec<KernelInfo> {
        let mut infos = vec![self.embed.info, self.rmsnorm.info, self.qkv_rope.info];
        infos.extend(self.attention.map(|kernel| kernel.info));
        infos.extend(
            self.large.iter().flat_map(|large| large.attention_tiled.map(|kernel| kernel.info)),
        );
        infos.push(self.attn_out_residual.info);
        infos.extend(
            self.large
                .iter()
                .flat_map(|large| [large.router.info, large.moe_topk.info, large.moe_permute.info]),
        );
        infos.extend([self.moe_up_swiglu.info, self.moe_down.info]);
        infos.extend(self.large.map(|large| large.moe_unpermute_rmsnorm.info));
        infos.extend([self.unembed.info, self.sample.info]);
        infos
    }
}
