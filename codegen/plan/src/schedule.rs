//! A schedule: the phases of a step in the order of their launches, each with the graph's nodes that it computes and the
//! kernels that compute them. Cost, launches, checks, benches and reports all read these phases.

use crate::params::PhaseKernel;
use crate::{Axis, Family, KernelInfo, Node, Op};

/// What kind of step a schedule is for. Each has a fusion of its own (`ossmith_codegen::fuse`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// Few tokens, one or a few per sequence: memory bounds every GEMV, so norms and router are folded into them.
    Decode {
        /// Tokens of a step at most.
        max_tokens: usize,
    },
    /// A batch of sequences that decode: GEMMs of few columns, experts with few tokens each.
    Batched,
    /// Prompts: GEMMs of many columns.
    Prefill,
}

impl Regime {
    /// What it is called in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Regime::Decode { .. } => "decode",
            Regime::Batched => "batched",
            Regime::Prefill => "prefill",
        }
    }
}

/// A phase that computes none of the graph's nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Auxiliary {
    /// Permutes the step's routes by expert: an arrangement of what the next phases read, not a result.
    Permute,
    /// Joins the columns of logits that several ranks have computed.
    JoinLogits,
    /// Samples tokens from logits: what it does depends on requests, not on the model.
    Sample,
    /// Samples tokens by the 8-bit shadow of the unembedding.
    ShadowHead,
}

/// A fused group of graph nodes with the kernels that compute them.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// The operations fused, in order: `rmsnorm_qkv_rope`.
    pub name: &'static str,
    /// The graph's nodes that it computes, in order; none if it is [`Phase::auxiliary`].
    pub nodes: &'static [Node],
    /// Nodes at the front of the following layer (or of the head) that it computes beside its own.
    pub next: &'static [Node],
    /// What it does instead of computing nodes.
    pub auxiliary: Option<Auxiliary>,
    /// The kernels, in the order of their launches. Attention has two that divide a step's tokens between them.
    pub kernels: &'static [PhaseKernel],
}

impl Phase {
    /// Whether it computes a node of this operation.
    #[must_use]
    pub fn computes(&self, op: Op) -> bool {
        self.nodes.iter().any(|node| node.op == op)
    }
}

/// The phases of a step of at most [`Schedule::max_tokens`] tokens.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// What kind of step it is for.
    pub regime: Regime,
    /// Most tokens of a step that this schedule runs.
    pub max_tokens: usize,
    /// Devices that it runs on.
    pub family: Family,
    /// Whether the rows that its GEMMs read are in tile order (`ossmith_scalar::tile_position`), each 64 elements by
    /// themselves.
    pub tile_order: bool,
    /// As [`Schedule::tile_order`], of the rows that its unembedding reads.
    pub unembed_tile_order: bool,
    /// From token ids to the residual stream and what the first layer reads.
    pub start: &'static [Phase],
    /// One layer, by the layer's class ([`crate::Graph::class`]).
    pub layers: &'static [&'static [Phase]],
    /// From the residual stream to sampled tokens. A step takes the kernel of its unembedding from the schedule for as
    /// many tokens as it wants rows, which may be another than its own.
    pub head: &'static [Phase],
    /// Instead of the head, where every row is sampled greedily or by temperature alone and nothing else is wanted of it:
    /// phases that sample the same tokens and read half of the unembedding. Empty where there are none.
    pub shadow_head: &'static [Phase],
}

impl Schedule {
    /// Every phase once, in the order of a step.
    pub fn phases(&self) -> impl Iterator<Item = &'static Phase> {
        self.start.iter().chain(self.layers.iter().copied().flatten()).chain(self.head)
    }

    /// Name and geometry of every kernel once, in the order of a step.
    #[must_use]
    pub fn infos(&self) -> Vec<KernelInfo> {
        let mut infos: Vec<KernelInfo> = Vec::new();
        for kernel in self.phases().chain(self.shadow_head).flat_map(|phase| phase.kernels) {
            if infos.iter().all(|info| info.name != kernel.info().name) {
                infos.push(*kernel.info());
            }
        }
        infos
    }

    /// Whether its GEMVs norm what they read themselves, at their end: whoever writes the residual leaves them deferred
    /// rows and sums of squares instead of normed rows.
    #[must_use]
    pub fn defers_norms(&self) -> bool {
        self.phases()
            .flat_map(|phase| phase.kernels)
            .any(|kernel| matches!(kernel, PhaseKernel::RmsNormQkvRope(_)))
    }

    /// Tokens of a query tile of attention, if it takes any in tiles.
    #[must_use]
    pub fn query_tile_tokens(&self) -> Option<usize> {
        self.phases().flat_map(|phase| phase.kernels).find_map(|kernel| match kernel {
            PhaseKernel::AttentionTiled(kernel) => match kernel.info.grid.y {
                Axis::QueryTiles(tokens) => Some(tokens as usize),
                _ => None,
            },
            _ => None,
        })
    }

    /// The kernel of its unembedding.
    #[must_use]
    pub fn unembed(&self) -> Option<&'static PhaseKernel> {
        let kernels = self.head.iter().flat_map(|phase| phase.kernels);
        kernels.into_iter().find(|kernel| {
            matches!(kernel, PhaseKernel::UnembedDecode(_) | PhaseKernel::Unembed(_))
        })
    }
}
