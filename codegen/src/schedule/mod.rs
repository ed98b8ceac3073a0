//! Schedules: how many warps split a sum, what a block owns, how much stands in shared memory. The result is a list
//! of [`KernelPlan`]s, printable data that [`crate::emit`] turns into CUDA text.

mod attention;
mod decode;
mod footprint;
pub mod large;
pub mod wgmma;

use ossmith_plan::{Axis, Grid, KernelInfo, MOST_SMALL_TOKENS, ModelSpec, SWIGLU_ALPHA, Target};

/// Token counts up to which the decode schedules run.
pub const DECODE_TOKENS: [usize; 2] = [1, MOST_SMALL_TOKENS];

/// Tokens up to which the batch schedule runs on Hopper, beyond those of the decode schedules. Above, those of prompts do
/// ([`wgmma::PROMPTS`], where sums are made of whole tiles); elsewhere, one for any number of tokens.
pub const BATCH_TOKENS: usize = 192;

/// Registers of a quarter of a multiprocessor.
const QUARTER_REGISTERS: u32 = 16_384;

/// A constant in a unit's `namespace spec`.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    /// `constexpr u32`.
    U32(&'static str, u32),
    /// `constexpr float`.
    F32(&'static str, f32),
    /// `__constant__ float[]`.
    Table(&'static str, Vec<f32>),
}

impl Constant {
    /// Its name in `namespace spec`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Constant::U32(name, _) | Constant::F32(name, _) | Constant::Table(name, _) => name,
        }
    }
}

/// One kernel, decided down to every constant.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelPlan {
    /// Name and launch geometry.
    pub info: KernelInfo,
    /// File of `codegen/cuda/kernels/` that holds the body.
    pub body: &'static str,
    /// Parameter structs, the kernel's own last.
    pub params: &'static [&'static str],
    /// `namespace spec`.
    pub constants: Vec<Constant>,
    /// Blocks that share a multiprocessor, by which registers are bounded.
    pub blocks_per_sm: u32,
    /// Devices that it is made for.
    pub target: Target,
}

impl KernelPlan {
    /// Registers that a thread can have for [`KernelPlan::blocks_per_sm`] blocks to fit: warps go round the four
    /// quarters of a multiprocessor, and registers come in eights.
    #[must_use]
    pub fn max_registers(&self) -> u32 {
        let warps_a_quarter = (self.info.threads / 32 * self.blocks_per_sm).div_ceil(4);
        (QUARTER_REGISTERS / (32 * warps_a_quarter) / 8 * 8).min(255)
    }
}

/// A kernel plan with the constants that every body reads.
struct Draft {
    name: String,
    body: &'static str,
    params: &'static [&'static str],
    grid: [Axis; 3],
    threads: usize,
    shared_bytes: usize,
    blocks_per_sm: usize,
    constants: Vec<Constant>,
}

impl Draft {
    fn plan(self) -> KernelPlan {
        let mut constants = vec![
            Constant::U32("kThreads", self.threads as u32),
            Constant::U32("kBlocksPerSm", self.blocks_per_sm as u32),
            Constant::U32("kSharedBytes", self.shared_bytes as u32),
        ];
        constants.extend(self.constants);
        let [x, y, z] = self.grid;
        KernelPlan {
            info: KernelInfo {
                name: self.name.leak(),
                grid: Grid { x, y, z },
                threads: self.threads as u32,
                cluster: 1,
                shared_bytes: self.shared_bytes as u32,
                dependent_launch: true,
            },
            body: self.body,
            params: self.params,
            constants,
            blocks_per_sm: self.blocks_per_sm as u32,
            target: Target::Any,
        }
    }
}

fn u32s(constants: &[(&'static str, usize)]) -> Vec<Constant> {
    constants.iter().map(|&(name, value)| Constant::U32(name, value as u32)).collect()
}

const ONE: Axis = Axis::Fixed(1);

/// Blocks that share a row of logits.
const SAMPLE_SPLITS: u32 = 32;

/// Every kernel of a model, in the order of a step.
#[must_use]
pub fn schedule(spec: &ModelSpec) -> Vec<KernelPlan> {
    let mut plans = vec![embed(spec), rmsnorm(spec)];
    for tokens in DECODE_TOKENS {
        plans.extend(decode::kernels(spec, tokens));
    }
    plans.extend(attention::kernels(spec));
    plans.extend(large::batch(spec));
    plans.extend(large::prefill(spec));
    if wgmma::fits(spec) {
        plans.extend(wgmma::kernels(spec));
    }
    plans.extend([large::moe_topk(spec), large::moe_unpermute_rmsnorm(spec), sample(spec)]);
    plans.push(tool("fill_bf16", "fill_bf16.cu", &["FillBf16"], 256, 8));
    plans.push(tool("fill_mxfp4", "fill_mxfp4.cu", &["FillMxfp4"], 256, 8));
    plans.push(tool("flat_read", "flat_read.cu", &["FlatRead"], 512, 2));
    plans
}

/// The constants of the rotary embedding and of head addressing.
fn head_constants(spec: &ModelSpec) -> Vec<Constant> {
    let mut constants = u32s(&[
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

fn embed(spec: &ModelSpec) -> KernelPlan {
    Draft {
        name: "embed".into(),
        body: "embed.cu",
        params: &["Embed"],
        grid: [Axis::Tokens, ONE, ONE],
        threads: 256,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants: u32s(&[
            ("kHidden", spec.hidden),
            ("kLayers", spec.layers.len()),
            ("kExperts", spec.max_experts()),
            ("kMaxDecodeTokens", MOST_SMALL_TOKENS),
        ]),
    }
    .plan()
}

fn rmsnorm(spec: &ModelSpec) -> KernelPlan {
    let mut constants = u32s(&[("kHidden", spec.hidden)]);
    constants.push(Constant::F32("kRmsEps", spec.rms_eps));
    Draft {
        name: "rmsnorm".into(),
        body: "rmsnorm.cu",
        params: &["RmsNorm"],
        grid: [Axis::Tokens, ONE, ONE],
        threads: 256,
        shared_bytes: 0,
        blocks_per_sm: 1,
        constants,
    }
    .plan()
}

fn sample(spec: &ModelSpec) -> KernelPlan {
    const THREADS: usize = 512;
    Draft {
        name: "sample".into(),
        body: "sample.cu",
        params: &["SampleRow", "Sample"],
        grid: [Axis::Fixed(SAMPLE_SPLITS), Axis::Tokens, ONE],
        threads: THREADS,
        shared_bytes: footprint::sample(THREADS / 32),
        blocks_per_sm: 1,
        constants: u32s(&[("kVocab", spec.vocab)]),
    }
    .plan()
}

/// Tools run by themselves, one after another.
fn tool(
    name: &str,
    body: &'static str,
    params: &'static [&'static str],
    threads: usize,
    blocks_per_sm: usize,
) -> KernelPlan {
    let mut plan = Draft {
        name: name.into(),
        body,
        params,
        grid: [Axis::PerSm(blocks_per_sm as u32), ONE, ONE],
        threads,
        shared_bytes: 0,
        blocks_per_sm,
        constants: Vec::new(),
    }
    .plan();
    plan.info.dependent_launch = false;
    plan
}
