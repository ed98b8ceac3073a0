//! One forward pass as kernel launches: the graph's phases in the order of the plan. Nothing here waits.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use ossmith_plan::params::{self, Ptr};
use ossmith_plan::{Model, Schedule, Weight};

use super::cache::DeviceCache;
use super::kernels::{Extent, Kernels};
use super::weights::DeviceWeights;
use super::workspace::Workspace;
use crate::Result;

/// Device addresses of what the host says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepInputs {
    /// `[tokens]`; `u32::MAX` stands for the token that the slot last drew.
    pub tokens: Ptr,
    /// `[tokens]`.
    pub positions: Ptr,
    /// `[tokens]`.
    pub slots: Ptr,
    /// `[rows]`: residual row of each row of the head.
    pub rows: Ptr,
    /// `[rows]`: sampling settings.
    pub sampling: Ptr,
}

/// Everything that launches need.
#[derive(Debug)]
pub(super) struct Pass {
    pub model: &'static Model,
    pub stream: Arc<CudaStream>,
    pub kernels: Kernels,
    pub weights: DeviceWeights,
    pub cache: DeviceCache,
    pub workspace: Workspace,
}

impl Pass {
    /// From token ids to the residual after the last layer.
    pub(super) fn body(&self, inputs: &StepInputs, tokens: usize) -> Result<()> {
        self.embed(inputs, tokens)?;
        (0..self.model.spec.layers.len()).try_for_each(|layer| self.layer(inputs, layer, tokens))
    }

    pub(super) fn embed(&self, inputs: &StepInputs, tokens: usize) -> Result<()> {
        let params = params::Embed {
            tokens: inputs.tokens,
            slots: inputs.slots,
            sampled: self.workspace.sampled.ptr(),
            embedding: self.weights.ptr(Weight::Embedding, 0),
            residual: self.workspace.residual.ptr(),
        };
        self.kernels.launch(
            &self.stream,
            &self.model.schedule(tokens).embed,
            self.extent(tokens),
            &params,
        )
    }

    /// Every phase of a layer.
    pub(super) fn layer(&self, inputs: &StepInputs, layer: usize, tokens: usize) -> Result<()> {
        (0..LAYER_PHASES).try_for_each(|phase| self.phase(phase, inputs, layer, tokens))
    }

    /// One phase of a layer, by its place in [`Model::phases`].
    pub(super) fn phase(
        &self,
        phase: usize,
        inputs: &StepInputs,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        let schedule = self.model.schedule(tokens);
        match phase {
            0 => self.qkv(schedule, inputs, layer, tokens),
            1 => self.attention(schedule, inputs, layer, tokens),
            2 => self.attn_out(schedule, layer, tokens),
            3 => self.router(schedule, layer, tokens),
            4 => self.expert_up(schedule, layer, tokens),
            _ => self.expert_down(schedule, layer, tokens),
        }
    }

    fn extent(&self, tokens: usize) -> Extent {
        Extent { tokens: tokens as u32, slots: (tokens * self.model.spec.top_k) as u32 }
    }

    fn norm(&self, schedule: &Schedule, scale: Ptr, rows: Ptr, count: usize) -> Result<()> {
        let params = params::RmsNorm {
            residual: self.workspace.residual.ptr(),
            rows,
            scale,
            normed: self.workspace.normed.ptr(),
        };
        self.kernels.launch(&self.stream, &schedule.rmsnorm, self.extent(count), &params)
    }

    fn qkv(
        &self,
        schedule: &Schedule,
        inputs: &StepInputs,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        let norm_scale = self.weights.ptr(Weight::AttnNorm, layer);
        if !schedule.fuses_norm {
            self.norm(schedule, norm_scale, 0, tokens)?;
        }
        let (keys, values, page_table) = self.cache.layer(layer);
        let params = params::Qkv {
            residual: self.workspace.residual.ptr(),
            norm_scale,
            normed: self.workspace.normed.ptr(),
            weight: self.weights.ptr(Weight::Qkv, layer),
            bias: self.weights.ptr(Weight::QkvBias, layer),
            queries: self.workspace.queries.ptr(),
            keys,
            values,
            page_table,
            positions: inputs.positions,
            slots: inputs.slots,
            table_stride: self.cache.stride() as u32,
            tokens: tokens as u32,
        };
        self.kernels.launch(&self.stream, &schedule.qkv, self.extent(tokens), &params)
    }

    fn attention(
        &self,
        schedule: &Schedule,
        inputs: &StepInputs,
        layer: usize,
        tokens: usize,
    ) -> Result<()> {
        let (keys, values, page_table) = self.cache.layer(layer);
        let params = params::Attention {
            queries: self.workspace.queries.ptr(),
            keys,
            values,
            page_table,
            positions: inputs.positions,
            slots: inputs.slots,
            sinks: self.weights.ptr(Weight::Sinks, layer),
            heads: self.workspace.heads.ptr(),
            parts: self.workspace.parts.ptr(),
            tickets: self.workspace.tickets.ptr(),
            table_stride: self.cache.stride() as u32,
            tokens: tokens as u32,
        };
        let kernel = &schedule.attention[self.model.spec.layers[layer] as usize];
        self.kernels.launch(&self.stream, kernel, self.extent(tokens), &params)
    }

