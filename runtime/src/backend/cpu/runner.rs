//! A model's layers and head over a batch, by one executor with its cache: the whole model, or one rank's part of it.

use std::sync::Arc;

use ossmith_plan::Value;

use super::batch::Batch;
use super::cache::Cache;
use super::executor::Executor;
use super::values::Values;
use crate::Result;
use crate::backend::{LayerActivations, Limits};

/// An executor with its cache and buffers.
#[derive(Debug)]
pub(super) struct Runner {
    executor: Arc<Executor>,
    pub(super) cache: Cache,
    values: Values,
    head: Values,
}

impl Runner {
    /// A runner with an empty cache.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no memory for the cache.
    pub(super) fn new(executor: Arc<Executor>, limits: &Limits) -> Result<Runner> {
        let model = executor.model();
        Ok(Runner {
            cache: Cache::new(model, limits)?,
            values: Values::new(model, 0),
            head: Values::new(model, 0),
            executor,
        })
    }

    /// Goes on with another executor of the same model.
    pub(super) fn replace(&mut self, executor: Arc<Executor>) {
        self.executor = executor;
    }

    /// Runs all layers over a batch.
    pub(super) fn forward(
        &mut self,
        batch: &Batch,
        capture: bool,
    ) -> Result<Vec<LayerActivations>> {
        let Runner { executor, cache, values, .. } = self;
        cache.place(batch)?;
        let graph = &executor.model().graph;
        values.reset(batch.rows.len());
        values.set_u32(Value::Tokens, &batch.tokens)?;
        executor.run(graph.start, 0, values, batch, cache)?;
        let mut captured = Vec::new();
        for layer in 0..executor.model().spec.layers.len() {
            executor.run(graph.layer, layer, values, batch, cache)?;
            if capture {
                captured.push(LayerActivations {
                    residual: values.f32(Value::Residual)?.to_vec(),
                    router_indices: values.u32(Value::ExpertIds)?.to_vec(),
                    router_logits: values.f32(Value::RouterLogits)?.to_vec(),
                });
            }
        }
        Ok(captured)
    }

    /// The logits of some rows of the batch that ran last, `[rows, vocab]`; a rank has its part of the vocabulary.
    pub(super) fn head(&mut self, batch: &Batch, rows: &[usize]) -> Result<&[f32]> {
        let hidden = self.executor.model().spec.hidden;
        let residual = self.values.f32(Value::Residual)?;
        let mut inputs = Vec::with_capacity(rows.len() * hidden);
        for row in rows {
            inputs.extend_from_slice(&residual[row * hidden..(row + 1) * hidden]);
        }
        self.head.reset(rows.len());
        self.head.set_f32(Value::Residual, &inputs)?;
        let nodes = self.executor.model().graph.head;
        self.executor.run(nodes, 0, &mut self.head, batch, &mut self.cache)?;
        self.head.f32(Value::Logits)
    }
}
