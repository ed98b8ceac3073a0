//! The plan: graph, phases, kernels, layouts and text put together as a [`Model`].

use ossmith_plan::{
    Arch, DType, Family, Graph, KernelInfo, Layer, Local, Loss, Model, ModelSpec, Phase,
    PhaseKernel, RowOrder, Schedule, Shard, ShardError, Weight, WeightLayout,
};

use crate::fuse::{self, Fused, FusedGraph};
use crate::schedule::{
    Context, KernelPlan, Overrides, PlannedKernel, ScheduleError, Step, Tunable, schedule, steps,
    tools,
};
use crate::{emit, graph, leak, library};

/// What stops a model from being compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// A model that so many ranks cannot share.
    #[error("{model}: {source}")]
    Shard {
        /// The model.
        model: &'static str,
        /// Which dimension, with the numbers.
        source: ShardError,
    },
    /// A phase that cannot be scheduled, or an override that is illegal.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// An override with which a kernel's shared memory exceeds a block's.
    #[error(
        "{kernel}: with these values it needs {bytes} bytes of shared memory, and a block has {block_bytes}"
    )]
    TooLarge {
        /// The kernel.
        kernel: &'static str,
        /// What it needs.
        bytes: u32,
        /// What there is.
        block_bytes: usize,
    },
}

