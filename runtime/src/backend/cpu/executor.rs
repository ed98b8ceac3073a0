//! Interprets graph nodes: one function for each [`Op`], over a buffer for each value.
//!
//! It runs any slice of a graph's nodes, so that a fused GPU phase can be checked against exactly the nodes that
//! it claims to compute.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ossmith_plan::{Layer, Local, Model, ModelSpec, Node, Op, Shard, ShardError, Value, Weight};
use rayon::prelude::*;

use super::adapters;
use super::attention::Attention;
use super::batch::Batch;
use super::cache::Cache;
use super::distinct::Distinct;
use super::gemm::{self, Gemm};
use super::isa::Isa;
use super::q8::{self, DenseQ8};
use super::values::Values;
use super::weights::{self, Rows, Weights};
use super::{scalar, simd};
use crate::backend::DenseWeights;
use crate::priority::run_promptly;
use crate::{Checkpoint, Error, Result};

/// A model with its weights and threads, or one rank's part of it, ready to run nodes.
pub struct Executor {
    /// The model as its graph computes it: whole, or a rank's part.
    model: &'static Model,
    /// The whole model, whose shapes the weights have.
    whole: &'static Model,
    /// The dimensions that the graph computes.
    spec: ModelSpec,
    local: Local,
    /// How ranks add what each computed; `None` for the only one.
    sums: Option<Arc<dyn RankSums>>,
    weights: Arc<Checkpoint>,
    isa: Isa,
    pool: rayon::ThreadPool,
    /// The unembedding's distinct rows, if many repeat.
    distinct: Option<Distinct>,
    /// The dense matrices, if they are kept in 8 bits.
    q8: Option<DenseQ8>,
}

impl Executor {
    /// Checks all weights' sizes and starts `threads` threads (all threads of the machine if `None`).
    ///
    /// # Errors
    /// [`Error::Internal`] if a tensor is not the model's or a width is not a multiple
    /// of 32; [`Error::Device`] if threads cannot be started.
    pub fn new(
        model: &'static Model,
        weights: Arc<Checkpoint>,
        isa: Isa,
        threads: Option<usize>,
    ) -> Result<Executor> {
        Executor::with_dense(model, weights, isa, threads, DenseWeights::Bf16)
    }

    /// The same, with dense matrices in another form than the checkpoint's.
    ///
    /// # Errors
    /// As [`Executor::new`]; [`Error::Weight`] for a value that is not finite where it must be quantised.
    pub fn with_dense(
        model: &'static Model,
        weights: Arc<Checkpoint>,
        isa: Isa,
        threads: Option<usize>,
        dense: DenseWeights,
    ) -> Result<Executor> {
        Executor::of_rank(model, Shard::WHOLE, weights, isa, threads, None, dense)
    }

    /// The same for one rank of a whole model, which reads its parts of the weights and adds by `sums`.
    pub(in crate::backend) fn of_rank(
        whole: &'static Model,
        shard: Shard,
        weights: Arc<Checkpoint>,
        isa: Isa,
        threads: Option<usize>,
        sums: Option<Arc<dyn RankSums>>,
        dense: DenseWeights,
    ) -> Result<Executor> {
        let refused = |why: ShardError| Error::invalid_option("ranks", why.to_string());
        let local = shard.local(&whole.spec).map_err(refused)?;
        let model = whole.of_rank(shard).map_err(refused)?;
        let spec = model.rank_spec();
        for (name, width) in
            [("hidden", spec.hidden), ("inter", spec.inter), ("head_dim", spec.head_dim)]
        {
            if width == 0 || !width.is_multiple_of(weights::BLOCK) {
                return Err(Error::Internal(format!("{name} {width} is not a multiple of 32")));
            }
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(move |index| match shard {
                Shard::WHOLE => format!("ossmith-cpu-{index}"),
                Shard { rank, .. } => format!("ossmith-cpu-{rank}-{index}"),
            })
            .start_handler(|_| run_promptly())
            .build()
            .map_err(|error| Error::device("start CPU threads", error))?;
        let q8 = match dense {
            DenseWeights::Bf16 => None,
            DenseWeights::Q8 => Some(pool.install(|| DenseQ8::new(whole, &weights, isa))?),
        };
        weights::check(whole, &weights, |weight| q8.is_some() && q8::is_dense(weight))?;
        let stored = Weights { model: whole, local: &local, source: &weights, layer: 0 };
        let distinct = match q8 {
            Some(_) => None,
            None => match stored.matrix(Weight::Unembedding)?[..] {
                [Rows::Bf16(rows)] => Distinct::new(&rows),
                _ => None,
            },
        };
        Ok(Executor { model, whole, spec, local, sums, weights, isa, pool, distinct, q8 })
    }

    /// The model as its graph computes it: whole, or a rank's part.
    #[must_use]
    pub fn model(&self) -> &'static Model {
        self.model
    }

