//! A model, ready for a runtime: dimensions, graph, schedules, layouts and CUDA text.

use crate::params;
use crate::{
    Arch, Axis, Family, Graph, Kernel, KernelInfo, Local, ModelSpec, Schedule, Shard, ShardError,
    Unit, Weight, WeightLayout,
};

/// Kernels that are no part of a plain step.
#[derive(Clone, Copy, Debug)]
pub struct Tools {
    /// Adds what adapters add to queries, keys and values.
    pub adapt_qkv: Kernel<params::AdaptQkv>,
    /// Adds what adapters add with attention's output projection.
    pub adapt_attn_out: Kernel<params::AdaptAttnOut>,
    /// Makes synthetic bf16 tiles and rows where they will lie.
    pub fill_bf16: Kernel<params::FillBf16>,
    /// Makes synthetic MXFP4 tiles where they will lie.
    pub fill_mxfp4: Kernel<params::FillMxfp4>,
    /// Reads memory and does nothing with it: the roofline that steps are measured against.
    pub flat_read: Kernel<params::FlatRead>,
    /// Makes the 8-bit shadow of the unembedding.
    pub make_shadow: Kernel<params::MakeShadow>,
    /// Writes the history of a sequence slot, which penalties read, anew.
    pub write_history: Kernel<params::WriteHistory>,
}

impl Tools {
    /// Name and geometry of each.
    #[must_use]
    pub const fn infos(&self) -> [KernelInfo; 7] {
        [
            self.adapt_qkv.info,
            self.adapt_attn_out.info,
            self.fill_bf16.info,
            self.fill_mxfp4.info,
            self.flat_read.info,
            self.make_shadow.info,
            self.write_history.info,
        ]
    }
}

/// Kernels that a model's shape does without, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The devices that do without.
    pub families: &'static [Family],
    /// One sentence: what is missing, and which dimension is the reason.
    pub what: &'static str,
}

impl Loss {
    /// A schedule that a device does without, since a block of it cannot have one kernel's shared memory.
    #[must_use]
    pub fn of_shared_memory(schedule: &Schedule, kernel: &KernelInfo, block_bytes: usize) -> Loss {
        let tokens = match schedule.max_tokens {
            usize::MAX => "steps of any size".to_owned(),
            1 => "steps of one token".to_owned(),
            most => format!("steps of up to {most} tokens"),
        };
        let what = format!(
            "no {} schedule for {tokens}: {} needs {} bytes of shared memory, a block has {block_bytes}",
            schedule.regime.name(),
            kernel.name,
            kernel.shared_bytes,
        );
        Loss { families: schedule.family.and_later(), what: what.leak() }
    }
}

/// A model's schedules as a tuning record has them for one profile.
#[derive(Clone, Copy, Debug)]
pub struct Tuned {
    /// The profile.
    pub arch: Arch,
    /// The device that they were measured on.
    pub device: &'static str,
    /// Interface version of the driver that they were measured with: 13000 is CUDA 13.0.
    pub driver: i32,
    /// In place of [`Model::schedules`].
    pub schedules: &'static [Schedule],
    /// In place of those of [`Model::units`] with the same names.
    pub units: &'static [Unit],
    /// What of the record no longer fits the kernels, a sentence each.
    pub problems: &'static [&'static str],
}

/// A model, ready for a runtime: what `model!` expands to.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Dimensions of the whole model.
    pub spec: ModelSpec,
    /// Which part of it the graph and the kernels compute.
    pub shard: Shard,
    /// The GPU that its schedules are made for.
    pub arch: Arch,
    /// The op graph.
    pub graph: Graph,
    /// Device layout of every weight.
    pub layouts: &'static [(Weight, WeightLayout)],
    /// Schedules by ascending `max_tokens`, of equal ones the more special family first. The last takes any number of
    /// tokens, unless [`Model::losses`] says why there is none.
    pub schedules: &'static [Schedule],
    /// The schedules of profiles that were tuned; [`Model::for_arch`] takes them.
    pub tuned: &'static [Tuned],
    /// Kernels that are no part of a plain step.
    pub tools: Tools,
    /// CUDA sources.
    pub units: &'static [Unit],
    /// The device library: (path, text) of every header that a unit may include.
    pub headers: &'static [(&'static str, &'static str)],
    /// What this shape does without.
    pub losses: &'static [Loss],
}

/// Why [`Model::of_rank`] runs on no device.
const NO_RANK_KERNELS: Loss = Loss {
    families: Family::Portable.and_later(),
    what: "the kernels of one rank of several are compiled by the compiler, not derived from the whole model's",
};

