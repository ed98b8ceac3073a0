//! The GPUs that kernels are made for, as data: what a schedule may use of one, and how fast its memory and tensor cores
//! are. Nothing here asks a device; [`Arch`] is what is known of it beforehand.

/// A family of architectures that share schedules: one file of `codegen/src/schedule/` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Ampere and later: `mma.sync` on bf16, `cp.async`, 99 KiB of shared memory per block.
    Portable,
    /// Hopper (`sm_90a`): `wgmma`, clusters, 227 KiB of shared memory per block.
    Sm90,
}

impl Family {
    /// Whether its kernels run on devices of this compute capability.
    #[must_use]
    pub const fn runs_on(self, compute: (i32, i32)) -> bool {
        match self {
            Family::Portable => true,
            Family::Sm90 => matches!(compute, (9, 0)),
        }
    }

    /// The most special family whose kernels run on devices of this compute capability.
    #[must_use]
    pub const fn of(compute: (i32, i32)) -> Family {
        if Family::Sm90.runs_on(compute) { Family::Sm90 } else { Family::Portable }
    }

    /// It and the families after it: those whose devices run its kernels.
    #[must_use]
    pub const fn and_later(self) -> &'static [Family] {
        match self {
            Family::Portable => &[Family::Portable, Family::Sm90],
            Family::Sm90 => &[Family::Sm90],
        }
    }

    /// What it is called in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Family::Portable => "any device",
            Family::Sm90 => "sm_90",
        }
    }
}

/// One kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// What it is called in reports and tuning records.
    pub name: &'static str,
    /// Which schedules it runs beside the portable ones.
    pub family: Family,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Dynamic shared memory that one block may have.
    pub shared_bytes_per_block: usize,
    /// Shared memory of one SM.
    pub shared_bytes_per_sm: usize,
    /// 32-bit registers of one SM.
    pub registers_per_sm: u32,
    /// Most blocks of a cluster; 1 where there are no clusters.
    pub max_cluster: usize,
    /// Whether groups of four warps multiply from shared memory.
    pub wgmma: bool,
    /// Memory bandwidth in GB/s, as published: the byte bound of reports.
    pub memory_gb_per_s: u32,
    /// Dense bf16 tensor-core rate in TFLOP/s, as published: the FLOP bound of reports.
    pub bf16_tflops: u32,
}

/// A quarter of an SM, to which a warp belongs for its life: schedulers per SM, on every architecture here.
const SM_QUARTERS: u32 = 4;

impl Arch {
    /// What every device from Ampere on has. The shared memory is that of compute capability 8.6, 8.9 and 12.0, the
    /// smallest (CUDA programming guide, technical specifications); the rates are an A100's.
    pub const PORTABLE: Arch = Arch {
        name: "portable",
        family: Family::Portable,
        compute: (8, 0),
        sms: 108,
        shared_bytes_per_block: 99 * 1024,
        shared_bytes_per_sm: 100 * 1024,
        registers_per_sm: 65_536,
        max_cluster: 1,
        wgmma: false,
        memory_gb_per_s: 2039,
        bf16_tflops: 312,
    };

    /// NVIDIA H100 SXM.
    pub const H100: Arch = Arch {
        name: "h100",
        family: Family::Sm90,
        compute: (9, 0),
        sms: 132,
        shared_bytes_per_block: Arch::MAX_SHARED_BYTES,
        shared_bytes_per_sm: 228 * 1024,
        registers_per_sm: 65_536,
        max_cluster: 8,
        wgmma: true,
        memory_gb_per_s: 3350,
        bf16_tflops: 989,
    };

    /// NVIDIA H200 SXM: an H100 with faster memory.
    pub const H200: Arch = Arch { name: "h200", memory_gb_per_s: 4800, ..Arch::H100 };

    /// The profiles that there are.
    pub const ALL: [Arch; 3] = [Arch::PORTABLE, Arch::H100, Arch::H200];

    /// The profile that built-in models are compiled for; its portable kernels run elsewhere too.
    pub const BUILT_IN: Arch = Arch::H100;

