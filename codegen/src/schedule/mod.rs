//! Schedules: which kernels compute a fused phase, how many warps split a sum, what a block owns, how much stands in shared
//! memory. What a phase fuses decides its kernels' bodies; the regime and the architecture decide their shapes.
//!
//! [`portable`] and [`sm_90`] hold the choices of an architecture family; [`gemv`], [`gemm`], [`attention`] and [`rows`]
//! have a kernel for each fusion that they know and turn choices into [`planned`] kernels; [`tunables`] has those that may
//! be made otherwise.

mod attention;
mod footprint;
mod gemm;
mod gemv;
mod planned;
mod portable;
mod rows;
mod shadow;
mod sm_90;
mod tools;
mod tunables;

use ossmith_plan::params::PhaseKernel;
use ossmith_plan::{Arch, Auxiliary, Axis, Family, Layer, ModelSpec, Op, Regime, Shard, Weight};

use crate::fuse::Fused;
use gemm::{Gemm, Mma};
pub(crate) use planned::KernelPlan;
pub use planned::{Body, Constant, Planned, PlannedKernel};
pub(crate) use tools::tools;
pub use tunables::{Legal, Overrides, OverridesError, Tunable};

const ONE: Axis = Axis::Fixed(1);

/// What stops a phase from being scheduled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A fusion that no kernel computes.
    #[error(
        "no kernel computes phase {phase}, which fuses {fuses}: change its rule in codegen/src/fuse.rs, or add a kernel \
         with its pattern in codegen/src/schedule"
    )]
    NoKernel {
        /// The phase.
        phase: String,
        /// Its operations.
        fuses: String,
    },
    /// An override beyond what its tunable may be.
    #[error("{kernel}: {tunable} is {value}; legal: {legal}")]
    IllegalValue {
        /// The kernel.
        kernel: String,
        /// The tunable.
        tunable: &'static str,
        /// What was asked.
        value: usize,
        /// What is legal.
        legal: Legal,
    },
    /// An override of something that does not exist.
    #[error("{}", unknown(kernel, tunable, known, *of_kernel))]
    UnknownTunable {
        /// The kernel.
        kernel: String,
        /// The tunable.
        tunable: String,
        /// What there is.
        known: String,
        /// Whether `known` are the kernel's tunables; else they are kernels.
        of_kernel: bool,
    },
}

fn unknown(kernel: &str, tunable: &str, known: &str, of_kernel: bool) -> String {
    match of_kernel {
        true => format!("{kernel} has no tunable {tunable}; its tunables are {known}"),
        false => format!("no kernel is named {kernel}; there are {known}"),
    }
}

/// What scheduling gives.
pub type Result<T, E = ScheduleError> = std::result::Result<T, E>;

/// One step size of a family: its regime and how its GEMMs run.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What kind of step.
    pub regime: Regime,
    /// Tokens of a step at most.
    pub max_tokens: usize,
    /// Devices that run it.
    pub family: Family,
    qkv_rope: Gemm,
    attn_out_residual: Gemm,
    router: Mma,
    experts: Gemm,
    unembed: Gemm,
}

impl Step {
    /// Whether the rows that its GEMMs read are in tile order.
    #[must_use]
    pub fn tile_order(&self) -> bool {
        self.qkv_rope.tile_order()
    }

    /// Whether the rows that its unembedding reads are.
    #[must_use]
    pub fn unembed_tile_order(&self) -> bool {
        self.unembed.tile_order()
    }
}

/// The steps that a model has on devices of an architecture, by ascending token count, the more special family first among
/// equals; and what its shape does without.
#[must_use]
pub fn steps(spec: &ModelSpec, arch: &Arch) -> (Vec<Step>, Vec<String>) {
    let mut steps = portable::steps();
    let mut losses = Vec::new();
    if arch.family == Family::Sm90 {
        let (own, lost) = sm_90::steps(spec);
        steps.extend(own);
        losses = lost;
    }
    steps.sort_by_key(|step| (step.max_tokens, step.family == Family::Portable));
    (steps, losses)
}

/// What the schedule of a phase depends on beside the phase.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Which part of the model is computed.
    pub shard: Shard,
    /// The dimensions of the whole model.
    pub global: &'a ModelSpec,
    /// The dimensions that one rank computes.
    pub spec: &'a ModelSpec,
    /// The layer that the phase belongs to.
    pub layer: &'a Layer,
    /// The step that it belongs to.
    pub step: &'a Step,
    /// The device.
    pub arch: &'a Arch,
    /// What is chosen otherwise.
    pub overrides: &'a Overrides,
}

impl Context<'_> {
    /// The name of a kernel whose text depends on how many ranks share the model: that of the whole model's, and of
    /// several ranks' how many they are.
    fn name_of_rank(&self, whole: String) -> String {
        match self.shard {
            Shard::WHOLE => whole,
            Shard { of, .. } => format!("{whole}_of{of}"),
        }
    }
}

/// What a phase fuses: its operations in order, each with the first weight that it reads.
type Pattern = [(Op, Option<Weight>)];

/// The kernels of a phase, in the order of their launches: those of the first file that has kernels for what it fuses.
///
/// # Errors
/// [`ScheduleError::NoKernel`] for a fusion that no kernel computes, [`ScheduleError::IllegalValue`] for an override.
pub fn schedule(phase: &Fused, at: &Context<'_>) -> Result<Vec<PlannedKernel>> {
    match phase.auxiliary {
        Some(Auxiliary::Permute) => {
            return Ok(vec![rows::moe_permute(at)?.0.of(PhaseKernel::MoePermute)]);
        }
        Some(Auxiliary::JoinLogits) => {
            return Ok(vec![rows::join_logits(at)?.of(PhaseKernel::JoinLogits)]);
        }
        Some(Auxiliary::Sample) => return Ok(vec![rows::sample(at)?.of(PhaseKernel::Sample)]),
        Some(Auxiliary::ShadowHead) => return shadow::schedule(at),
        None => {}
    }
    let nodes = phase.nodes.iter().chain(phase.next);
    let fused: Vec<(Op, Option<Weight>)> =
        nodes.map(|node| (node.op, node.weights.first().copied())).collect();
    for of_kind in [gemv::schedule, attention::schedule, gemm::schedule, rows::schedule] {
        if let Some(kernels) = of_kind(&fused, at)? {
            return Ok(kernels);
        }
    }
    let operations = fused.iter().map(|(op, weight)| match weight {
        Some(weight) => format!("{op:?} of {weight:?}"),
        None => format!("{op:?}"),
    });
    Err(ScheduleError::NoKernel {
        phase: phase.name.to_owned(),
        fuses: operations.collect::<Vec<_>>().join(" + "),
    })
}

/// The constants of the rotary embedding and of head addressing.
fn head_constants(spec: &ModelSpec) -> Vec<Constant> {
    let mut constants = planned::u32s(&[
        ("kHeadDim", spec.head_dim),
        ("kQHeads", spec.q_heads),
        ("kKvHeads", spec.kv_heads),
    ]);
    constants.push(Constant::F32("kConcentration", spec.rope.concentration()));
    constants.push(Constant::Table("kInvFreq", spec.rope.inv_freq(spec.head_dim)));
    constants
}

fn swiglu_constants(spec: &ModelSpec) -> [Constant; 2] {
    [
        Constant::F32("kSwigluLimit", spec.swiglu_limit),
        Constant::F32("kSwigluAlpha", spec.swiglu_alpha),
    ]
}
