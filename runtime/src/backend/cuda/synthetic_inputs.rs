//! What timings run on instead of requests: random keys and values, different tokens for each sequence, and the routing
//! that they lead to.

use ossmith_plan::facts;
use ossmith_plan::params::FillBf16;

use super::CudaBackend;
use super::kernels::Extent;
use super::memory::Buffer;
use crate::Result;
use crate::backend::{Input, LogitRows, Sequence, StepOutput};
use crate::sampling::SamplerConfig;

impl CudaBackend {
    /// Random keys and values in every layer.
    pub(super) fn fill_cache(&self) -> Result<()> {
        for layer in 0..self.pass.model.spec.layers.len() {
            let (keys, values) = self.pass.cache.buffers(layer);
            self.fill_random(keys, layer as u32)?;
            self.fill_random(values, !(layer as u32))?;
        }
        Ok(())
    }

    /// Fills a buffer with random bf16 numbers between -1 and 1.
    pub(super) fn fill_random(&self, buffer: &Buffer, key: u32) -> Result<()> {
        let columns = 1 << 10;
        let params = FillBf16 {
            out: buffer.ptr(),
            key0: key,
            key1: 1,
            offset: 0,
            spread: 1,
            scale: 1.0 / 32_768.0,
            rows: (buffer.bytes() / 2 / columns) as u32,
            k: columns as u32,
            order: facts::ROW_MAJOR as u32,
            head_dim: 0,
            first_index: 0,
        };
        let extent = Extent { tokens: 0, routes: 0, query_tiles: 0 };
        self.pass.kernels.launch(
            &self.pass.stream,
            &self.pass.model.tools.fill_bf16,
            extent,
            &params,
        )
    }
}

/// A sequence of a step whose next token is sampled with a seed of its own.
pub(super) fn sampled<'a>(
    slot: usize,
    start: usize,
    input: Input<'a>,
    pages: &'a [u32],
    sampling: &SamplerConfig,
) -> Sequence<'a> {
    let sample = SamplerConfig { seed: slot as u64, ..*sampling };
    Sequence {
        seq_slot: slot,
        start,
        input,
        pages,
        sample: Some(sample.into()),
        prompt_report: None,
        logits: LogitRows::None,
    }
}

/// Distinct experts of a layer, averaged over layers.
pub(super) fn distinct(output: &StepOutput, experts: usize) -> f64 {
    let count = |indices: &[u32]| {
        let mut seen = vec![false; experts];
        indices.iter().for_each(|&expert| seen[expert as usize] = true);
        seen.into_iter().filter(|&seen| seen).count() as f64
    };
    let layers = output.activations.len().max(1) as f64;
    output.activations.iter().map(|layer| count(&layer.router_indices)).sum::<f64>() / layers
}