    /// The profile of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Arch> {
        Arch::ALL.into_iter().find(|arch| arch.name == name)
    }

    /// What is known of a device of this name and compute capability: its own profile, else its family's.
    #[must_use]
    pub fn of_device(name: &str, compute: (i32, i32)) -> Arch {
        match compute {
            (9, 0) if name.contains("H200") => Arch::H200,
            (9, 0) => Arch::H100,
            _ => {
                let shared_bytes_per_block = Arch::block_shared_bytes(compute);
                Arch { compute, shared_bytes_per_block, ..Arch::PORTABLE }
            }
        }
    }

    /// The profile of a device by its name, its compute capability and the bandwidth that was measured on it (in GB/s,
    /// where it was), and one sentence that tells why. Hopper's profiles differ in nothing but their memory, so a
    /// bandwidth that is another profile's outweighs the name.
    #[must_use]
    pub fn choose(name: &str, compute: (i32, i32), gb_per_s: Option<f64>) -> (Arch, String) {
        let by_name = Arch::of_device(name, compute);
        let Some(gb_per_s) = gb_per_s.filter(|_| by_name.family == Family::Sm90) else {
            let why = format!("profile {} by the name {name}", by_name.name);
            return (by_name, why);
        };
        let distance =
            |arch: &Arch| (f64::from(arch.memory_gb_per_s) * Arch::READ_SHARE - gb_per_s).abs();
        let profiles = Arch::ALL.into_iter().filter(|arch| arch.family == by_name.family);
        let nearest =
            profiles.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(by_name);
        let why = match nearest == by_name {
            true => format!("profile {} by the name {name} and {gb_per_s:.0} GB/s", nearest.name),
            false => format!(
                "profile {}, because {name} reads {gb_per_s:.0} GB/s, which is nearer to it than to {}",
                nearest.name, by_name.name
            ),
        };
        (nearest, why)
    }

    /// Of the published bandwidth, what reading memory front to back reaches (measured on H100 and H200: 0.89 to 0.93).
    pub const READ_SHARE: f64 = 0.9;

    /// Dynamic shared memory that a block may have on devices of this compute capability (CUDA programming guide,
    /// technical specifications per compute capability).
    #[must_use]
    pub const fn block_shared_bytes(compute: (i32, i32)) -> usize {
        match compute {
            (8, 0 | 7) => 163 * 1024,
            (9..=11, _) => Arch::MAX_SHARED_BYTES,
            _ => 99 * 1024,
        }
    }

    /// The most shared memory that a block has on any device: a kernel that needs more is not made.
    pub const MAX_SHARED_BYTES: usize = 227 * 1024;

    /// Registers that a thread can have for `blocks` blocks of `threads` threads to share an SM: warps are dealt to its
    /// quarters in turn, and registers come in eights.
    #[must_use]
    pub const fn max_registers(&self, threads: u32, blocks: u32) -> u32 {
        let warps_per_quarter = (threads / 32 * blocks).div_ceil(SM_QUARTERS);
        let registers = self.registers_per_sm / SM_QUARTERS / (32 * warps_per_quarter) / 8 * 8;
        if registers > 255 { 255 } else { registers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_profile_of_their_name_or_family() {
        for (name, compute, expected) in [
            ("NVIDIA H100 80GB HBM3", (9, 0), "h100"),
            ("NVIDIA H200", (9, 0), "h200"),
            ("NVIDIA L40S", (8, 9), "portable"),
            ("NVIDIA B200", (10, 0), "portable"),
        ] {
            let arch = Arch::of_device(name, compute);
            assert_eq!((arch.name, arch.compute), (expected, compute), "{name}");
            assert!(arch.family.runs_on(compute), "{name}");
        }
    }

    #[test]
    fn measured_bandwidth_and_name_choose_the_profile() {
        for (name, compute, gb_per_s, expected) in [
            (
                "NVIDIA H200",
                (9, 0),
                Some(4280.0),
                "profile h200 by the name NVIDIA H200 and 4280 GB/s",
            ),
            ("NVIDIA H100 80GB HBM3", (9, 0), Some(3080.0), "profile h100 by the name"),
            (
                "NVIDIA H100 80GB HBM3",
                (9, 0),
                None,
                "profile h100 by the name NVIDIA H100 80GB HBM3",
            ),
            ("NVIDIA GH200 144G HBM3e", (9, 0), Some(4300.0), "profile h200 by the name"),
            (
                "NVIDIA GH200 480GB",
                (9, 0),
                Some(3400.0),
                "profile h100, because NVIDIA GH200 480GB reads 3400",
            ),
            ("NVIDIA L40S", (8, 9), Some(800.0), "profile portable by the name NVIDIA L40S"),
        ] {
            let (arch, why) = Arch::choose(name, compute, gb_per_s);
            assert!(why.starts_with(expected), "{why}");
            assert!(why.contains(arch.name), "{why}");
        }
    }

    #[test]
    fn registers_are_those_that_let_blocks_share_an_sm() {
        for (threads, blocks, expected) in
            [(480, 2, 64), (256, 2, 128), (128, 3, 168), (32, 1, 255)]
        {
            assert_eq!(
                Arch::H100.max_registers(threads, blocks),
                expected,
                "{blocks} of {threads}"
            );
        }
    }
}