    fn attn_out(&self, schedule: &Schedule, layer: usize, tokens: usize) -> Result<()> {
        let params = params::AttnOut {
            heads: self.workspace.heads.ptr(),
            weight: self.weights.ptr(Weight::AttnOut, layer),
            bias: self.weights.ptr(Weight::AttnOutBias, layer),
            residual: self.workspace.residual.ptr(),
            tokens: tokens as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &schedule.attn_out, self.extent(tokens), &params)
    }

    fn router(&self, schedule: &Schedule, layer: usize, tokens: usize) -> Result<()> {
        let norm_scale = self.weights.ptr(Weight::MoeNorm, layer);
        if !schedule.fuses_norm {
            self.norm(schedule, norm_scale, 0, tokens)?;
        }
        let params = params::Router {
            residual: self.workspace.residual.ptr(),
            norm_scale,
            normed: self.workspace.normed.ptr(),
            weight: self.weights.ptr(Weight::Router, layer),
            bias: self.weights.ptr(Weight::RouterBias, layer),
            logits: self.workspace.router_logits.ptr(),
            tokens: tokens as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &schedule.router, self.extent(tokens), &params)
    }

    fn expert_up(&self, schedule: &Schedule, layer: usize, tokens: usize) -> Result<()> {
        let workspace = &self.workspace;
        if let Some(group) = &schedule.group {
            let params = params::Group {
                logits: workspace.router_logits.ptr(),
                slot_experts: workspace.slot_experts.ptr(),
                slot_weights: workspace.slot_weights.ptr(),
                sorted: workspace.sorted.ptr(),
                tiles: workspace.tiles.ptr(),
                tile_count: workspace.tile_count.ptr(),
                tokens: tokens as u32,
                unused: 0,
            };
            self.kernels.launch(&self.stream, group, self.extent(tokens), &params)?;
        }
        let params = params::ExpertUp {
            normed: workspace.normed.ptr(),
            logits: workspace.router_logits.ptr(),
            sorted: workspace.sorted.ptr(),
            tiles: workspace.tiles.ptr(),
            tile_count: workspace.tile_count.ptr(),
            weight: self.weights.ptr(Weight::GateUp, layer),
            bias: self.weights.ptr(Weight::GateUpBias, layer),
            hidden: workspace.hidden.ptr(),
            weight_scale: self.weights.scale(Weight::GateUp, layer),
            tokens: tokens as u32,
        };
        self.kernels.launch(&self.stream, &schedule.expert_up, self.extent(tokens), &params)
    }

    fn expert_down(&self, schedule: &Schedule, layer: usize, tokens: usize) -> Result<()> {
        let workspace = &self.workspace;
        let params = params::ExpertDown {
            hidden: workspace.hidden.ptr(),
            logits: workspace.router_logits.ptr(),
            sorted: workspace.sorted.ptr(),
            tiles: workspace.tiles.ptr(),
            tile_count: workspace.tile_count.ptr(),
            weight: self.weights.ptr(Weight::Down, layer),
            bias: self.weights.ptr(Weight::DownBias, layer),
            residual: workspace.residual.ptr(),
            slot_out: workspace.slot_out.ptr(),
            weight_scale: self.weights.scale(Weight::Down, layer),
            tokens: tokens as u32,
        };
        self.kernels.launch(&self.stream, &schedule.expert_down, self.extent(tokens), &params)?;
        let Some(combine) = &schedule.combine else { return Ok(()) };
        let params = params::Combine {
            slot_out: workspace.slot_out.ptr(),
            slot_weights: workspace.slot_weights.ptr(),
            residual: workspace.residual.ptr(),
        };
        self.kernels.launch(&self.stream, combine, self.extent(tokens), &params)
    }

    /// Logits of the head's rows `range`, into rows `0..range.len()` of the logits.
    pub(super) fn head(&self, inputs: &StepInputs, range: Range<usize>) -> Result<()> {
        let (workspace, count) = (&self.workspace, range.len());
        let schedule = self.model.schedule(count);
        let rows = inputs.rows + (range.start * size_of::<u32>()) as Ptr;
        self.norm(schedule, self.weights.ptr(Weight::FinalNorm, 0), rows, count)?;
        let params = params::Unembed {
            normed: workspace.normed.ptr(),
            weight: self.weights.ptr(Weight::Unembedding, 0),
            logits: workspace.logits.ptr(),
            rows: count as u32,
            unused: 0,
        };
        self.kernels.launch(&self.stream, &schedule.unembed, self.extent(count), &params)
    }

    /// Draws a token for each of the first `rows` rows of the logits.
    pub(super) fn sample(&self, inputs: &StepInputs, rows: usize) -> Result<()> {
        let params = params::Sample {
            logits: self.workspace.logits.ptr(),
            rows: inputs.sampling,
            candidates: self.workspace.candidates.ptr(),
            tickets: self.workspace.sample_tickets.ptr(),
            drawn: self.workspace.drawn.ptr(),
            sampled: self.workspace.sampled.ptr(),
        };
        self.kernels.launch(
            &self.stream,
            &self.model.schedule(rows).sample,
            self.extent(rows),
            &params,
        )
    }
}

/// Phases of one layer, A to F.
pub(super) const LAYER_PHASES: usize = 6;