/// Compiles a model for an architecture, with some choices made otherwise.
///
/// # Errors
/// [`CompileError`]. A kernel whose shared memory no block can have is no error: it is left out with its schedule, and
/// [`Model::losses`] reports it.
pub fn assemble(
    spec: ModelSpec,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<Model, CompileError> {
    assemble_rank(spec, Shard::WHOLE, arch, overrides)
}

/// The same for what one of several ranks computes. A schedule with a kernel that exchanges, and whose blocks do not all run
/// at once, is left out and listed in [`Model::losses`].
///
/// # Errors
/// As [`assemble`], and [`CompileError::Shard`] if so many ranks cannot share the model.
pub fn assemble_rank(
    spec: ModelSpec,
    shard: Shard,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<Model, CompileError> {
    let local =
        shard.local(&spec).map_err(|source| CompileError::Shard { model: spec.name, source })?;
    let graph = graph::build(&spec, &local);
    let local_spec = local.spec(&spec);
    let (steps, lost, families) = match layers_differ(&spec) {
        None => {
            let (steps, lost) = steps(&local_spec, arch);
            (steps, lost, leak(vec![arch.family]))
        }
        Some(why) => (Vec::new(), vec![why], Family::Portable.and_later()),
    };
    let mut losses: Vec<Loss> =
        lost.into_iter().map(|what| Loss { families, what: what.leak() }).collect();
    let mut kernels = Kernels::default();
    let mut schedules = Vec::new();
    for step in &steps {
        let fused = match shard {
            Shard::WHOLE => fuse::fuse(&graph, step.regime),
            _ => fuse::apply(&graph, fuse::rules_of_ranks(step.regime)),
        };
        let dims = Dimensions { shard, global: &spec, local: &local_spec };
        let planned = plan_step(&fused, step, &dims, arch, overrides)?;
        let waits_for_itself =
            |kernel: &&PlannedKernel| kernel.plan.ranks > 1 && !kernel.plan.is_resident(arch);
        if let Some(kernel) = planned.kernels().find(waits_for_itself) {
            losses.push(not_resident(step, kernel.plan.info.name, arch));
            continue;
        }
        match kernels.take(step, planned) {
            Ok(schedule) => schedules.push(schedule),
            Err((info, _)) if overrides.0.contains_key(info.name) => {
                let (kernel, bytes) = (info.name, info.shared_bytes);
                return Err(CompileError::TooLarge {
                    kernel,
                    bytes,
                    block_bytes: Arch::MAX_SHARED_BYTES,
                });
            }
            Err((_, loss)) => losses.push(loss),
        }
    }
    let (tools, tool_plans) = tools(&spec, arch);
    kernels.plans.extend(tool_plans);
    let named = |plan: &'static KernelPlan| (plan.info.name, &plan.tunables[..]);
    let plans: &'static [KernelPlan] = leak(kernels.plans);
    overrides.check_names(plans.iter().map(named))?;
    Ok(Model {
        spec,
        shard,
        arch: *arch,
        graph,
        layouts: layouts(&local_spec, &graph),
        schedules: leak(schedules),
        tuned: &[],
        tools,
        units: leak(plans.iter().map(emit::unit).collect()),
        headers: leak(library::headers()),
        losses: leak(losses),
    })
}

/// A schedule that a rank does without, because a block of one of its kernels could wait for another rank's block that
/// waits for a place.
fn not_resident(step: &Step, kernel: &str, arch: &Arch) -> Loss {
    let (regime, most) = (step.regime.name(), step.max_tokens);
    let what = format!(
        "no {regime} schedule of several ranks for steps of up to {most} tokens: not all blocks of {kernel} run at once on \
         the {} SMs of {}, and they wait for other ranks",
        arch.sms, arch.name
    );
    Loss { families: step.family.and_later(), what: what.leak() }
}

/// The dimensions of a model, and those that one rank computes.
pub(crate) struct Dimensions<'a> {
    pub(crate) shard: Shard,
    pub(crate) global: &'a ModelSpec,
    pub(crate) local: &'a ModelSpec,
}

impl<'a> Dimensions<'a> {
    /// Those of the whole model.
    pub(crate) fn whole(spec: &'a ModelSpec) -> Dimensions<'a> {
        Dimensions { shard: Shard::WHOLE, global: spec, local: spec }
    }
}

/// Every tunable of every kernel of a model on an architecture, in the order of a step, with the values that it has when
/// some are chosen otherwise: what a tuner searches.
///
/// # Errors
/// As [`assemble`].
pub fn tunables(
    spec: &ModelSpec,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<Vec<(&'static str, Vec<Tunable>)>, CompileError> {
    let plans = plans(spec, arch, overrides)?;
    overrides.check_names(plans.iter().map(|plan| (plan.info.name, &plan.tunables[..])))?;
    Ok(plans.into_iter().map(|plan| (plan.info.name, plan.tunables)).collect())
}

/// The kernels of a model's steps, each once, in the order of a step.
pub(crate) fn plans(
    spec: &ModelSpec,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<Vec<KernelPlan>, CompileError> {
    if layers_differ(spec).is_some() {
        return Ok(Vec::new());
    }
    let graph = graph::build(spec, &Local::whole(spec));
    let mut kernels = Kernels::default();
    for step in steps(spec, arch).0 {
        let fused = fuse::fuse(&graph, step.regime);
        let planned = plan_step(&fused, &step, &Dimensions::whole(spec), arch, overrides)?;
        let _ = kernels.take(&step, planned);
    }
    Ok(kernels.plans)
}

/// Why no CUDA kernels compute a model, if layers differ in more than their windows: a kernel has the numbers of experts as
/// constants, and one name for all layers. The graph carries them, so the CPU computes such a model.
fn layers_differ(spec: &ModelSpec) -> Option<String> {
    let first = spec.layers.first()?;
    let differs = |layer: &Layer| (layer.experts, layer.top_k) != (first.experts, first.top_k);
    let layer = spec.layers.iter().position(differs)?;
    let other = &spec.layers[layer];
    Some(format!(
        "no CUDA kernels: layer {layer} has {} experts of which it chooses {}, layer 0 has {} and chooses {}, and the kernels \
         need the same numbers in every layer; the CPU runs it (--backend cpu)",
        other.experts, other.top_k, first.experts, first.top_k
    ))
}

/// A phase with its kernels.
pub(crate) type PlannedPhase = (Fused, Vec<PlannedKernel>);

/// The phases of a step with their kernels: start, each class of layers, head.
pub(crate) struct PlannedStep {
    pub(crate) start: Vec<PlannedPhase>,
    pub(crate) layers: Vec<Vec<PlannedPhase>>,
    pub(crate) head: Vec<PlannedPhase>,
    pub(crate) shadow_head: Vec<PlannedPhase>,
}

impl PlannedStep {
    fn kernels(&self) -> impl Iterator<Item = &PlannedKernel> {
        let phases = self.start.iter().chain(self.layers.iter().flatten()).chain(&self.head);
        let phases = phases.chain(&self.shadow_head);
        phases.flat_map(|(_, kernels)| kernels)
    }
}

/// Schedules every phase of a step.
pub(crate) fn plan_step(
    fused: &FusedGraph,
    step: &Step,
    dimensions: &Dimensions<'_>,
    arch: &Arch,
    overrides: &Overrides,
) -> Result<PlannedStep, ScheduleError> {
    let &Dimensions { shard, global, local: spec } = dimensions;
    let classes = spec.layer_classes();
    let plan = |phases: &[Fused], layer| {
        let at = Context { shard, global, spec, layer, step, arch, overrides };
        let planned = phases.iter().map(|phase| Ok((*phase, schedule(phase, &at)?)));
        planned.collect::<Result<Vec<PlannedPhase>, ScheduleError>>()
    };
    Ok(PlannedStep {
        start: plan(&fused.start, &classes[0])?,
        layers: classes.iter().map(|layer| plan(&fused.layer, layer)).collect::<Result<_, _>>()?,
        head: plan(&fused.head, &classes[0])?,
        shadow_head: plan(&fused.shadow_head, &classes[0])?,
    })
}

/// The kernels of a model, each once.
#[derive(Default)]
struct Kernels {
    plans: Vec<KernelPlan>,
}

impl Kernels {
    /// Takes a step's kernels over; refuses the step if no block can have the shared memory of one of them, and names it.
    fn take(&mut self, step: &Step, planned: PlannedStep) -> Result<Schedule, (KernelInfo, Loss)> {
        let schedule = as_schedule(step, &planned);
        let too_large = |kernel: &&PlannedKernel| {
            kernel.plan.info.shared_bytes as usize > Arch::MAX_SHARED_BYTES
        };
        if let Some(kernel) = planned.kernels().find(too_large) {
            let info = &kernel.plan.info;
            return Err((*info, Loss::of_shared_memory(&schedule, info, Arch::MAX_SHARED_BYTES)));
        }
        for kernel in planned.kernels() {
            match self.plans.iter().find(|known| known.info.name == kernel.plan.info.name) {
                None => self.plans.push(kernel.plan.clone()),
                Some(known) => assert_eq!(*known, kernel.plan, "two kernels have one name"),
            }
        }
        Ok(schedule)
    }
}

/// A planned step as the runtime reads it.
fn as_schedule(step: &Step, planned: &PlannedStep) -> Schedule {
    let kernels = |planned: &[PlannedKernel]| -> &'static [PhaseKernel] {
        leak(planned.iter().map(|kernel| kernel.kernel).collect())
    };
    let phases = |planned: &[PlannedPhase]| -> &'static [Phase] {
        let phase = |(fused, planned): &PlannedPhase| Phase {
            name: fused.name,
            nodes: fused.nodes,
            next: fused.next,
            auxiliary: fused.auxiliary,
            kernels: kernels(planned),
        };
        leak(planned.iter().map(phase).collect())
    };
    Schedule {
        regime: step.regime,
        max_tokens: step.max_tokens,
        family: step.family,
        tile_order: step.tile_order(),
        unembed_tile_order: step.unembed_tile_order(),
        start: phases(&planned.start),
        layers: leak(planned.layers.iter().map(|layer| phases(layer)).collect()),
        head: phases(&planned.head),
        shadow_head: phases(&planned.shadow_head),
    }
}

/// How each weight lies in device memory: what tensor cores multiply is tiled, the rest is as stored.
fn layouts(spec: &ModelSpec, graph: &Graph) -> &'static [(Weight, WeightLayout)] {
    let layout = |weight: Weight| match (weight, graph.weight(weight, 0).dtype) {
        (Weight::Qkv, _) => {
            WeightLayout::Bf16Tiles(RowOrder::RopePairs { head_dim: spec.head_dim })
        }
        (Weight::AttnOut | Weight::Router | Weight::Unembedding, _) => {
            WeightLayout::Bf16Tiles(RowOrder::Natural)
        }
        (Weight::GateUp, _) => WeightLayout::Mxfp4Tiles(RowOrder::GateUpPairs),
        (_, DType::Mxfp4) => WeightLayout::Mxfp4Tiles(RowOrder::Natural),
        _ => WeightLayout::RowMajor,
    };
    leak(Weight::ALL.iter().map(|&weight| (weight, layout(weight))).collect())
}

#[cfg(test)]
mod tests;
