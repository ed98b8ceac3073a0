//! Schedules: which kernels compute a fused phase, how many warps split a sum, what a block owns, how much stands in shared
//! memory. What a phase fuses decides its kernels' bodies; the regime and the architecture decide their shapes.
//!
//! [`portable`] and [`sm_90`] hold the choices of an architecture family; [`gemv`], [`gemm`], [`attention`] and [`rows`]
//! turn choices into [`planned`] kernels; [`tunables`] says which of them may be made otherwise.

mod attention;
mod footprint;
mod gemm;
mod gemv;
mod planned;
mod portable;
mod rows;
mod sm_90;
mod tools;
mod tunables;

use ossmith_plan::params::PhaseKernel;
use ossmith_plan::{
    Arch, Auxiliary, Axis, Family, Layer, ModelSpec, Op, Regime, SWIGLU_ALPHA, Weight,
};

use crate::fuse::Fused;
use gemm::{Gemm, Mma};
pub(crate) use planned::KernelPlan;
pub use planned::{Body, Constant, Planned, PlannedKernel};
pub(crate) use tools::tools;
pub use tunables::{Legal, Overrides, Tunable};

const ONE: Axis = Axis::Fixed(1);

/// What stops a phase from being scheduled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A fusion that no kernel computes.
    #[error(
        "no kernel computes phase {phase}, which fuses {fuses}: change its rule in codegen/src/fuse.rs, or add a kernel \
         and its line in codegen/src/schedule/mod.rs"
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
        self.experts.tile_order()
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

/// The kernels of a phase, in the order of their launches.
///
/// # Errors
/// [`ScheduleError::NoKernel`] for a fusion that no kernel computes, [`ScheduleError::IllegalValue`] for an override.
pub fn schedule(phase: &Fused, at: &Context<'_>) -> Result<Vec<PlannedKernel>> {
    use Op::{
        AddTo, AllReduce, Attention, CacheWrite, Combine, Embed, ExpertLinear, Linear, RmsNorm,
        Rope, SwiGlu, TopK,
    };
    const QKV: Option<Weight> = Some(Weight::Qkv);
    const ATTN_OUT: Option<Weight> = Some(Weight::AttnOut);
    const ROUTER: Option<Weight> = Some(Weight::Router);
    const GATE_UP: Option<Weight> = Some(Weight::GateUp);
    const DOWN: Option<Weight> = Some(Weight::Down);
    const UNEMBEDDING: Option<Weight> = Some(Weight::Unembedding);

    let nodes = phase.nodes.iter().chain(phase.next);
    let fused: Vec<(Op, Option<Weight>)> =
        nodes.map(|node| (node.op, node.weights.first().copied())).collect();
    let no_kernel = || {
        let operations = fused.iter().map(|(op, weight)| match weight {
            Some(weight) => format!("{op:?} of {weight:?}"),
            None => format!("{op:?}"),
        });
        ScheduleError::NoKernel {
            phase: phase.name.to_owned(),
            fuses: operations.collect::<Vec<_>>().join(" + "),
        }
    };
    // GEMVs hold a few tokens in registers.
    let few = match at.step.regime {
        Regime::Decode { max_tokens } => Some(max_tokens),
        Regime::Batched | Regime::Prefill => None,
    };
    match phase.auxiliary {
        Some(Auxiliary::Permute) => {
            return Ok(vec![rows::moe_permute(at)?.0.of(PhaseKernel::MoePermute)]);
        }
        Some(Auxiliary::Sample) => return Ok(vec![rows::sample(at)?.of(PhaseKernel::Sample)]),
        None => {}
    }
    Ok(match (&fused[..], few) {
        ([(Embed, _)], _) => vec![rows::embed(at)?.of(PhaseKernel::Embed)],
        ([(RmsNorm, _)], _) => vec![rows::rmsnorm(at)?.of(PhaseKernel::RmsNorm)],
        ([(RmsNorm, _), (Linear, QKV), (Rope, _), (CacheWrite, _)], Some(tokens)) => {
            vec![gemv::rmsnorm_qkv_rope(at, tokens)?.of(PhaseKernel::RmsNormQkvRope)]
        }
        ([(Linear, QKV), (Rope, _), (CacheWrite, _)], _) => {
            vec![gemm::qkv_rope(at)?.of(PhaseKernel::QkvRope)]
        }
        ([(Attention, _)], Some(_)) => {
            vec![attention::by_token(at)?.of(PhaseKernel::Attention)]
        }
        ([(Attention, _)], None) => vec![
            attention::by_tile(at)?.of(PhaseKernel::AttentionTiled),
            attention::by_token(at)?.of(PhaseKernel::Attention),
        ],
        (
            [(Linear, ATTN_OUT), (AllReduce, _), (AddTo, _), (RmsNorm, _), (Linear, ROUTER)],
            Some(tokens),
        ) => {
            vec![gemv::attn_out_residual_router(at, tokens)?.of(PhaseKernel::AttnOutResidualRouter)]
        }
        ([(Linear, ATTN_OUT), (AllReduce, _), (AddTo, _)], _) => {
            vec![gemm::attn_out_residual(at)?.of(PhaseKernel::AttnOutResidual)]
        }
        ([(Linear, ROUTER)], _) => vec![gemm::router(at)?.of(PhaseKernel::Router)],
        ([(TopK, _)], _) => vec![rows::moe_topk(at)?.of(PhaseKernel::MoeTopk)],
        ([(TopK, _), (ExpertLinear, GATE_UP), (SwiGlu, _)], Some(tokens)) => {
            vec![gemv::topk_moe_up_swiglu(at, tokens)?.of(PhaseKernel::TopkMoeUpSwiglu)]
        }
        ([(ExpertLinear, GATE_UP), (SwiGlu, _)], _) => {
            let (_, expert_tile) = rows::moe_permute(at)?;
            vec![gemm::moe_up_swiglu(at, expert_tile)?.of(PhaseKernel::MoeUpSwiglu)]
        }
        ([(ExpertLinear, DOWN), (Combine, _), (AllReduce, _), (AddTo, _)], Some(tokens)) => {
            vec![gemv::moe_down_residual(at, tokens)?.of(PhaseKernel::MoeDownResidual)]
        }
        ([(ExpertLinear, DOWN)], _) => {
            let (_, expert_tile) = rows::moe_permute(at)?;
            vec![gemm::moe_down(at, expert_tile)?.of(PhaseKernel::MoeDown)]
        }
        ([(Combine, _), (AllReduce, _), (AddTo, _), (RmsNorm, _)], _) => {
            vec![rows::moe_unpermute_rmsnorm(at)?.of(PhaseKernel::MoeUnpermuteRmsNorm)]
        }
        ([(RmsNorm, _), (Linear, UNEMBEDDING)], Some(tokens)) => {
            vec![gemv::unembed(at, tokens)?.of(PhaseKernel::UnembedDecode)]
        }
        ([(Linear, UNEMBEDDING)], _) => vec![gemm::unembed(at)?.of(PhaseKernel::Unembed)],
        _ => return Err(no_kernel()),
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
    [Constant::F32("kSwigluLimit", spec.swiglu_limit), Constant::F32("kSwigluAlpha", SWIGLU_ALPHA)]
}