impl Model {
    /// What one of several ranks computes of this model: its graph, which a backend without kernels interprets. The
    /// compiler makes the kernels of a rank (`compile_rank`). It lives as long as the program: ask once per rank.
    ///
    /// # Errors
    /// [`ShardError`] if the model cannot be divided so.
    pub fn of_rank(&'static self, shard: Shard) -> Result<&'static Model, ShardError> {
        if shard == self.shard {
            return Ok(self);
        }
        let graph = self.graph.of_rank(&self.spec, &shard.local(&self.spec)?);
        let (schedules, tuned, units, losses) = (&[][..], &[][..], &[][..], &[NO_RANK_KERNELS][..]);
        let model = Model { shard, graph, schedules, tuned, units, losses, ..*self };
        Ok(Box::leak(Box::new(model)))
    }

    /// The graph of the whole model, whose shapes a checkpoint has; where this is one rank's, it lives as long as the
    /// program: ask once per rank.
    #[must_use]
    pub fn whole_graph(&self) -> Graph {
        match self.shard {
            Shard::WHOLE => self.graph,
            _ => self.graph.of_rank(&self.spec, &Local::whole(&self.spec)),
        }
    }

    /// The dimensions that this model's graph and kernels compute: the whole ones, or one rank's.
    ///
    /// # Panics
    /// For a shard that the model cannot have, which neither the compiler nor [`Model::of_rank`] makes.
    #[must_use]
    pub fn rank_spec(&self) -> ModelSpec {
        let local = self.shard.local(&self.spec);
        local.unwrap_or_else(|why| panic!("{}: {why}", self.spec.name)).spec(&self.spec)
    }

    /// Bytes of a checkpoint that one rank of this whole model reads: its parts of all weights.
    ///
    /// # Errors
    /// [`ShardError`] if the model cannot be divided so.
    pub fn bytes_of_rank(&self, shard: Shard) -> Result<u64, ShardError> {
        let local = shard.local(&self.spec)?;
        let bytes = |info: &crate::WeightInfo| {
            let slice = local.slice(&self.spec, info)?;
            let elements = info.matrices().0 * slice.row_count() * slice.k.len();
            Some(info.dtype.bytes(elements) as u64)
        };
        Ok(self.graph.all_weights().filter_map(|(info, _)| bytes(info)).sum())
    }

    /// The model's record for a profile, if it was tuned.
    #[must_use]
    pub fn tuned_for(&self, arch: &Arch) -> Option<&'static Tuned> {
        self.tuned.iter().find(|tuned| tuned.arch.name == arch.name)
    }

    /// The model with the schedules that were tuned for a profile, or as it is if none were. The list of its units lives
    /// as long as the program: ask once per device.
    #[must_use]
    pub fn for_arch(&self, arch: &Arch) -> Model {
        let Some(tuned) = self.tuned_for(arch) else { return *self };
        let replaced = |own: &Unit| {
            let found = tuned.units.iter().find(|unit| unit.name == own.name);
            *found.unwrap_or(own)
        };
        let units: Vec<Unit> = self.units.iter().map(replaced).collect();
        Model { arch: tuned.arch, schedules: tuned.schedules, units: units.leak(), ..*self }
    }

    /// Whether a schedule samples by the 8-bit shadow of the unembedding.
    #[must_use]
    pub fn has_shadow_head(&self) -> bool {
        self.schedules.iter().any(|schedule| !schedule.shadow_head.is_empty())
    }

    /// The model without the 8-bit shadow of its unembedding. The lists of its schedules live as long as the program: ask once.
    #[must_use]
    pub fn without_shadow_head(&self) -> Model {
        let without = |schedules: &[Schedule]| -> &'static [Schedule] {
            let schedules = schedules.iter().map(|own| Schedule { shadow_head: &[], ..*own });
            schedules.collect::<Vec<_>>().leak()
        };
        let tuned: Vec<Tuned> = self
            .tuned
            .iter()
            .map(|tuned| Tuned { schedules: without(tuned.schedules), ..*tuned })
            .collect();
        Model { schedules: without(self.schedules), tuned: tuned.leak(), ..*self }
    }

    /// The model as a device of this compute capability runs it: the schedules that the device can choose, and what it
    /// does without. Both lists live as long as the program: ask once per device.
    #[must_use]
    pub fn on(&self, compute: (i32, i32)) -> Model {
        let (family, shared_bytes) = (Family::of(compute), Arch::block_shared_bytes(compute));
        let families = self.losses.iter().filter(|loss| loss.families.contains(&family));
        let mut losses: Vec<Loss> = families.copied().collect();
        let mut schedules: Vec<Schedule> = Vec::new();
        for schedule in self.schedules.iter().filter(|one| one.family.runs_on(compute)) {
            let infos = schedule.infos();
            let mut too_large =
                infos.iter().filter(|info| info.shared_bytes as usize > shared_bytes);
            if let Some(info) = too_large.next() {
                losses.push(Loss::of_shared_memory(schedule, info, shared_bytes));
            } else if schedules.last().is_none_or(|last| last.max_tokens < schedule.max_tokens) {
                schedules.push(*schedule);
            }
        }
        Model { schedules: schedules.leak(), losses: losses.leak(), ..*self }
    }

    /// Why no schedule takes steps of any size, if that is so: what the model does without.
    #[must_use]
    pub fn cannot_run(&self) -> Option<String> {
        let any = self.schedules.last().is_some_and(|last| last.max_tokens == usize::MAX);
        let reasons = || self.losses.iter().map(|loss| loss.what).collect::<Vec<_>>().join("; ");
        (!any).then(reasons)
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
    /// When no schedule takes as many: [`Model::cannot_run`] reports it beforehand.
    #[must_use]
    pub fn schedule(&self, tokens: usize) -> &'static Schedule {
        let fits = self.schedules.iter().find(|schedule| tokens <= schedule.max_tokens);
        fits.expect("a model that can run has a schedule for any number of tokens")
    }

    /// Routes of the smallest expert tile of any schedule, which bounds how many tiles a step can have; `None` if no
    /// kernel takes experts in tiles.
    #[must_use]
    pub fn min_expert_tile(&self) -> Option<usize> {
        let kernels = self.schedules.iter().flat_map(Schedule::infos);
        kernels
            .filter_map(|info| match info.grid.y {
                Axis::ExpertTiles(routes) => Some(routes as usize),
                _ => None,
            })
            .min()
    }
}
