//! Whether several CUDA devices can share a model: each rank writes into the memory of all others, so each device must
//! reach each other one.

use std::sync::Arc;

use cudarc::driver::{CudaContext, sys};

use super::device::{self, DeviceInfo};
use super::memory::device_error;
use crate::{Error, Result};

/// Devices of one kind report memory that differs by less than this part of it.
const MEMORY_TOLERANCE: usize = 50;

/// Asks whether these devices can run the kernels, are of one kind and reach each other.
///
/// # Errors
/// [`Error::DeviceUnavailable`] with one sentence: a device that is missing or too old, two that are unlike, or a pair that
/// cannot.
pub fn check_peers(ordinals: &[usize]) -> Result<()> {
    let opened = ordinals.iter().map(|&ordinal| device::open(ordinal));
    let (contexts, infos): (Vec<_>, Vec<_>) =
        opened.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    are_alike(&infos)?;
    reach_each_other(ordinals, |from, to| {
        let mut reaches = 0;
        let (own, peer) = (contexts[from].cu_device(), contexts[to].cu_device());
        // SAFETY: both devices are open (their contexts live here) and the pointer is to a live integer.
        let status = unsafe { sys::cuDeviceCanAccessPeer(&raw mut reaches, own, peer) };
        status.result().map_err(device_error("ask whether devices reach each other"))?;
        Ok(reaches != 0)
    })
}

/// Refuses devices of different kinds: kernels are compiled once for all ranks, and each has the same share of the work and of
/// the memory.
fn are_alike(devices: &[DeviceInfo]) -> Result<()> {
    let Some((first, others)) = devices.split_first() else { return Ok(()) };
    let unlike = |other: &&DeviceInfo| {
        let apart = first.memory_bytes.abs_diff(other.memory_bytes);
        (first.compute, first.sms) != (other.compute, other.sms)
            || apart > first.memory_bytes / MEMORY_TOLERANCE
    };
    let Some(other) = others.iter().find(unlike) else { return Ok(()) };
    let described = |device: &DeviceInfo| {
        let DeviceInfo { ordinal, name, compute: (major, minor), sms, memory_bytes, .. } = device;
        let gigabytes = *memory_bytes as f64 / 1e9;
        format!(
            "{ordinal} ({name}: compute capability {major}.{minor}, {sms} SMs, {gigabytes:.1} GB)"
        )
    };
    Err(Error::unavailable(format!(
        "CUDA devices {} and {} are unlike, and ranks of one model need devices of one kind: choose others, or one device",
        described(first),
        described(other)
    )))
}

/// Lets each of these devices reach the memory of all others, for as long as the contexts live.
pub(super) fn enable(contexts: &[Arc<CudaContext>]) -> Result<()> {
    for own in contexts {
        own.bind_to_thread().map_err(device_error("select the device"))?;
        for peer in contexts.iter().filter(|peer| peer.ordinal() != own.ordinal()) {
            // SAFETY: both contexts live, and this one is current on the thread (above).
            let status = unsafe { sys::cuCtxEnablePeerAccess(peer.cu_ctx(), 0) };
            match status {
                sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => {}
                other => other.result().map_err(device_error("reach another device's memory"))?,
            }
        }
    }
    Ok(())
}

/// Asks `reaches` of each ordered pair of the list.
fn reach_each_other(
    ordinals: &[usize],
    reaches: impl Fn(usize, usize) -> Result<bool>,
) -> Result<()> {
    for from in 0..ordinals.len() {
        for to in (0..ordinals.len()).filter(|&to| to != from) {
            if !reaches(from, to)? {
                return Err(Error::unavailable(format!(
                    "CUDA device {} cannot reach the memory of device {}, which ranks of one model need: choose devices \
                     that are connected (`nvidia-smi topo -p2p w` lists them), or one device",
                    ordinals[from], ordinals[to]
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_cannot_reach_each_other_is_named() {
        let connected = |from: usize, to: usize| Ok(from + to != 2);
        reach_each_other(&[4, 5], connected).expect("both ways");
        reach_each_other(&[4], connected).expect("no pair");
        let error = reach_each_other(&[4, 5, 7], connected).expect_err("4 and 7").to_string();
        assert!(error.contains("device 4 cannot reach the memory of device 7"), "{error}");
    }

    #[test]
    fn devices_of_different_kinds_are_named() {
        let device = |ordinal, name: &str, compute, sms, gigabytes: usize| DeviceInfo {
            ordinal,
            name: name.to_owned(),
            compute,
            memory_bytes: gigabytes * 1_000_000_000,
            sms,
            sm_clock_mhz: 1980,
            memory_clock_mhz: 3201,
            driver: 13_000,
        };
        let h200 = |ordinal| device(ordinal, "NVIDIA H200", (9, 0), 132, 150);
        are_alike(&[h200(0), h200(1)]).expect("of one kind");
        are_alike(&[h200(0), device(1, "NVIDIA H200", (9, 0), 132, 149)]).expect("nearly as much");
        are_alike(&[]).expect("none");
        for (other, want) in [
            (
                device(2, "NVIDIA H100", (9, 0), 132, 85),
                "2 (NVIDIA H100: compute capability 9.0, 132 SMs, 85.0 GB)",
            ),
            (device(2, "NVIDIA H200", (9, 0), 114, 150), "114 SMs"),
            (device(2, "NVIDIA B200", (10, 0), 132, 150), "compute capability 10.0"),
        ] {
            let error = are_alike(&[h200(0), h200(1), other]).expect_err(want).to_string();
            assert!(error.contains(want) && error.contains("devices 0 (NVIDIA H200"), "{error}");
        }
    }
}
