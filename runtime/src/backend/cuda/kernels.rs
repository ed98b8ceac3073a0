//! Loaded kernels and how they are launched: a kernel's parameter type says which struct it takes.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, sys};
use cudarc::nvrtc::Ptx;
use ossmith_plan::facts::{KV_SPLIT_BLOCKS_PER_SM, MAX_ATTENTION_PARTIALS};
use ossmith_plan::params::Params;
use ossmith_plan::{Kernel, KernelInfo, Model, Unit};

use super::cubins::{CacheUse, CubinCache};
use super::device::{DeviceInfo, has_clusters};
use super::memory::device_error;
use super::nvrtc::{Cubin, Resources};
use super::nvtx::Range;
use super::sources::Sources;
use super::stamps::{Stamps, TracedBlock, TracedLaunch};
use crate::backend::Progress;
use crate::{Error, Result};

/// What a launch grid depends on beside the model and the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Tokens, or rows of the head.
    pub tokens: u32,
    /// Routes: tokens times experts per token.
    pub routes: u32,
    /// Tiles of consecutive tokens.
    pub query_tiles: u32,
}

/// A model's kernels, loaded on a device.
#[derive(Debug)]
pub struct Kernels {
    /// Every function that was loaded, by its unit's text: schedules that come back find theirs.
    loaded: HashMap<&'static str, (CudaFunction, Resources)>,
    functions: HashMap<&'static str, CudaFunction>,
    /// The modules of kernels that exchange with other ranks, and what they are to know of them.
    exchanging: Vec<Arc<CudaModule>>,
    mailboxes: Option<Vec<u64>>,
    resources: HashMap<&'static str, Resources>,
    cache_use: CacheUse,
    text_hash: String,
    sms: u32,
    has_clusters: bool,
    experts: u32,
    kv_heads: u32,
    /// Set while a step is traced.
    stamps: Option<Stamps>,
}

impl Kernels {
    /// Compiles what the cache lacks and loads everything.
    pub(super) fn load(
        context: &Arc<CudaContext>,
        device: &DeviceInfo,
        model: &'static Model,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Kernels> {
        Kernels::load_text(context, device, model, &Sources::of(model)?, progress)
    }

    /// As [`Kernels::load`], with stamps in the kernels of steps: before a launch, [`Kernels::set_stamps`] gives them room.
    pub(super) fn load_stamped(
        context: &Arc<CudaContext>,
        device: &DeviceInfo,
        model: &'static Model,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Kernels> {
        let sources = Sources::of(model)?.stamped(model)?;
        Kernels::load_text(context, device, model, &sources, progress)
    }

