//! One step, phase by phase, on the device and in the executor. What follows the layers is in [`super::head`].

use std::sync::Arc;

use ossmith_plan::{LayerKind, Model, Value};

use super::super::CudaBackend;
use super::super::forward::StepInputs;
use super::super::memory::Buffer;
use super::super::phase::LayerPhase;
use super::device_values::{LayerSnapshot, poison, read_bf16, read_f32, read_rows};
use super::head::HEAD_ROWS;
use super::next_norm::{self, NextNorm};
use super::relative_error;
use super::step_layout::{Layout, Random, SEQUENCES};
use crate::Result;
use crate::backend::cpu::{Batch, Cache, Executor, Isa, Values};
use crate::backend::{Input, LogitRows, Sequence, Step};
use crate::checkpoint::Checkpoint;

/// Receives (kernel, part, error).
pub(super) type Report<'a> = &'a mut dyn FnMut(&str, &'static str, f64);

/// The device and the executor over the same weights.
pub(super) struct Bench {
    pub(super) device: CudaBackend,
    pub(super) model: &'static Model,
    pub(super) executor: Executor,
    pub(super) cache: Cache,
    /// Where the words of the step lie.
    step_inputs: StepInputs,
    random: Random,
}

impl Bench {
    pub(super) fn new(
        mut device: CudaBackend,
        weights: Arc<Checkpoint>,
        seed: u64,
    ) -> Result<Bench> {
        let model = device.pass.model;
        // More rows than a step's: the head is asked for all of them at once.
        let logits = HEAD_ROWS * model.spec.vocab * size_of::<f32>();
        device.pass.workspace.logits = Buffer::zeroed(&device.context, logits, "logits to check")?;
        Ok(Bench {
            executor: Executor::new(model, weights, Isa::detect()?, None)?,
            cache: Cache::new(model, &device.limits)?,
            random: Random(seed),
            step_inputs: device.inputs,
            model,
            device,
        })
    }

    /// Checks every phase of every layer, the head and the sampler for a step of `tokens` tokens.
    pub(super) fn step(&mut self, tokens: usize, start: usize, report: Report<'_>) -> Result<()> {
        let layout = Layout::new(self.model, tokens, start, &mut self.random);
        for layer in 0..self.model.spec.layers.len() {
            self.fill_history(&layout, layer)?;
            let batch = self.stage(&layout.sequences())?;
            self.randomise_residual(tokens, layer)?;
            for phase in LayerPhase::ALL {
                self.phase(phase, layer, &batch, report)?;
            }
        }
        self.check_head(&layout, report)
    }

    /// Sends a step's words and lays it out for the executor.
    fn stage(&mut self, sequences: &[Sequence<'_>]) -> Result<Batch> {
        let mut staged = self.device.staged()?;
        let cache = &mut self.device.pass.cache;
        let step = Step { sequences, capture_activations: false };
        staged.staging.fill(&step, |slot, pages| cache.update(slot, pages));
        self.device.send(&staged.staging)?;
        self.device.synchronize()?;
        self.step_inputs = staged.staging.inputs(&self.device.inputs);
        self.device.free.push(staged);
        Batch::new(self.model, &self.device.limits, sequences, &[None; SEQUENCES])
    }

    /// A random residual, as the writer before this layer would leave it.
    fn randomise_residual(&mut self, tokens: usize, layer: usize) -> Result<()> {
        let elements = tokens * self.model.spec.hidden;
        let residual: Vec<f32> = (0..elements).map(|_| 2.0 * self.random.normal()).collect();
        self.device.pass.workspace.residual.write(0, &residual)?;
        next_norm::write(&self.device.pass, &residual, layer)
    }

    /// Keys and values of the positions before a step, made by the device from random rows and copied to the executor.
    fn fill_history(&mut self, layout: &Layout, layer: usize) -> Result<()> {
        let chunk = self.device.limits.max_step_tokens;
        for slot in (0..SEQUENCES).filter(|&slot| layout.counts[slot] > 0) {
            let end = layout.starts[slot];
            let sliding = self.model.spec.layers[layer].kind() == LayerKind::Sliding;
            let begin = if sliding { end.saturating_sub(self.model.spec.max_window()) } else { 0 };
            for first in (begin..end).step_by(chunk) {
                let tokens = vec![0; chunk.min(end - first)];
                let sequence = Sequence {
                    seq_slot: slot,
                    start: first,
                    input: Input::Tokens(&tokens),
                    pages: &layout.pages[slot],
                    sample: None,
                    logits: LogitRows::None,
                };
                let batch = self.stage(&[sequence])?;
                self.randomise_residual(tokens.len(), layer)?;
                self.launch(LayerPhase::Qkv, layer, tokens.len())?;
                self.copy_cache(&batch, layer)?;
            }
        }
        Ok(())
    }

    fn launch(&self, phase: LayerPhase, layer: usize, tokens: usize) -> Result<()> {
        self.device.pass.phase(phase, &self.step_inputs, layer, tokens)?;
        self.device.synchronize()
    }

    /// Copies the keys and values that a step wrote from the device's cache to the executor's; returns them.
    fn copy_cache(&mut self, batch: &Batch, layer: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        let spec = &self.model.spec;
        let device = &self.device.pass.cache;
        let snapshot = LayerSnapshot::take(device, layer, spec.kv_heads, spec.head_dim)?;
        let (mut all_keys, mut all_values) = (Vec::new(), Vec::new());
        for row in &batch.rows {
            let sequence = &batch.sequences[row.sequence];
            let page = device.page_of(layer, sequence.seq_slot, &sequence.pages, row.position);
            let (keys, values) = snapshot.position(page, row.position);
            self.cache.write(layer, sequence, row.position, &keys, &values);
            all_keys.extend(keys);
            all_values.extend(values);
        }
        Ok((all_keys, all_values))
    }

    fn phase(
        &mut self,
        phase: LayerPhase,
        layer: usize,
        batch: &Batch,
        report: Report<'_>,
    ) -> Result<()> {
        let tokens = batch.rows.len();
        let mut values = Values::new(self.model, tokens);
        let before = self.inputs(phase, layer, &mut values, tokens)?;
        self.poison_outputs(phase, layer, tokens)?;
        self.launch(phase, layer, tokens)?;
        let actual = self.outputs(phase, layer, batch, &before)?;
        let nodes = phase.plan(self.model).nodes;
        self.executor.run(nodes, layer, &mut values, batch, &mut self.cache)?;
        let expected = self.expected(phase, &values, &before, tokens)?;
        if phase == LayerPhase::Qkv {
            // The executor wrote its own keys and values; attention is checked on the device's.
            self.copy_cache(batch, layer)?;
        }
        let part = match self.model.spec.layers[layer].kind() {
            LayerKind::Sliding => "sliding",
            LayerKind::Full => "full",
        };
        let mut error = relative_error(&actual, &expected)?;
        if self.is_small(tokens) {
            error = error.max(match phase {
                LayerPhase::AttnOut => {
                    next_norm::error(&self.device.pass, tokens, layer, NextNorm::Experts)?
                }
                LayerPhase::ExpertDown => {
                    next_norm::error(&self.device.pass, tokens, layer + 1, NextNorm::Attention)?
                }
                _ => 0.0,
            });
        } else if phase == LayerPhase::ExpertDown {
            error = error.max(next_norm::normed_error(&self.device.pass, tokens, layer + 1)?);
        }
        report(self.kernel_of(phase, layer, tokens), part, error);
        Ok(())
    }

    fn is_small(&self, tokens: usize) -> bool {
        self.model.schedule(tokens).is_small()
    }

    /// Gives the executor the device's inputs of a phase; returns the residual before it.
    fn inputs(
        &self,
        phase: LayerPhase,
        layer: usize,
        values: &mut Values,
        tokens: usize,
    ) -> Result<Vec<f32>> {
        let (spec, workspace) = (&self.model.spec, &self.device.pass.workspace);
        let residual = read_f32(&workspace.residual, tokens * spec.hidden)?;
        values.set_f32(Value::Residual, &residual)?;
        let normed = || match self.is_small(tokens) {
            true => next_norm::normed(&self.device.pass, tokens),
            false => read_rows(&self.device.pass, &workspace.normed, tokens * spec.hidden, tokens),
        };
        match phase {
            LayerPhase::Attention => {
                let queries = read_bf16(&workspace.queries, tokens * spec.q_width())?;
                let mut qkv = vec![0.0; tokens * spec.qkv_width()];
                for (row, queries) in
                    qkv.chunks_mut(spec.qkv_width()).zip(queries.chunks(spec.q_width()))
                {
                    row[..spec.q_width()].copy_from_slice(queries);
                }
                values.set_f32(Value::Qkv, &qkv)?;
            }
            LayerPhase::AttnOut => values.set_f32(
                Value::AttnHeads,
                &read_rows(
                    &self.device.pass,
                    &workspace.attn_output,
                    tokens * spec.q_width(),
                    tokens,
                )?,
            )?,
            LayerPhase::ExpertUp => {
                values.set_f32(Value::MoeInput, &normed()?)?;
                values.set_f32(Value::RouterLogits, &self.logits(tokens, layer)?)?;
            }
            LayerPhase::ExpertDown => {
                let elements = tokens * spec.max_top_k() * spec.inter;
                let hidden = read_rows(&self.device.pass, &workspace.expert_act, elements, tokens)?;
                values.set_f32(Value::ExpertHidden, &hidden)?;
                let (ids, weights) = self.choices(&self.logits(tokens, layer)?, tokens)?;
                values.set_u32(Value::ExpertIds, &ids)?;
                values.set_f32(Value::ExpertWeights, &weights)?;
            }
            LayerPhase::Qkv | LayerPhase::Router => {}
        }
        Ok(residual)
    }

    /// The router's logits that the device's experts choose from.
    fn logits(&self, tokens: usize, layer: usize) -> Result<Vec<f32>> {
        match self.is_small(tokens) {
            true => next_norm::logits(&self.device.pass, tokens, layer),
            false => read_f32(
                &self.device.pass.workspace.router_logits,
                tokens * self.model.spec.max_experts(),
            ),
        }
    }

    /// The router's choice by the executor.
    fn choices(&self, logits: &[f32], tokens: usize) -> Result<(Vec<u32>, Vec<f32>)> {
        let mut values = Values::new(self.model, tokens);
        values.set_f32(Value::RouterLogits, logits)?;
        let top_k = &LayerPhase::ExpertUp.plan(self.model).nodes[..1];
        let mut unused = Cache::new(self.model, &self.device.limits)?;
        self.executor.run(top_k, 0, &mut values, &Batch::default(), &mut unused)?;
        Ok((values.u32(Value::ExpertIds)?.to_vec(), values.f32(Value::ExpertWeights)?.to_vec()))
    }

    fn poison_outputs(&self, phase: LayerPhase, layer: usize, tokens: usize) -> Result<()> {
        let workspace = &self.device.pass.workspace;
        if self.is_small(tokens) {
            match phase {
                LayerPhase::AttnOut => {
                    next_norm::clear_logits(&self.device.pass, layer)?;
                    poison(&workspace.deferred_rows)
                        .and_then(|()| poison(&workspace.moe_square_sums))?;
                }
                LayerPhase::Router => return Ok(()),
                LayerPhase::ExpertDown => poison(&workspace.deferred_rows)
                    .and_then(|()| poison(&workspace.attn_square_sums))?,
                _ => {}
            }
        }
        match phase {
            LayerPhase::Qkv => poison(&workspace.queries),
            LayerPhase::Attention => poison(&workspace.attn_output),
            LayerPhase::AttnOut => Ok(()),
            LayerPhase::Router => {
                poison(&workspace.normed).and_then(|()| poison(&workspace.router_logits))
            }
            LayerPhase::ExpertUp => poison(&workspace.expert_act),
            LayerPhase::ExpertDown => {
                poison(&workspace.normed).and_then(|()| poison(&workspace.route_out))
            }
        }
    }

    fn outputs(
        &mut self,
        phase: LayerPhase,
        layer: usize,
        batch: &Batch,
        before: &[f32],
    ) -> Result<Vec<f32>> {
        let spec = self.model.spec;
        let tokens = batch.rows.len();
        let workspace = &self.device.pass.workspace;
        match phase {
            LayerPhase::Qkv => {
                let queries = read_bf16(&workspace.queries, tokens * spec.q_width())?;
                let (keys, values) = self.copy_cache(batch, layer)?;
                Ok([queries, keys, values].concat())
            }
            LayerPhase::Attention => read_rows(
                &self.device.pass,
                &workspace.attn_output,
                tokens * spec.q_width(),
                tokens,
            ),
            LayerPhase::Router => {
                let mut all = match self.is_small(tokens) {
                    true => Vec::new(),
                    false => read_rows(
                        &self.device.pass,
                        &workspace.normed,
                        tokens * spec.hidden,
                        tokens,
                    )?,
                };
                all.extend(self.logits(tokens, layer)?);
                Ok(all)
            }
            LayerPhase::ExpertUp => read_rows(
                &self.device.pass,
                &workspace.expert_act,
                tokens * spec.max_top_k() * spec.inter,
                tokens,
            ),
            LayerPhase::AttnOut | LayerPhase::ExpertDown => {
                let after = read_f32(&workspace.residual, tokens * spec.hidden)?;
                Ok(after.iter().zip(before).map(|(after, before)| after - before).collect())
            }
        }
    }

    fn expected(
        &self,
        phase: LayerPhase,
        values: &Values,
        before: &[f32],
        tokens: usize,
    ) -> Result<Vec<f32>> {
        let spec = &self.model.spec;
        match phase {
            LayerPhase::Qkv => {
                let rows = values.f32(Value::Qkv)?.chunks(spec.qkv_width());
                let (q, kv) = (spec.q_width(), spec.kv_width());
                let part = |range: std::ops::Range<usize>| {
                    rows.clone()
                        .flat_map(move |row| row[range.clone()].to_vec())
                        .collect::<Vec<_>>()
                };
                Ok([part(0..q), part(q..q + kv), part(q + kv..q + 2 * kv)].concat())
            }
            LayerPhase::Attention => Ok(values.f32(Value::AttnHeads)?.to_vec()),
            LayerPhase::Router if self.is_small(tokens) => {
                Ok(values.f32(Value::RouterLogits)?.to_vec())
            }
            LayerPhase::Router => {
                Ok([values.f32(Value::MoeInput)?, values.f32(Value::RouterLogits)?].concat())
            }
            LayerPhase::ExpertUp => Ok(values.f32(Value::ExpertHidden)?.to_vec()),
            LayerPhase::AttnOut | LayerPhase::ExpertDown => {
                debug_assert_eq!(before.len(), tokens * spec.hidden);
                let after = values.f32(Value::Residual)?;
                Ok(after.iter().zip(before).map(|(after, before)| after - before).collect())
            }
        }
    }

    fn kernel_of(&self, phase: LayerPhase, layer: usize, tokens: usize) -> &'static str {
        let schedule = self.model.schedule(tokens);
        let info = match phase {
            LayerPhase::Qkv => schedule.qkv_rope.info,
            LayerPhase::Attention => {
                let kind = self.model.spec.layers[layer].kind();
                let tiled = schedule.large.filter(|_| self.step_inputs.tiled.is_some());
                tiled.map_or(schedule.attention_of(kind).info, |l| l.attention_of(kind).info)
            }
            LayerPhase::AttnOut => schedule.attn_out_residual.info,
            LayerPhase::Router => {
                schedule.large.map_or(schedule.attn_out_residual.info, |large| large.router.info)
            }
            LayerPhase::ExpertUp => schedule.moe_up_swiglu.info,
            LayerPhase::ExpertDown => schedule.moe_down.info,
        };
        info.name
    }
}
