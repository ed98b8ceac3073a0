//! From a fixture's folder to a CPU backend.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ossmith::unstable::cpu::{CpuBackend, Executor, Isa};
use ossmith::{Checkpoint, CheckpointOptions, Conversion, DenseWeights};
use ossmith_plan::Model;
use ossmith_tests::bounds::F32;
use ossmith_tests::drive::{self, Feed, Rows};
use ossmith_tests::fixture::Fixture;

/// Compiles the model that a checkpoint folder describes.
pub(crate) fn compile(folder: &Path) -> &'static Model {
    let config = fs::read_to_string(folder.join("config.json")).expect("config.json");
    let generation = fs::read_to_string(folder.join("generation_config.json")).ok();
    let name = folder.file_name().expect("a folder").to_string_lossy();
    let spec = ossmith_codegen::spec::parse(&name, &config, generation.as_deref());
    let spec = spec.unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    ossmith_codegen::compile(spec).unwrap_or_else(|why| panic!("{}: {why}", folder.display()))
}

/// A fixture's model with its weights.
pub(crate) struct Loaded {
    /// The model.
    pub(crate) model: &'static Model,
    weights: Arc<Checkpoint>,
}

impl Loaded {
    /// Opens a checkpoint folder.
    pub(crate) fn open(folder: &Path) -> Loaded {
        Loaded::open_with(folder, CheckpointOptions::default())
    }

    /// Opens a checkpoint folder as `options` ask.
    pub(crate) fn open_with(folder: &Path, options: CheckpointOptions) -> Loaded {
        let model = compile(folder);
        let weights = Checkpoint::open_with(folder, model, options);
        Loaded::new(model, weights.unwrap_or_else(|why| panic!("{}: {why}", folder.display())))
    }

    /// A model with weights that the caller opened.
    pub(crate) fn new(model: &'static Model, weights: Checkpoint) -> Loaded {
        Loaded { model, weights: Arc::new(weights) }
    }

    /// The weights.
    pub(crate) fn weights(&self) -> &Arc<Checkpoint> {
        &self.weights
    }

    /// What conversions of the weights that were read so far did to them.
    pub(crate) fn conversions(&self) -> Vec<Conversion> {
        self.weights.conversions()
    }

    /// Feeds sequences to a fresh CPU backend.
    pub(crate) fn run(&self, isa: Isa, feeds: &[Feed<'_>]) -> Vec<Rows> {
        self.run_dense(isa, DenseWeights::Bf16, feeds).0
    }

    /// The same with dense weights in a form; also what rounding them has changed.
    pub(crate) fn run_dense(
        &self,
        isa: Isa,
        dense: DenseWeights,
        feeds: &[Feed<'_>],
    ) -> (Vec<Rows>, Option<f64>) {
        let executor = Executor::with_dense(self.model, self.weights.clone(), isa, None, dense);
        let executor = executor.expect("executor");
        let error = executor.dense_error();
        let mut backend =
            CpuBackend::with_executor(executor, drive::limits(feeds)).expect("backend");
        (drive::run(&mut backend, feeds).expect("a step within its limits"), error)
    }
}

/// The fastest instruction set of this machine.
pub(crate) fn fastest() -> Isa {
    *Isa::available().last().expect("scalar code runs anywhere")
}

/// Holds the rows of a prompt's first `tokens` tokens against what is stored.
#[track_caller]
pub(crate) fn expect_rows(
    what: &str,
    fixture: &Fixture,
    model: &Model,
    rows: &Rows,
    tokens: usize,
) {
    let spec = &model.spec;
    let stored = fixture.stored(tokens);
    let logits = fixture.stored_rows(&rows.logits, spec.vocab, tokens);
    let expected = &fixture.expected.f32("logits")[..stored * spec.vocab];
    F32.assert_logits(&format!("{what}: logits"), expected, &logits, spec.vocab);
    assert_eq!(rows.layers.len(), spec.layers.len(), "{what}: tapped layers");
    for (layer, captured) in rows.layers.iter().enumerate() {
        let ossmith_plan::Layer { experts, top_k, .. } = spec.layers[layer];
        let residual = fixture.stored_rows(&captured.residual, spec.hidden, tokens);
        let expected = &fixture.expected.f32(&format!("resid.{layer}"))[..stored * spec.hidden];
        F32.assert_close(&format!("{what}: residual after layer {layer}"), expected, &residual);

        let logits = fixture.stored_rows(&captured.router_logits, experts, tokens);
        let expected = &fixture.expected.f32(&format!("router_logits.{layer}"))[..stored * experts];
        F32.assert_close(&format!("{what}: router logits of layer {layer}"), expected, &logits);

        let chosen = fixture.stored_rows(&captured.router_indices, top_k, tokens);
        let expected = fixture.expected.ids(&format!("router_indices.{layer}"));
        // Fixtures keep the last chosen expert well apart from the first rejected one, but not the chosen from
        // each other: their order may differ by a rounding, their set may not.
        let sets = |ids: &[u32]| -> Vec<Vec<u32>> {
            let sorted = ids.chunks(top_k).map(|row| {
                let mut row = row.to_vec();
                row.sort_unstable();
                row
            });
            sorted.collect()
        };
        let expected = sets(&expected[..stored * top_k]);
        assert_eq!(sets(&chosen), expected, "{what}: experts of layer {layer}");
    }
}

/// Bits of a whole run, for "the same, however it was fed".
#[track_caller]
pub(crate) fn expect_same_bits(what: &str, a: &Rows, b: &Rows) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(&a.logits) == bits(&b.logits), "{what}: logits differ in their bits");
    for (layer, (a, b)) in a.layers.iter().zip(&b.layers).enumerate() {
        let same = bits(&a.residual) == bits(&b.residual) && a.router_indices == b.router_indices;
        assert!(same, "{what}: layer {layer} differs in its bits");
    }
}
