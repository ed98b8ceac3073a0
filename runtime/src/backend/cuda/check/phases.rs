//! One step, phase by phase, on the device and in the executor: the device runs a phase's kernels, the executor its nodes,
//! and every value that leaves the phase is compared. What follows the layers is in [`super::head`].

use ossmith_plan::{Auxiliary, LayerKind, Model, Node, Op, Phase, PhaseKernel, Value};

use super::super::CudaBackend;
use super::super::device::has_clusters;
use super::super::forward::{StepInputs, StepRun};
use super::super::memory::Buffer;
use super::super::sampling_state::SamplingState;
use super::CheckOptions;
use super::device_values::{LayerSnapshot, read_f32};
use super::next_norm::{self, NextNorm};
use super::step_layout::{HEAD_ROWS, Layout, Random, SAMPLER_ROWS, SEQUENCES};
use super::verdict::Difference;
use crate::Result;
use crate::backend::cpu::{Batch, Cache, Executor, Values};
use crate::backend::{Input, Limits, LogitRows, Sequence, Step};

/// Receives (kernel, part, difference).
pub(super) type Report<'a> = &'a mut dyn FnMut(&str, &'static str, Difference);

/// What phases before the layers are filed under.
const START: &str = "start";

/// The device and the executor over the same weights.
pub(super) struct Bench {
    pub(super) device: CudaBackend,
    pub(super) model: &'static Model,
    pub(super) executor: Executor,
    pub(super) cache: Cache,
    /// Where the words of the step lie.
    step_inputs: StepInputs,
    pub(super) random: Random,
}

impl Bench {
    /// `layers` are those of the whole model, of which this one has a few.
    pub(super) fn new(
        mut device: CudaBackend,
        executor: Executor,
        layers: usize,
        seed: u64,
    ) -> Result<Bench> {
        let model = device.pass.model;
        // More rows than a step's: the head computes all of them at once.
        let logits = HEAD_ROWS * model.spec.vocab * size_of::<f32>();
        device.pass.workspace.logits = Buffer::zeroed(&device.context, logits, "logits to check")?;
        if let Some(exchange) = &mut device.pass.exchange {
            let columns = HEAD_ROWS * model.rank_spec().vocab * size_of::<f32>();
            exchange.buffers.logits =
                Buffer::zeroed(&device.context, columns, "a rank's logits to check")?;
        }
        let words = SAMPLER_ROWS * size_of::<u32>();
        let tokens = || Buffer::zeroed(&device.context, words, "sampled tokens to check");
        (device.pass.workspace.sampled, device.pass.workspace.last_sampled) =
            (tokens()?, tokens()?);
        let limits = Limits { max_sequences: SAMPLER_ROWS, ..device.limits };
        let clusters = has_clusters(device.info.compute);
        device.pass.sampling = SamplingState::new(&device.context, model, &limits, clusters)?;
        // The embedding clears the sums of every layer that it was made for.
        let sums = device.pass.logit_sums_offset(1) * layers;
        device.pass.workspace.router_logit_sums =
            Buffer::zeroed(&device.context, sums, "router logit sums to check")?;
        // Page-locked memory is taken before a kernel of a rank may wait for another.
        let staged = device.staged()?;
        device.free.push(staged);
        Ok(Bench {
            executor,
            cache: Cache::new(model, &device.limits)?,
            random: Random(seed),
            step_inputs: device.inputs,
            model,
            device,
        })
    }

    /// Checks every phase before the layers, of every layer, the head and the sampler for a step of `tokens` tokens.
    /// Phases that `options` does not pick are launched for those that read their values, and not checked.
    pub(super) fn step(
        &mut self,
        tokens: usize,
        start: usize,
        options: &CheckOptions,
        report: Report<'_>,
    ) -> Result<()> {
        let layout = Layout::new(self.model, tokens, start, &mut self.random);
        let batch = self.stage(&layout.sequences())?;
        for phase in self.run(tokens).schedule.start {
            if !options.picks_phase(phase) {
                self.launch(phase, &self.run(tokens), 0)?;
                continue;
            }
            self.phase(phase, 0, START, &layout, &batch, report)?;
        }
        for layer in 0..self.model.spec.layers.len() {
            let part = match self.model.spec.layers[layer].kind() {
                LayerKind::Sliding => "sliding",
                LayerKind::Full => "full",
            };
            if options.picks_adapters() {
                self.adapted_layer(&layout, layer, part, report)?;
            }
            self.fill_history(&layout, layer)?;
            let batch = self.stage(&layout.sequences())?;
            self.randomise_residual(tokens, layer)?;
            for phase in self.device.pass.phases_of(&self.run(tokens), layer) {
                if options.picks_phase(phase) {
                    self.phase(phase, layer, part, &layout, &batch, report)?;
                    continue;
                }
                self.launch(phase, &self.run(tokens), layer)?;
                if phase.computes(Op::CacheWrite) {
                    self.copy_cache(&batch, layer)?;
                }
            }
        }
        self.check_head(&layout, options, report)
    }

    /// The step whose words were staged last.
    pub(super) fn run(&self, tokens: usize) -> StepRun {
        self.device.pass.step(&self.step_inputs, tokens)
    }

    /// Sends a step's words and lays it out for the executor.
    pub(super) fn stage(&mut self, sequences: &[Sequence<'_>]) -> Result<Batch> {
        let mut staged = self.device.staged()?;
        let tables = &mut self.device.pass.cache.tables;
        let step = Step { sequences, capture_activations: false };
        tables.place(&step)?;
        staged.staging.fill(&step, tables);
        let adapters = &self.device.pass.adapters;
        staged.staging.put_adapters(&step, |slot| adapters.place_of(slot));
        self.device.send(&staged.staging)?;
        self.device.synchronize()?;
        self.step_inputs = staged.staging.inputs(&self.device.inputs);
        self.device.free.push(staged);
        let batch = Batch::new(self.model, &self.device.limits, sequences, &[None; SEQUENCES])?;
        self.cache.place(&batch)?;
        Ok(batch)
    }

    /// A random residual, as the writer before this layer would leave it.
    pub(super) fn randomise_residual(&mut self, tokens: usize, layer: usize) -> Result<()> {
        let elements = tokens * self.model.spec.hidden;
        let residual: Vec<f32> = (0..elements).map(|_| 2.0 * self.random.normal()).collect();
        self.device.pass.workspace.residual.write(0, &residual)?;
        next_norm::write(&self.device.pass, &residual, layer)
    }

    /// Keys and values of the positions before a step, made by the device from random rows and copied to the executor.
    pub(super) fn fill_history(&mut self, layout: &Layout, layer: usize) -> Result<()> {
        let chunk = self.device.limits.max_step_tokens;
        for slot in (0..SEQUENCES).filter(|&slot| layout.counts[slot] > 0) {
            let end = layout.starts[slot];
            let window = self.model.spec.layers[layer].window;
            let begin = window.map_or(0, |window| end.saturating_sub(window));
            for first in (begin..end).step_by(chunk) {
                let tokens = vec![0; chunk.min(end - first)];
                let sequence = Sequence {
                    seq_slot: slot,
                    start: first,
                    input: Input::Tokens(&tokens),
                    pages: &layout.pages[slot],
                    sample: None,
                    prompt_report: None,
                    logits: LogitRows::None,
                };
                let batch = self.stage(&[sequence])?;
                self.randomise_residual(tokens.len(), layer)?;
                let run = self.run(tokens.len());
                let phases = self.device.pass.phases_of(&run, layer).iter();
                for phase in phases.filter(|phase| phase.computes(Op::CacheWrite)) {
                    self.launch(phase, &run, layer)?;
                }
                self.copy_cache(&batch, layer)?;
            }
        }
        Ok(())
    }

    pub(super) fn launch(&self, phase: &Phase, run: &StepRun, layer: usize) -> Result<()> {
        self.device.pass.phase(phase, run, layer)?;
        self.device.synchronize()
    }

    /// Copies the keys and values that a step wrote from the device's cache to the executor's; returns them.
    pub(super) fn copy_cache(
        &mut self,
        batch: &Batch,
        layer: usize,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let spec = &self.model.rank_spec();
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

    /// Checks one phase.
    pub(super) fn phase(
        &mut self,
        phase: &'static Phase,
        layer: usize,
        part: &'static str,
        layout: &Layout,
        batch: &Batch,
        report: Report<'_>,
    ) -> Result<()> {
        let tokens = batch.rows.len();
        let run = self.run(tokens);
        let residual = &self.device.pass.workspace.residual;
        let before = read_f32(residual, tokens * self.model.spec.hidden)?;
        let mut values = Values::new(self.model, tokens);
        values.set_layer(layer);
        for value in inputs_of(phase.nodes) {
            self.give(value, layer, &run, layout, &mut values)?;
        }
        let leaving: Vec<Value> = outputs_of(phase.nodes)
            .into_iter()
            .filter(|&value| self.device.is_seen(value, &run))
            // What is added over ranks leaves a kernel as part of the residual.
            .filter(|&value| !(is_delta(value) && phase.computes(Op::AllReduce)))
            .collect();
        for &value in &leaving {
            self.device.poison_value(value, phase, layer, &run)?;
        }
        self.device.poison_handed_on(phase)?;
        self.launch(phase, &run, layer)?;

        let mut actual = Vec::new();
        for &value in &leaving {
            actual.push(match value {
                Value::Qkv => self.queries_keys_values(batch, layer)?,
                _ => self.device.value(value, layer, &run)?,
            });
        }
        self.executor.run(phase.nodes, layer, &mut values, batch, &mut self.cache)?;
        if let Some(logits) = leaving.iter().position(|&value| value == Value::RouterLogits) {
            // Two experts whose logits are nearly equal are no fault of the choice.
            let (ids, _) = self.choices(&actual[logits], layer, tokens)?;
            values.set_u32(Value::ExpertIds, &ids)?;
        }
        let mut found = Difference::default();
        for (&value, actual) in leaving.iter().zip(&actual) {
            found = found.max(self.difference(value, phase, &values, &before, actual)?);
        }
        if phase.computes(Op::CacheWrite) {
            // The executor wrote its own keys and values; attention is checked on the device's.
            self.copy_cache(batch, layer)?;
        }
        if phase.auxiliary == Some(Auxiliary::Permute) {
            found = found.max(self.device.permutation_difference(tokens, layer)?);
        }
        found = found.max(self.handed_on_difference(phase, tokens, layer)?);
        report(self.kernel_of(phase), part, found);
        Ok(())
    }

    /// Gives the executor the device's value.
    fn give(
        &self,
        value: Value,
        layer: usize,
        run: &StepRun,
        layout: &Layout,
        values: &mut Values,
    ) -> Result<()> {
        match value {
            Value::Tokens => values.set_u32(value, &layout.tokens),
            Value::ExpertIds | Value::ExpertWeights if run.schedule.defers_norms() => {
                // Each block of a decode step chooses for itself; the executor does so from the same logits.
                let logits = self.device.value(Value::RouterLogits, layer, run)?;
                let (ids, weights) = self.choices(&logits, layer, run.tokens)?;
                match value {
                    Value::ExpertIds => values.set_u32(value, &ids),
                    _ => values.set_f32(value, &weights),
                }
            }
            Value::ExpertIds => {
                values.set_u32(value, &self.device.route_experts(run.tokens, layer)?)
            }
            _ => values.set_f32(value, &self.device.value(value, layer, run)?),
        }
    }

    /// The router's choice by the executor.
    fn choices(&self, logits: &[f32], layer: usize, tokens: usize) -> Result<(Vec<u32>, Vec<f32>)> {
        let mut values = Values::new(self.model, tokens);
        values.set_layer(layer);
        values.set_f32(Value::RouterLogits, logits)?;
        let nodes = self.model.graph.layer.iter();
        let top_k: Vec<Node> = nodes.filter(|node| node.op == Op::TopK).copied().collect();
        let mut unused = Cache::new(self.model, &self.device.limits)?;
        self.executor.run(&top_k, layer, &mut values, &Batch::default(), &mut unused)?;
        Ok((values.u32(Value::ExpertIds)?.to_vec(), values.f32(Value::ExpertWeights)?.to_vec()))
    }

    /// Queries, and the keys and values that the step wrote to the cache.
    fn queries_keys_values(&mut self, batch: &Batch, layer: usize) -> Result<Vec<f32>> {
        let queries = self.device.queries(batch.rows.len())?;
        let (keys, values) = self.copy_cache(batch, layer)?;
        Ok([queries, keys, values].concat())
    }

    /// Difference of a value that the device made from the executor's.
    fn difference(
        &self,
        value: Value,
        phase: &Phase,
        values: &Values,
        before: &[f32],
        actual: &[f32],
    ) -> Result<Difference> {
        let spec = &self.model.rank_spec();
        let since = |after: &[f32]| -> Vec<f32> {
            after.iter().zip(before).map(|(after, before)| after - before).collect()
        };
        match value {
            Value::Qkv => {
                let rows = values.f32(Value::Qkv)?.chunks(spec.qkv_width());
                let (q, kv) = (spec.q_width(), spec.kv_width());
                let part = |range: std::ops::Range<usize>| {
                    rows.clone()
                        .flat_map(move |row| row[range.clone()].to_vec())
                        .collect::<Vec<_>>()
                };
                let expected = [part(0..q), part(q..q + kv), part(q + kv..q + 2 * kv)].concat();
                Difference::of(actual, &expected)
            }
            // What was added shows better than the sum.
            Value::Residual if phase.computes(Op::AddTo) => {
                Difference::of(&since(actual), &since(values.f32(value)?))
            }
            Value::ExpertIds => {
                let actual: Vec<u32> = actual.iter().map(|&id| id as u32).collect();
                Difference::of_ids(&actual, values.u32(value)?)
            }
            _ => Difference::of(actual, values.f32(value)?),
        }
    }

    /// Difference of what a phase hands on to the next norm beside its own values.
    fn handed_on_difference(
        &self,
        phase: &Phase,
        tokens: usize,
        layer: usize,
    ) -> Result<Difference> {
        let pass = &self.device.pass;
        let of = |kernel: &PhaseKernel| match kernel {
            PhaseKernel::Embed(_) => next_norm::difference(pass, tokens, 0, NextNorm::Attention),
            PhaseKernel::AttnOutResidualRouter(_) => {
                next_norm::difference(pass, tokens, layer, NextNorm::Experts)
            }
            PhaseKernel::MoeDownResidual(_) => {
                next_norm::difference(pass, tokens, layer + 1, NextNorm::Attention)
            }
            PhaseKernel::MoeUnpermuteRmsNorm(_) => {
                next_norm::normed_difference(pass, tokens, layer + 1)
            }
            PhaseKernel::AllReduceRmsNorm(_) if !phase.next.is_empty() => {
                next_norm::normed_difference(pass, tokens, layer + 1)
            }
            _ => Ok(Difference::default()),
        };
        let mut all = phase.kernels.iter().map(of);
        all.try_fold(Difference::default(), |found, one| Ok(found.max(one?)))
    }

    /// The kernel that a phase is filed under: of attention the tiles', if there were any.
    fn kernel_of(&self, phase: &Phase) -> &'static str {
        let tiled = self.step_inputs.tiled.is_some();
        let launched =
            |kernel: &&PhaseKernel| tiled || !matches!(kernel, PhaseKernel::AttentionTiled(_));
        phase.kernels.iter().find(launched).map_or(phase.name, |kernel| kernel.info().name)
    }
}

fn is_delta(value: Value) -> bool {
    matches!(value, Value::AttnDelta | Value::MoeDelta)
}

/// Values that nodes read and did not make themselves.
fn inputs_of(nodes: &[Node]) -> Vec<Value> {
    let mut made: Vec<Value> = Vec::new();
    let mut inputs = Vec::new();
    for node in nodes {
        // What is updated in place is read too.
        let updated = node.outputs.iter().filter(|_| node.op == Op::AddTo);
        for value in node.inputs.iter().chain(updated) {
            if !made.contains(value) && !inputs.contains(value) {
                inputs.push(*value);
            }
        }
        made.extend(node.outputs);
    }
    inputs
}

/// Values that nodes make.
fn outputs_of(nodes: &[Node]) -> Vec<Value> {
    let mut outputs: Vec<Value> = Vec::new();
    for value in nodes.iter().flat_map(|node| node.outputs) {
        if !outputs.contains(value) {
            outputs.push(*value);
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A phase's inputs, and the values that it makes.
    type Sides = (&'static str, Vec<Value>, Vec<Value>);

    #[test]
    fn phases_read_what_they_did_not_make() {
        use Value as V;
        let model = ossmith_models::NANO;
        let sides = |schedule: &ossmith_plan::Schedule| -> Vec<Sides> {
            let phases = schedule.layers[0].iter();
            phases.map(|p| (p.name, inputs_of(p.nodes), outputs_of(p.nodes))).collect()
        };
        let decode = sides(model.schedule(1));
        assert_eq!(decode[0], ("rmsnorm_qkv_rope", vec![V::Residual], vec![V::AttnInput, V::Qkv]));
        assert_eq!(
            decode[2],
            (
                "attn_out_residual",
                vec![V::AttnHeads, V::Residual],
                vec![V::AttnDelta, V::Residual, V::MoeInput, V::RouterLogits]
            )
        );
        let prefill = sides(model.schedule(usize::MAX));
        let unpermute = prefill.last().expect("a phase");
        assert_eq!(unpermute.1, [V::ExpertOut, V::ExpertWeights, V::Residual]);
        assert_eq!(unpermute.2, [V::MoeDelta, V::Residual]);
    }
}
