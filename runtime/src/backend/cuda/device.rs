//! Which device there is, and whether it can run the kernels.

use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, sys};

use super::memory::device_error;
use crate::{Error, Result};

/// The oldest driver whose interface the kernels' launches need: that of CUDA 12.8.
const OLDEST_DRIVER: i32 = 12_080;

/// A CUDA device that can run the kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Ordinal.
    pub ordinal: usize,
    /// Marketing name.
    pub name: String,
    /// Compute capability.
    pub compute: (i32, i32),
    /// Memory in bytes.
    pub memory_bytes: usize,
    /// Streaming multiprocessors (SMs).
    pub sms: u32,
    /// Highest clock of the SMs, in MHz.
    pub sm_clock_mhz: u32,
    /// Highest clock of the memory, in MHz.
    pub memory_clock_mhz: u32,
    /// Interface version of the driver: 13000 is CUDA 13.0.
    pub driver: i32,
}

/// The first compute capability whose blocks form clusters.
const FIRST_WITH_CLUSTERS: (i32, i32) = (9, 0);

/// Whether blocks form clusters on devices of this compute capability.
pub(super) fn has_clusters(compute: (i32, i32)) -> bool {
    compute >= FIRST_WITH_CLUSTERS
}

/// Asks a device whether it can run the kernels.
///
/// # Errors
/// [`Error::DeviceUnavailable`] with one sentence: no driver, too old a driver, no such device, or too old a device.
pub fn probe(ordinal: usize) -> Result<DeviceInfo> {
    open(ordinal).map(|(_, info)| info)
}

/// How many devices the driver finds; `None` if there is none that can be asked.
#[must_use]
pub fn device_count() -> Option<usize> {
    driver_version().ok()?;
    CudaContext::device_count().ok().map(|count| count as usize)
}

pub(super) fn open(ordinal: usize) -> Result<(Arc<CudaContext>, DeviceInfo)> {
    let driver = driver_version()?;
    if driver < OLDEST_DRIVER {
        return Err(Error::unavailable(format!(
            "the NVIDIA driver speaks CUDA {}.{}; Ossmith needs 12.8 or later: update the driver",
            driver / 1000,
            driver % 1000 / 10
        )));
    }
    let count = CudaContext::device_count().map_err(no_device)?;
    if ordinal >= count as usize {
        return Err(Error::unavailable(format!(
            "there is no CUDA device {ordinal}; the machine has {count}"
        )));
    }
    let context = CudaContext::new(ordinal).map_err(device_error("open the device"))?;
    // SAFETY: all work runs on one stream whose order this module keeps; no slice of cudarc's own is used.
    unsafe { context.disable_event_tracking() };
    let ask = |error| device_error("describe the device")(error);
    let attribute = |attribute| context.attribute(attribute).map_err(ask).map(|value| value as u32);
    let info = DeviceInfo {
        ordinal,
        name: context.name().map_err(ask)?,
        compute: context.compute_capability().map_err(ask)?,
        memory_bytes: context.total_mem().map_err(ask)?,
        sms: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        sm_clock_mhz: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? / 1000,
        memory_clock_mhz: attribute(
            sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
        )? / 1000,
        driver,
    };
    if info.compute < (8, 0) {
        return Err(Error::unavailable(format!(
            "{} has compute capability {}.{}; the kernels need 8.0 (Ampere) or later",
            info.name, info.compute.0, info.compute.1
        )));
    }
    Ok((context, info))
}

/// Whether this program can load libraries. A static C library loads others only where the machine has its very version, and
/// crashes later where it has another.
pub(super) fn can_load_libraries() -> std::result::Result<(), &'static str> {
    // SAFETY: the function only reads what the kernel has given this process.
    let interpreter = unsafe { libc::getauxval(libc::AT_BASE) };
    if interpreter != 0 {
        return Ok(());
    }
    Err(
        "this program is linked statically, which runs on any Linux but cannot load NVIDIA's libraries; take the one that \
         is linked with glibc, or compute on the CPU",
    )
}

fn driver_version() -> Result<i32> {
    can_load_libraries().map_err(Error::unavailable)?;
    // SAFETY: loading the driver's library runs its initialisers, which have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::unavailable(
            "there is no NVIDIA driver on this machine (libcuda was not found)",
        ));
    }
    let mut version = 0;
    // SAFETY: the library is present (checked above) and the pointer is to a live integer.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(no_device)?;
    Ok(version)
}

fn no_device(error: DriverError) -> Error {
    Error::unavailable(format!("the NVIDIA driver finds no usable device: {error}"))
}