    fn load_text(
        context: &Arc<CudaContext>,
        device: &DeviceInfo,
        model: &'static Model,
        sources: &Sources,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Kernels> {
        // Splits times heads times tokens are less than twice what each SM is to have.
        let partials = 2 * KV_SPLIT_BLOCKS_PER_SM * device.sms as usize;
        if partials > MAX_ATTENTION_PARTIALS {
            return Err(Error::unavailable(format!(
                "{} has {} SMs; attention has room for {MAX_ATTENTION_PARTIALS} partials, of which it may need {partials}",
                device.name, device.sms
            )));
        }
        let mut kernels = Kernels {
            loaded: HashMap::new(),
            functions: HashMap::new(),
            exchanging: Vec::new(),
            mailboxes: None,
            resources: HashMap::new(),
            cache_use: CacheUse::default(),
            text_hash: String::new(),
            sms: device.sms,
            has_clusters: has_clusters(device.compute),
            experts: model.spec.max_experts() as u32,
            kv_heads: model.rank_spec().kv_heads as u32,
            stamps: None,
        };
        kernels.take(context, device, model, sources, progress)?;
        Ok(kernels)
    }

    /// Compiles and loads what a model's schedules launch and is not loaded yet, and launches by these from now on.
    pub(super) fn take(
        &mut self,
        context: &Arc<CudaContext>,
        device: &DeviceInfo,
        model: &'static Model,
        sources: &Sources,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let units = model.launched();
        let is_missing = |unit: &&'static Unit| !self.loaded.contains_key(unit.source);
        let missing: Vec<&'static Unit> = units.iter().copied().filter(is_missing).collect();
        let cache = CubinCache::of_user()?;
        let (cubins, cache_use) =
            cache.some_of(model, &missing, sources, device.compute, progress)?;
        let shared = shared_bytes(model);
        for (unit, cubin) in missing.into_iter().zip(cubins) {
            let bytes = shared.get(unit.name).copied().unwrap_or(0);
            let resources = cubin.resources;
            let (module, function) = load_function(context, unit.name, cubin, bytes)?;
            // It has a place for the other ranks' addresses.
            if unit.ranks > 1 {
                self.exchanging.push(module);
            }
            if model.shard.of > 1 {
                // Loading at the first launch could wait for a kernel that waits for this rank.
                // SAFETY: the function was loaded from its module just now.
                unsafe { sys::cuFuncLoad(function.cu_function()) }
                    .result()
                    .map_err(device_error("load a kernel"))?;
            }
            self.loaded.insert(unit.source, (function, resources));
        }
        self.functions.clear();
        self.resources.clear();
        for unit in units {
            if let Some((function, resources)) = self.loaded.get(unit.source) {
                self.functions.insert(unit.name, function.clone());
                self.resources.insert(unit.name, *resources);
            }
        }
        self.cache_use = cache_use;
        self.text_hash = sources.hash(model);
        match self.mailboxes.clone() {
            Some(words) => self.set_mailboxes(context, words),
            None => Ok(()),
        }
    }

    /// Tells the kernels that exchange where the other ranks are ([`super::exchange`]).
    pub(super) fn set_mailboxes(
        &mut self,
        context: &Arc<CudaContext>,
        words: Vec<u64>,
    ) -> Result<()> {
        const WHAT: &str = "tell kernels of other ranks";
        let stream = context.default_stream();
        for module in &self.exchanging {
            let mut place =
                module.get_global("rank_mailboxes", &stream).map_err(device_error(WHAT))?;
            let bytes: &[u8] = bytemuck::cast_slice(&words);
            if place.len() != bytes.len() {
                return Err(Error::Internal(format!(
                    "kernels take {} bytes of mailboxes, the host has {}",
                    place.len(),
                    bytes.len()
                )));
            }
            stream.memcpy_htod(bytes, &mut place).map_err(device_error(WHAT))?;
        }
        stream.synchronize().map_err(device_error(WHAT))?;
        self.mailboxes = Some(words);
        Ok(())
    }

    /// What the cubin cache had.
    #[must_use]
    pub fn cache_use(&self) -> CacheUse {
        self.cache_use
    }

    /// Names the kernels' text.
    #[must_use]
    pub fn text_hash(&self) -> &str {
        &self.text_hash
    }

    /// What ptxas reported of each kernel, by name.
    #[must_use]
    pub fn resources(&self) -> &HashMap<&'static str, Resources> {
        &self.resources
    }

    /// Gives the kernels, which must be those of [`Kernels::load_stamped`], room for their stamps.
    pub(super) fn set_stamps(&mut self, stamps: Stamps) {
        self.stamps = Some(stamps);
    }

    /// The launches since then with the stamps of their blocks.
    pub(super) fn traced(&self) -> Result<(Vec<TracedLaunch>, Vec<TracedBlock>)> {
        self.stamps.as_ref().map_or_else(|| Ok((Vec::new(), Vec::new())), Stamps::read)
    }

    /// Names the launches that follow, for traces and for profilers as long as the range lasts.
    pub(super) fn phase(&self, name: &'static str, layer: Option<usize>) -> Range {
        if let Some(stamps) = &self.stamps {
            stamps.begin_phase(name, layer);
        }
        Range::new(|| name.to_owned())
    }

    /// The launch grid of a kernel.
    pub(super) fn grid(&self, info: &KernelInfo, extent: Extent) -> [u32; 3] {
        let Extent { tokens, routes, query_tiles } = extent;
        let (experts, kv_heads, sms) = (self.experts, self.kv_heads, self.sms);
        info.grid.blocks(&ossmith_plan::Extent {
            tokens,
            routes,
            query_tiles,
            experts,
            kv_heads,
            sms,
        })
    }