    /// An executor of the same whole model with other weights, which are checked as in [`Executor::new`].
    pub(super) fn with_weights(&self, weights: Arc<Checkpoint>) -> Result<Executor> {
        let dense = if self.q8.is_some() { DenseWeights::Q8 } else { DenseWeights::Bf16 };
        Executor::with_dense(self.whole, weights, self.isa, Some(self.threads()), dense)
    }

    /// Its weights, with those of other files in their place; see [`Checkpoint::updated`].
    pub(super) fn updated(&self, path: &Path) -> Result<(Checkpoint, usize)> {
        self.weights.updated(path, self.whole)
    }

    /// The rows of the unembedding that it computes.
    pub(in crate::backend) fn vocab_range(&self) -> Range<usize> {
        self.local.vocab.clone()
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// By how much dense matrices were changed when they were quantised, as the root mean square of the change over that of
    /// the values; `None` if they are as they were stored.
    #[must_use]
    pub fn dense_error(&self) -> Option<f64> {
        self.q8.as_ref().map(DenseQ8::relative_error)
    }

    /// Threads in use.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on the executor's threads; nodes that run inside it start without switching threads.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Runs `nodes` in order with the weights of `layer` (ignored by `start` and `head`). `values` has one row per
    /// token of `batch`; `head` nodes need no batch and take any rows.
    ///
    /// # Errors
    /// [`Error::Internal`] if a node reads a value that was not written or `values` and `batch` differ in rows.
    pub fn run(
        &self,
        nodes: &[Node],
        layer: usize,
        values: &mut Values,
        batch: &Batch,
        cache: &mut Cache,
    ) -> Result<()> {
        if layer >= self.model.spec.layers.len() {
            return Err(Error::Internal(format!("the model has no layer {layer}")));
        }
        values.set_layer(layer);
        self.install(|| {
            nodes.iter().try_for_each(|node| self.node(node, layer, values, batch, cache))
        })
    }

    fn node(
        &self,
        node: &Node,
        layer: usize,
        values: &mut Values,
        batch: &Batch,
        cache: &mut Cache,
    ) -> Result<()> {
        let on_rows = matches!(node.op, Op::Rope | Op::CacheWrite | Op::Attention);
        if on_rows && values.rows() != batch.rows.len() {
            return Err(Error::Internal(format!(
                "values have {} rows, the batch {}",
                values.rows(),
                batch.rows.len()
            )));
        }
        let (model, local) = (self.whole, &self.local);
        let weights = Weights { model, local, source: &self.weights, layer };
        match node.op {
            Op::Embed => self.embed(node, &weights, values),
            Op::RmsNorm => self.rms_norm(node, &weights, values),
            Op::Linear => {
                self.linear(node, &weights, values)?;
                adapters::linear(node, layer, values, batch)
            }
            Op::Rope => self.rope(node, values, batch),
            Op::CacheWrite => self.cache_write(node, layer, values, batch, cache),
            Op::Attention => self.attention(node, &weights, values, batch, cache),
            Op::AllReduce => self.all_reduce(node, values),
            Op::AddTo => self.add_to(node, values),
            Op::TopK => self.top_k(node, layer, values),
            Op::ExpertLinear => {
                self.expert_linear(node, &weights, values)?;
                adapters::expert_linear(node, layer, values, batch)
            }
            Op::SwiGlu => self.swiglu(node, values),
            Op::Combine => self.combine(node, layer, values),
        }
    }

    /// Replaces a value by its sum over all ranks; the only rank has the whole sum.
    fn all_reduce(&self, node: &Node, values: &mut Values) -> Result<()> {
        let Some(sums) = &self.sums else { return Ok(()) };
        let output = output_of(node)?;
        let mut out = values.take_written_f32(output)?;
        let summed = sums.sum(self.model.shard.rank, &mut out);
        values.put_f32(output, out);
        summed
    }

    fn embed(&self, node: &Node, weights: &Weights<'_>, values: &mut Values) -> Result<()> {
        let (table, output) = (matrix_of(node)?, output_of(node)?);
        let mut out = values.take_f32(output);
        let width = values.row_elements(output);
        for (&token, row) in values.u32(input_of(node)?)?.iter().zip(out.chunks_exact_mut(width)) {
            row.copy_from_slice(&weights.vector(table, token as usize * width, width)?);
        }
        values.put_f32(output, out);
        Ok(())
    }

    fn rms_norm(&self, node: &Node, weights: &Weights<'_>, values: &mut Values) -> Result<()> {
        let output = output_of(node)?;
        let width = values.row_elements(output);
        let scale = weights.vector(matrix_of(node)?, 0, width)?;
        let mut out = values.take_f32(output);
        let x = values.f32(input_of(node)?)?;
        let eps = self.model.spec.rms_eps;
        rows(&mut out, width, |row, out| {
            simd::rms_norm(self.isa, &x[row * width..(row + 1) * width], &scale, eps, out);
        });
        values.put_f32(output, out);
        Ok(())
    }

    fn linear(&self, node: &Node, weights: &Weights<'_>, values: &mut Values) -> Result<()> {
        let output = output_of(node)?;
        let width = values.row_elements(output);
        let pairs: Vec<(u32, u32)> = (0..values.rows() as u32).map(|row| (row, row)).collect();
        let weight = matrix_of(node)?;
        if let Some(q8) = &self.q8
            && let Some(matrix) = q8.matrix(weight, weights.layer)
        {
            let rows = Rows::Q8(matrix.rows().ok_or_else(|| malformed(node))?);
            if let (Weight::Unembedding, Some(distinct)) = (weight, &q8.distinct) {
                return self.linear_distinct(node, distinct, rows, pairs, values);
            }
            let bias = match node.weights.get(1) {
                Some(&bias) => weights.vector(bias, 0, rows.rows())?,
                None => Vec::new(),
            };
            let gemms = [Gemm { weights: rows, bias, column: 0, pairs }];
            return self.gemm(node, &gemms, width, values);
        }
        if let (Weight::Unembedding, Some(distinct)) = (weight, &self.distinct) {
            let rows = Rows::Bf16(distinct.rows().ok_or_else(|| malformed(node))?);
            return self.linear_distinct(node, distinct, rows, pairs, values);
        }
        let (mut gemms, mut column) = (Vec::new(), 0);
        for part in weights.matrix(weight)? {
            let bias = match node.weights.get(1) {
                Some(&bias) => weights.vector(bias, column, part.rows())?,
                None => Vec::new(),
            };
            gemms.push(Gemm { weights: part, bias, column, pairs: pairs.clone() });
            column += part.rows();
        }
        self.gemm(node, &gemms, width, values)
    }

    /// A GEMM without bias over the distinct rows of its matrix.
    fn linear_distinct(
        &self,
        node: &Node,
        distinct: &Distinct,
        matrix: Rows<'_>,
        pairs: Vec<(u32, u32)>,
        values: &mut Values,
    ) -> Result<()> {
        let output = output_of(node)?;
        let width = values.row_elements(output);
        let count = matrix.rows();
        let gemms = [Gemm { weights: matrix, bias: Vec::new(), column: 0, pairs }];
        let mut out = values.take_f32(output);
        let mut scratch = std::mem::take(&mut values.scratch);
        let mut results = std::mem::take(&mut scratch.distinct);
        results.resize(values.rows() * count, 0.0);
        let x = values.f32(input_of(node)?)?;
        gemm::run(self.isa, &gemms, x, &mut results, count, &mut scratch);
        rows(&mut out, width, |row, out| {
            distinct.scatter(&results[row * count..(row + 1) * count], out);
        });
        scratch.distinct = results;
        values.scratch = scratch;
        values.put_f32(output, out);
        Ok(())
    }

    fn expert_linear(&self, node: &Node, weights: &Weights<'_>, values: &mut Values) -> Result<()> {
        let (&[input, chosen], &[matrix, bias]) = (node.inputs, node.weights) else {
            return Err(malformed(node));
        };
        let output = output_of(node)?;
        let top_k = values.row_elements(chosen);
        let width = values.row_elements(output) / top_k;
        let experts = weights.experts(matrix)?;
        let k = self.model.graph.weight(matrix, weights.layer).shape[2];
        // A route is a token at one of its chosen experts. The input has one row per token, or one per route.
        let per_route = values.row_elements(input) == top_k * k;
        let mut pairs = vec![Vec::new(); self.model.spec.layers[weights.layer].experts];
        for (route, &expert) in values.u32(chosen)?.iter().enumerate() {
            let row = if per_route { route } else { route / top_k };
            let of_expert = pairs.get_mut(expert as usize).ok_or_else(|| {
                Error::Internal(format!("expert {expert} of value {chosen:?} does not exist"))
            })?;
            of_expert.push((row as u32, route as u32));
        }
        let mut gemms = Vec::new();
        for (expert, pairs) in pairs.into_iter().enumerate().filter(|(_, p)| !p.is_empty()) {
            let bias = weights.vector(bias, expert * width, width)?;
            gemms.push(Gemm { weights: experts.matrix(expert)?, bias, column: 0, pairs });
        }
        self.gemm(node, &gemms, width, values)
    }

    fn gemm(
        &self,
        node: &Node,
        gemms: &[Gemm<'_>],
        width: usize,
        values: &mut Values,
    ) -> Result<()> {
        let output = output_of(node)?;
        let mut out = values.take_f32(output);
        let mut scratch = std::mem::take(&mut values.scratch);
        let x = values.f32(input_of(node)?)?;
        gemm::run(self.isa, gemms, x, &mut out, width, &mut scratch);
        values.scratch = scratch;
        values.put_f32(output, out);
        Ok(())
    }

    fn rope(&self, node: &Node, values: &mut Values, batch: &Batch) -> Result<()> {
        let spec = &self.spec;
        let output = output_of(node)?;
        let mut out = values.take_written_f32(output)?;
        let half = spec.head_dim / 2;
        rows(&mut out, spec.qkv_width(), |row, out| {
            let angles = row * half..(row + 1) * half;
            let (cos, sin) = (&batch.cos[angles.clone()], &batch.sin[angles]);
            for head in out[..spec.q_width() + spec.kv_width()].chunks_exact_mut(spec.head_dim) {
                scalar::rope(head, cos, sin);
            }
        });
        values.put_f32(output, out);
        Ok(())
    }

    fn cache_write(
        &self,
        node: &Node,
        layer: usize,
        values: &Values,
        batch: &Batch,
        cache: &mut Cache,
    ) -> Result<()> {
        let spec = &self.spec;
        let qkv = values.f32(input_of(node)?)?.chunks_exact(spec.qkv_width());
        for (token, row) in batch.rows.iter().zip(qkv) {
            let (keys, values) = row[spec.q_width()..].split_at(spec.kv_width());
            let sequence = &batch.sequences[token.sequence];
            cache.write(layer, sequence, token.position, keys, values);
        }
        Ok(())
    }

    fn attention(
        &self,
        node: &Node,
        weights: &Weights<'_>,
        values: &mut Values,
        batch: &Batch,
        cache: &Cache,
    ) -> Result<()> {
        let (spec, output) = (&self.spec, output_of(node)?);
        let sinks = weights.vector(matrix_of(node)?, 0, spec.q_heads)?;
        let mut out = values.take_f32(output);
        let qkv = values.f32(input_of(node)?)?;
        let (isa, layer) = (self.isa, weights.layer);
        Attention { isa, spec, layer, sinks: &sinks, cache }.run(batch, qkv, &mut out);
        values.put_f32(output, out);
        Ok(())
    }

    fn top_k(&self, node: &Node, layer: usize, values: &mut Values) -> Result<()> {
        let &[ids_value, weights_value] = node.outputs else { return Err(malformed(node)) };
        let Layer { experts, top_k, .. } = self.model.spec.layers[layer];
        let mut ids = vec![0; values.rows() * top_k];
        let mut chosen = values.take_f32(weights_value);
        let logits = values.f32(input_of(node)?)?.chunks_exact(experts);
        let outputs = ids.chunks_exact_mut(top_k).zip(chosen.chunks_exact_mut(top_k));
        for (logits, (ids, weights)) in logits.zip(outputs) {
            scalar::top_k(logits, ids, weights);
        }
        values.put_f32(weights_value, chosen);
        values.set_u32(ids_value, &ids)
    }

    fn swiglu(&self, node: &Node, values: &mut Values) -> Result<()> {
        let (spec, output) = (&self.spec, output_of(node)?);
        let inter = spec.inter;
        let mut out = values.take_f32(output);
        let x = values.f32(input_of(node)?)?;
        rows(&mut out, inter, |row, out| {
            let x = &x[2 * row * inter..2 * (row + 1) * inter];
            scalar::swiglu(x, spec.swiglu_limit, spec.swiglu_alpha, out);
        });
        values.put_f32(output, out);
        Ok(())
    }

    fn add_to(&self, node: &Node, values: &mut Values) -> Result<()> {
        let output = output_of(node)?;
        let width = values.row_elements(output);
        let mut out = values.take_written_f32(output)?;
        let x = values.f32(input_of(node)?)?;
        rows(&mut out, width, |row, out| scalar::add_to(out, &x[row * width..(row + 1) * width]));
        values.put_f32(output, out);
        Ok(())
    }

    fn combine(&self, node: &Node, layer: usize, values: &mut Values) -> Result<()> {
        let (&[input, weights], output) = (node.inputs, output_of(node)?) else {
            return Err(malformed(node));
        };
        let (top_k, width) = (self.model.spec.layers[layer].top_k, self.model.spec.hidden);
        let mut out = values.take_f32(output);
        let (x, weights) = (values.f32(input)?, values.f32(weights)?);
        rows(&mut out, width, |row, out| {
            let x = &x[row * top_k * width..(row + 1) * top_k * width];
            scalar::combine(x, &weights[row * top_k..(row + 1) * top_k], out);
        });
        values.put_f32(output, out);
        Ok(())
    }
}

/// Adds a value over all ranks: each calls it with its part, in the same order of calls, and gets the sum, whose bits are
/// the same for all of them and in every run.
pub(in crate::backend) trait RankSums: Send + Sync {
    /// Replaces `part` by the sum over all ranks, in their order.
    fn sum(&self, rank: usize, part: &mut [f32]) -> Result<()>;
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor")
            .field("model", &self.model.spec.name)
            .field("isa", &self.isa)
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

/// Calls `work` with each row and its index, on all threads if there are enough rows.
fn rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    const SERIAL_ROWS: usize = 8;
    if out.len() <= SERIAL_ROWS * width {
        out.chunks_exact_mut(width).enumerate().for_each(|(row, out)| work(row, out));
    } else {
        out.par_chunks_exact_mut(width).enumerate().for_each(|(row, out)| work(row, out));
    }
}

fn input_of(node: &Node) -> Result<Value> {
    node.inputs.first().copied().ok_or_else(|| malformed(node))
}

fn output_of(node: &Node) -> Result<Value> {
    node.outputs.first().copied().ok_or_else(|| malformed(node))
}

fn matrix_of(node: &Node) -> Result<Weight> {
    node.weights.first().copied().ok_or_else(|| malformed(node))
}

fn malformed(node: &Node) -> Error {
    Error::Internal(format!("graph node {node:?} lacks an operand"))
}
