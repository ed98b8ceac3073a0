//! Whether several CUDA devices can share a model: each rank writes into the memory of all others, so each device must
//! reach each other one.

use std::sync::Arc;

use cudarc::driver::{CudaContext, sys};

use super::device;
use super::memory::device_error;
use crate::{Error, Result};

/// Asks whether these devices can run the kernels and reach each other.
///
/// # Errors
/// [`Error::DeviceUnavailable`] with one sentence: a device that is missing or too old, or a pair that cannot.
pub fn check_peers(ordinals: &[usize]) -> Result<()> {
    let contexts = ordinals
        .iter()
        .map(|&ordinal| device::open(ordinal).map(|(context, _)| context))
        .collect::<Result<Vec<_>>>()?;
    reach_each_other(ordinals, |from, to| {
        let mut reaches = 0;
        let (own, peer) = (contexts[from].cu_device(), contexts[to].cu_device());
        // SAFETY: both devices are open (their contexts live here) and the pointer is to a live integer.
        let status = unsafe { sys::cuDeviceCanAccessPeer(&raw mut reaches, own, peer) };
        status.result().map_err(device_error("ask whether devices reach each other"))?;
        Ok(reaches != 0)
    })
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
}