    /// Puts a kernel on the stream.
    pub(super) fn launch<P: Params>(
        &self,
        stream: &CudaStream,
        kernel: &Kernel<P>,
        extent: Extent,
        params: &P,
    ) -> Result<()> {
        let info = &kernel.info;
        let function = self.functions.get(info.name);
        let function = function
            .ok_or_else(|| Error::Internal(format!("no kernel {} is loaded", info.name)))?;
        let [x, y, z] = self.grid(info, extent);
        let cluster = if self.has_clusters { info.cluster } else { 1 };
        let mut attributes = [cluster_along_z(cluster), dependent_launch()];
        let attributes = match (cluster > 1, info.dependent_launch) {
            (true, true) => &mut attributes[..],
            (true, false) => &mut attributes[..1],
            (false, true) => &mut attributes[1..],
            (false, false) => &mut [],
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: info.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: info.shared_bytes,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let stamps = &self.stamps;
        let block_trace =
            stamps.as_ref().map(|room| room.launch(info.name, [x, y, z])).transpose()?;
        let block_trace = block_trace.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let mut arguments = [
            std::ptr::from_ref(params).cast_mut().cast::<c_void>(),
            block_trace.cast_mut().cast::<c_void>(),
        ];
        // SAFETY: `P` is the struct that this kernel was generated for (`Kernel<P>`, and the unit asserts its layout);
        // the driver copies it before the call returns, and the second argument too if the kernel has stamps (no other
        // kernel has a second parameter, and kernels with stamps have room for them). Addresses in both are buffers that
        // the backend owns.
        let status = unsafe {
            sys::cuLaunchKernelEx(
                &config,
                function.cu_function(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        status.result().map_err(device_error(&format!("launch the kernel {}", info.name)))
    }
}

/// The launch attribute that lets a kernel start while the one before it finishes.
fn dependent_launch() -> sys::CUlaunchAttribute {
    // SAFETY: the attribute is plain data for which zero bytes are valid.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    attribute.value.programmaticStreamSerializationAllowed = 1;
    attribute
}

/// The launch attribute that makes `blocks` blocks along z a cluster.
fn cluster_along_z(blocks: u32) -> sys::CUlaunchAttribute {
    // SAFETY: the attribute is plain data for which zero bytes are valid.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    attribute.value.clusterDim =
        sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: 1, y: 1, z: blocks };
    attribute
}

/// Dynamic shared memory by kernel name.
fn shared_bytes(model: &Model) -> HashMap<&'static str, u32> {
    let mut bytes = HashMap::new();
    let mut add = |info: KernelInfo| {
        bytes.insert(info.name, info.shared_bytes);
    };
    for schedule in model.schedules {
        schedule.infos().into_iter().for_each(&mut add);
    }
    bytes
}

fn load_function(
    context: &Arc<CudaContext>,
    name: &str,
    cubin: Cubin,
    shared_bytes: u32,
) -> Result<(Arc<CudaModule>, CudaFunction)> {
    const WITHOUT_ASKING: u32 = 48 << 10;
    let load = |error| device_error("load a kernel")(error);
    let module = context.load_module(Ptx::from_binary(cubin.image)).map_err(load)?;
    let function = module.load_function(name).map_err(load)?;
    if shared_bytes > WITHOUT_ASKING {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shared_bytes as i32).map_err(load)?;
    }
    Ok((module, function))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_launch_has_the_shared_memory_of_its_plan() {
        let model = ossmith_models::GPT_OSS_20B.on((9, 0));
        let bytes = shared_bytes(&model);
        let infos: Vec<KernelInfo> =
            model.schedules.iter().flat_map(|schedule| schedule.infos()).collect();
        assert!(infos.iter().all(|info| bytes[info.name] == info.shared_bytes));
        let names: std::collections::BTreeSet<_> = infos.iter().map(|info| info.name).collect();
        assert_eq!(bytes.len(), names.len());
        // More than a launch gets without asking for it.
        assert!(bytes.values().any(|&bytes| bytes > 48 << 10), "{bytes:?}");
    }
}
