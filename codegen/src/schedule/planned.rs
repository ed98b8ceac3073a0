//! A planned kernel: decided down to every constant, printable data that [`crate::emit`] turns into CUDA text, with the
//! type of its parameters.

use ossmith_plan::params::{Params, PhaseKernel};
use ossmith_plan::{Arch, Axis, Family, Grid, Kernel, KernelInfo};

use super::tunables::Tunable;

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

/// Whole numbers as constants.
pub(super) fn u32s(constants: &[(&'static str, usize)]) -> Vec<Constant> {
    constants.iter().map(|&(name, value)| Constant::U32(name, value as u32)).collect()
}

/// A hand-written kernel body of `codegen/cuda/kernels/`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Its file.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.file)
    }
}

/// The body in this file.
macro_rules! body {
    ($file:literal) => {
        $crate::schedule::Body {
            file: $file,
            text: include_str!(concat!("../../cuda/kernels/", $file)),
        }
    };
}
pub(super) use body;

/// One kernel, decided down to every constant.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelPlan {
    /// Name and launch geometry.
    pub info: KernelInfo,
    /// What it runs.
    pub body: Body,
    /// Parameter structs, the kernel's own last.
    pub params: Vec<&'static str>,
    /// `namespace spec`.
    pub constants: Vec<Constant>,
    /// Blocks that share an SM, by which registers are bounded.
    pub blocks_per_sm: u32,
    /// Registers that a thread can have for these blocks to fit.
    pub max_registers: u32,
    /// Devices that it is made for.
    pub family: Family,
    /// What may be chosen otherwise, with what was chosen.
    pub tunables: Vec<Tunable>,
    /// Ranks with which its blocks exchange; 1 if they exchange with none.
    pub ranks: usize,
}

impl KernelPlan {
    /// Whether all its blocks run at once on a device, so that those of one rank may wait for those of another.
    #[must_use]
    pub fn is_resident(&self, arch: &Arch) -> bool {
        /// Shared memory that the driver takes of each block.
        const RESERVED: usize = 1024;
        const THREADS_PER_SM: u32 = 2048;
        let blocks =
            [self.info.grid.x, self.info.grid.y, self.info.grid.z].map(|axis| match axis {
                Axis::Fixed(blocks) => Some(blocks as usize),
                Axis::PerSm(blocks) => Some(blocks as usize * arch.sms),
                _ => None,
            });
        let [Some(x), Some(y), Some(z)] = blocks else { return false };
        let by_memory = arch.shared_bytes_per_sm / (self.info.shared_bytes as usize + RESERVED);
        let by_threads = (THREADS_PER_SM / self.info.threads) as usize;
        x * y * z <= arch.sms * by_memory.min(by_threads).min(self.blocks_per_sm as usize)
    }
}

/// A planned kernel that takes the parameters `P`.
#[derive(Clone, Debug)]
pub struct Planned<P: Params> {
    /// What a schedule launches.
    pub kernel: Kernel<P>,
    /// What is emitted.
    pub plan: KernelPlan,
}

/// A planned kernel of a phase.
#[derive(Clone, Debug)]
pub struct PlannedKernel {
    /// What the phase launches.
    pub kernel: PhaseKernel,
    /// What is emitted.
    pub plan: KernelPlan,
}

impl<P: Params> Planned<P> {
    /// As a kernel of a phase: the variant takes `P`, so no other fits.
    pub(super) fn of(self, variant: fn(Kernel<P>) -> PhaseKernel) -> PlannedKernel {
        PlannedKernel { kernel: variant(self.kernel), plan: self.plan }
    }
}

/// What differs from kernel to kernel; [`Draft::plan`] adds the constants that every body reads.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) body: Body,
    /// Structs that the kernel's parameters point to.
    pub(super) other_params: Vec<&'static str>,
    pub(super) grid: [Axis; 3],
    /// Blocks along z that form a cluster.
    pub(super) cluster: usize,
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
    pub(super) blocks_per_sm: usize,
    pub(super) constants: Vec<Constant>,
    pub(super) family: Family,
    pub(super) tunables: Vec<Tunable>,
}

impl Draft {
    pub(super) fn plan<P: Params>(self, arch: &Arch) -> Planned<P> {
        let mut constants = u32s(&[
            ("kThreads", self.threads),
            ("kBlocksPerSm", self.blocks_per_sm),
            ("kSharedBytes", self.shared_bytes),
        ]);
        constants.extend(self.constants);
        let [x, y, z] = self.grid;
        let (threads, blocks_per_sm) = (self.threads as u32, self.blocks_per_sm as u32);
        let info = KernelInfo {
            name: self.name.leak(),
            grid: Grid { x, y, z },
            threads,
            cluster: self.cluster as u32,
            shared_bytes: self.shared_bytes as u32,
            dependent_launch: true,
        };
        let mut params = self.other_params;
        params.push(P::NAME);
        Planned {
            kernel: Kernel::new(info),
            plan: KernelPlan {
                info,
                body: self.body,
                params,
                constants,
                blocks_per_sm,
                max_registers: arch.max_registers(threads, blocks_per_sm),
                family: self.family,
                tunables: self.tunables,
                ranks: 1,
            },
        }
    }
}
