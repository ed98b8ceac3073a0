//! Which profile's schedules a device runs: by its name, and by the bandwidth that is measured before anything is loaded,
//! because devices of one name are sold with different memory.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::CudaContext;
use ossmith_plan::params::FlatRead;
use ossmith_plan::{Arch, Family, Model};

use super::device::DeviceInfo;
use super::kernels::{Extent, Kernels};
use super::memory::{Buffer, device_error};
use crate::{Error, Result};

/// Enough that no cache holds a useful part of it, and little enough to be read in a tenth of a millisecond.
const READ_BYTES: usize = 512 << 20;

/// The model with the schedules of the device's profile, as the device runs them. What was chosen, and what of a tuning
/// record does not fit, is logged.
pub(super) fn model_for(
    context: &Arc<CudaContext>,
    device: &DeviceInfo,
    model: &'static Model,
) -> Result<&'static Model> {
    // A bandwidth is measured only where it can decide; edited kernels are those of one profile, which the name gives.
    let edited = std::env::var_os("OSSMITH_KERNELS").is_some();
    let is_hopper = Family::of(device.compute) == Family::Sm90;
    let decides = is_hopper && !model.tuned.is_empty() && !edited;
    // Where there is no room to measure, the name has to do; what the model needs is refused later, with its size.
    let gb_per_s = match decides.then(|| measure(context, device, model)) {
        None | Some(Err(Error::OutOfMemory { .. })) => None,
        Some(measured) => Some(measured?),
    };
    let (arch, why) = Arch::choose(&device.name, device.compute, gb_per_s);
    match model.tuned_for(&arch) {
        Some(tuned) => {
            tracing::info!(
                model = model.spec.name,
                device = tuned.device,
                "tuned schedules of {why}"
            );
            if tuned.driver / 1000 != device.driver / 1000 {
                tracing::warn!(
                    "the schedules for {} were tuned with a driver of CUDA {}, and this is one of CUDA {}; `ossmith tune` \
                     finds those for this one",
                    arch.name,
                    tuned.driver / 1000,
                    device.driver / 1000
                );
            }
            tuned.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
        }
        None => tracing::info!(model = model.spec.name, schedules = model.arch.name, "{why}"),
    }
    Ok(Box::leak(Box::new(model.for_arch(&arch).on(device.compute))))
}

/// GB/s of the best of a few reads.
fn measure(context: &Arc<CudaContext>, device: &DeviceInfo, model: &'static Model) -> Result<f64> {
    let tools: &'static Model = Box::leak(Box::new(Model { schedules: &[], ..*model }));
    let kernels = Kernels::load(context, device, tools, &mut |_| {})?;
    let stream = context.new_stream().map_err(device_error("make a stream"))?;
    let buffer = Buffer::zeroed(context, READ_BYTES, "a measurement of its bandwidth")?;
    let out = Buffer::zeroed(context, 16, "a measurement's result")?;
    let params = FlatRead { data: buffer.ptr(), units: buffer.bytes() as u64 / 16, out: out.ptr() };
    let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        // Several in a row, so that what the host takes to launch them does not count.
        const READS: u32 = 8;
        let begin = Instant::now();
        for _ in 0..READS {
            kernels.launch(&stream, &tools.tools.flat_read, extent, &params)?;
        }
        stream.synchronize().map_err(device_error("measure its bandwidth"))?;
        best = best.min(begin.elapsed().as_secs_f64() / f64::from(READS));
    }
    Ok(READ_BYTES as f64 / best / 1e9)
}
