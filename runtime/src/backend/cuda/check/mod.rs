//! Every kernel against the CPU executor: the device runs one phase, the executor runs that phase's nodes on the
//! device's own inputs, and the outputs are compared. Shapes are the edges: one token, a full decode step, one more,
//! tiles that do not fill; positions around the window's edge and past YaRN's original context.

mod device_values;
mod graph_values;
mod head;
mod next_norm;
mod phases;
mod sampler;
mod sampler_cases;
mod step_layout;

use std::collections::BTreeMap;
use std::sync::Arc;

use ossmith_plan::{Graph, Model, ModelSpec};

use super::CudaBackend;
use crate::backend::{Limits, PAGE_TOKENS, Progress};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};
use phases::Bench;
pub use sampler::SAMPLER_ROWS;

/// Tokens of the steps that are checked: each schedule's fewest and most, and tiles that do not fill.
const TOKENS: [usize; 12] = [1, 2, 7, 8, 9, 64, 65, 192, 193, 512, 513, 1100];
/// First positions of the steps that are checked.
const STARTS: [usize; 3] = [0, 120, 4090];
/// bf16 activations and outputs differ from the executor's fp32 by about 2e-3; a wrong element shows above this.
const TOLERANCE: f64 = 6e-3;

/// What was found of one kernel on one kind of layer, over all shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckLine {
    /// Kernel name.
    pub kernel: String,
    /// `start`, `sliding`, `full`, `head` or `sampler`.
    pub part: &'static str,
    /// Shapes compared.
    pub shapes: usize,
    /// Largest relative L2 error (for the sampler: share of samples that differ).
    pub worst: f64,
    /// Where that was.
    pub at: String,
    /// What is accepted.
    pub tolerance: f64,
}

impl CheckLine {
    /// Whether the kernel agrees with the executor.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.worst <= self.tolerance
    }
}

/// Checks all kernels of a model on a device, with synthetic weights of its shapes in one layer of each kind. The sampler
/// is checked with at least `sampler_rows` rows of each combination of settings.
///
/// # Errors
/// Those of [`CudaBackend::new`] and of the executor; a kernel that is wrong is a line, not an error.
pub fn check(
    model: &'static Model,
    ordinal: usize,
    seed: u64,
    sampler_rows: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<CheckLine>> {
    let all_layers = model.spec.layers.len();
    let model = with_one_layer_of_each_class(model);
    let limits = limits(&model.spec);
    let weights = Arc::new(Checkpoint::synthetic(model, seed));
    let backend = CudaBackend::new(model, weights.clone(), limits, ordinal, progress)?;
    let mut bench = Bench::new(backend, weights, all_layers, seed)?;
    let mut lines = Lines::default();
    let shapes = shapes(model.spec.context);
    for (done, &(tokens, start)) in (1..).zip(&shapes) {
        let shape = format!("{tokens} tokens from position {start}");
        bench.step(tokens, start, &mut |kernel, part, error| {
            lines.add(kernel, part, &shape, error)
        })?;
        progress(Progress { stage: "check kernels", done, total: shapes.len() as u64 });
    }
    bench.check_sampler(seed, sampler_rows, &mut |kernel, rows, error| {
        lines.add(kernel, sampler::PART, rows, error)
    })?;
    Ok(lines.0.into_values().collect())
}

/// Tokens and first position of every step that is checked and that `context` holds: at least one.
fn shapes(context: usize) -> Vec<(usize, usize)> {
    let all = STARTS.into_iter().flat_map(|start| TOKENS.map(|tokens| (tokens, start)));
    all.filter(|&(tokens, start)| start + tokens <= context).collect()
}

/// The same kernels over one layer of each class alone.
fn with_one_layer_of_each_class(model: &'static Model) -> &'static Model {
    let layers = model.spec.layer_classes();
    let classes: Vec<usize> = (0..layers.len()).collect();
    let spec = ModelSpec { layers: layers.leak(), ..model.spec };
    let graph = Graph { classes: classes.leak(), ..model.graph };
    Box::leak(Box::new(Model { spec, graph, ..*model }))
}

fn limits(spec: &ModelSpec) -> Limits {
    let positions = (STARTS[STARTS.len() - 1] + TOKENS[TOKENS.len() - 1]).min(spec.context);
    Limits {
        max_sequences: step_layout::SEQUENCES,
        max_step_tokens: TOKENS[TOKENS.len() - 1],
        pages: step_layout::SEQUENCES * positions.div_ceil(PAGE_TOKENS),
    }
}

/// Lines by kernel and part, each with its worst shape.
#[derive(Default)]
struct Lines(BTreeMap<(String, &'static str), CheckLine>);

impl Lines {
    fn add(&mut self, kernel: &str, part: &'static str, shape: &str, error: f64) {
        let fresh = || CheckLine {
            kernel: kernel.to_owned(),
            part,
            shapes: 0,
            worst: 0.0,
            at: shape.to_owned(),
            tolerance: if part == sampler::PART { 0.0 } else { TOLERANCE },
        };
        let line = self.0.entry((kernel.to_owned(), part)).or_insert_with(fresh);
        line.shapes += 1;
        // A NaN is worse than any number.
        if error.is_nan() || error > line.worst {
            (line.worst, line.at) =
                (if error.is_nan() { f64::INFINITY } else { error }, shape.to_owned());
        }
    }
}

/// `|actual - expected| / |expected|` over all elements; infinite where one is not a number.
fn relative_error(actual: &[f32], expected: &[f32]) -> Result<f64> {
    if actual.len() != expected.len() {
        let problem = format!("{} values were compared with {}", actual.len(), expected.len());
        return Err(Error::Internal(problem));
    }
    let square = |x: f64| x * x;
    let difference: f64 =
        actual.iter().zip(expected).map(|(&a, &e)| square(f64::from(a) - f64::from(e))).sum();
    let size: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    let error = (difference / size.max(1e-30)).sqrt();
    Ok(if error.is_finite() { error } else { f64::INFINITY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_contexts_are_checked_too() {
        assert_eq!(shapes(1), [(1, 0)]);
        assert_eq!(shapes(130).last(), Some(&(9, 120)));
        assert_eq!(shapes(131_072).len(), TOKENS.len() * STARTS.len());
    }
}
