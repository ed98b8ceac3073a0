//! What compiled kernels take, held against what their launches and the device allow: a kernel that cannot be launched is
//! refused by name before anything runs, one that is slower than planned is reported.

use ossmith_plan::{Arch, KernelInfo, Model, Schedule, Unit};

use super::nvrtc::{self, Resources};
use crate::{Error, Result};

/// Registers are allocated to a warp in units of 256: eight per thread.
const REGISTER_UNIT: u32 = 8;

/// Checks compiled units against the launches of a model on a device of this compute capability. Returns what makes a
/// kernel slower than planned, one sentence each.
///
/// # Errors
/// [`Error::DeviceUnavailable`] for a kernel that cannot be launched, with what it takes and what there is.
pub(super) fn check<'a>(
    model: &Model,
    compute: (i32, i32),
    compiled: impl Iterator<Item = (&'a Unit, Resources)>,
) -> Result<Vec<String>> {
    let mut launches: Vec<KernelInfo> = model.tools.infos().into();
    launches.extend(model.schedules.iter().flat_map(Schedule::infos));
    let mut warnings = Vec::new();
    for (unit, resources) in compiled {
        let launch = launches.iter().find(|info| info.name == unit.name);
        warnings.extend(of_unit(unit, launch, resources, compute)?);
    }
    Ok(warnings)
}

fn of_unit(
    unit: &Unit,
    launch: Option<&KernelInfo>,
    resources: Resources,
    compute: (i32, i32),
) -> Result<Vec<String>> {
    let (name, target) = (unit.name, nvrtc::target(compute));
    let arch = Arch::of_device("", compute);
    let Resources { registers, stack_bytes, spill_bytes, shared_bytes } = resources;
    if let Some(launch) = launch {
        let shared = (shared_bytes + launch.shared_bytes) as usize;
        let limit = Arch::block_shared_bytes(compute);
        if shared > limit {
            return Err(Error::unavailable(format!(
                "kernel {name} needs {shared} bytes of shared memory per block, and {target} has {limit}: the model's \
                 dimensions are too large for its schedule"
            )));
        }
        let block = registers.next_multiple_of(REGISTER_UNIT) * launch.threads;
        if block > arch.registers_per_sm {
            return Err(Error::unavailable(format!(
                "kernel {name} needs {block} registers per block ({registers} for each of {} threads), and an SM has \
                 {}",
                launch.threads, arch.registers_per_sm
            )));
        }
    }
    let mut warnings = Vec::new();
    if spill_bytes > 0 || stack_bytes > 0 {
        warnings.push(format!(
            "kernel {name} spills on {target}: {spill_bytes} bytes of spills and {stack_bytes} bytes of stack per thread, \
             in local memory; it is slower than planned"
        ));
    }
    if registers > unit.max_registers {
        warnings.push(format!(
            "kernel {name} takes {registers} registers per thread on {target}, and its schedule plans with at most {}; \
             fewer blocks run per SM",
            unit.max_registers
        ));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &Model = ossmith_models::GPT_OSS_20B;
    const FITS: Resources =
        Resources { registers: 32, stack_bytes: 0, spill_bytes: 0, shared_bytes: 0 };

    fn checked(compute: (i32, i32), resources: Resources) -> Result<Vec<String>> {
        let named = |unit: &&Unit| unit.name == "attention_full";
        let unit = MODEL.units.iter().find(named).expect("a unit of this name");
        check(MODEL, compute, std::iter::once((unit, resources)))
    }

    #[test]
    fn kernels_that_fit_are_not_reported() {
        assert_eq!(checked((9, 0), FITS).expect("fits"), [""; 0]);
        assert_eq!(checked((8, 6), FITS).expect("fits"), [""; 0]);
    }

    #[test]
    fn what_a_block_cannot_have_is_refused_with_both_values() {
        let shared = |shared_bytes| Resources { shared_bytes, ..FITS };
        let error = checked((8, 6), shared(80 << 10)).expect_err("too much").to_string();
        assert!(error.contains("attention_full") && error.contains("101376"), "{error}");
        assert!(checked((9, 0), shared(80 << 10)).is_ok());
        let error = checked((9, 0), shared(227 << 10)).expect_err("too much").to_string();
        assert!(error.contains("sm_90a has 232448"), "{error}");
    }

    #[test]
    fn spills_and_registers_are_reported_by_name() {
        let spilled = Resources { spill_bytes: 12, stack_bytes: 16, ..FITS };
        let warnings = checked((9, 0), spilled).expect("runs");
        assert!(warnings.len() == 1 && warnings[0].contains("12 bytes of spills"), "{warnings:?}");
        let warnings = checked((9, 0), Resources { registers: 255, ..FITS }).expect("runs");
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("attention_full takes 255 registers"), "{warnings:?}");
    }
}
