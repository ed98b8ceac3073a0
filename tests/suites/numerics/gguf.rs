//! GGUF files of every element type, made by a generator that shares no code with the loader, against a folder in Hugging
//! Face's layout with the same values (same bits), and against the float64 reference (bounds that the type's coarseness sets).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use ossmith::unstable::export::ExportOptions;
use ossmith::{Checkpoint, DenseWeights, Gguf, ModelSpec};
use ossmith_plan::Model;
use ossmith_tests::bounds::distance;
use ossmith_tests::drive::Feed;
use ossmith_tests::fixture::Fixture;
use ossmith_tests::{not_checked, reference, root};

use crate::model::{Loaded, expect_rows, expect_same_bits, fastest};

/// Element types of dense weights, and the largest relative L2 distance of logits from those of the weights before they were
/// encoded: about twice what most seeds give. The values themselves are held to their bits.
const TYPES: [(&str, f64); 15] = [
    ("f32", 2e-4),
    ("bf16", 2e-4),
    // Only bf16 values below f16's normal range are rounded.
    ("f16", 5e-3),
    ("q8_0", 0.04),
    ("q6_K", 0.2),
    ("q5_1", 0.3),
    ("q5_0", 0.3),
    ("q5_K", 0.3),
    ("q4_1", 0.6),
    ("q4_0", 0.6),
    ("q4_K", 0.6),
    ("iq4_nl", 0.6),
    ("iq4_xs", 0.6),
    ("q3_K", 1.1),
    ("q2_K", 1.7),
];
/// Fixed, since a coarse type may choose another expert, and how often depends on the seed.
const SEED: u64 = 7;
/// Rows of 256 elements, the largest block.
const WIDE: [&str; 4] = ["--set", "hidden=256", "--set", "layers=2"];

#[test]
fn each_type_means_what_its_twin_says() {
    let Some(made) = Made::new(&WIDE, &[]) else { return };
    let fixture = &made.fixture;
    let whole = Feed::at_once(&fixture.tokens);
    for (kind, bound) in TYPES {
        let what = format!("{kind} with seed {}", made.seed);
        let file = made.out(&format!("{kind}.gguf"));
        let (from_file, twin) = (open(&file), Loaded::open(&made.out(kind)));
        // GGUF has no generation_config.json, which names more tokens that end a turn.
        let ModelSpec { name, stop_tokens, .. } = from_file.model.spec;
        let expected = ModelSpec { name, stop_tokens, ..twin.model.spec };
        assert_eq!(from_file.model.spec, expected, "{what}: the metadata");
        let rows = from_file.run(fastest(), &[whole]).remove(0);
        expect_same_bits(&what, &rows, &twin.run(fastest(), &[whole]).remove(0));
        let vocab = from_file.model.spec.vocab;
        let logits = fixture.stored_rows(&rows.logits, vocab, fixture.tokens.len());
        let found = distance(fixture.expected.f32("logits"), &logits, vocab, 0.02);
        assert!(found.finite && found.rel_l2 < bound, "{what}: {found:?}, bound {bound}");
        let (in_8_bits, error) = from_file.run_dense(fastest(), DenseWeights::Q8, &[whole]);
        let apart = distance(&rows.logits, &in_8_bits[0].logits, vocab, 0.02);
        // q8_0 stays as it is stored, and bf16 alone is rounded; all other types are rounded once more.
        assert_eq!(error == Some(0.0), kind == "q8_0", "{what} in 8 bits: {error:?}");
        // Coarser types have moved the router's logits, so that experts are closer to each other than the fixture keeps them.
        let near = apart.rel_l2 < 0.08 || !matches!(kind, "f32" | "bf16" | "f16" | "q8_0");
        assert!(apart.finite && near, "{what} in 8 bits: {apart:?}");
        if matches!(kind, "f32" | "bf16") {
            expect_rows(&what, fixture, from_file.model, &rows, fixture.tokens.len());
        }
    }
}

#[test]
fn parts_and_other_types_of_experts() {
    let split = ["--types", "bf16", "--parts", "3"];
    let Some(made) = Made::new(&[], &split) else { return };
    let whole = Feed::at_once(&made.fixture.tokens);
    let twin = Loaded::open(&made.out("bf16")).run(fastest(), &[whole]).remove(0);
    // Any part names the model.
    for part in 1..=3 {
        let file = made.out(&format!("bf16-{part:05}-of-00003.gguf"));
        assert_eq!(Gguf::open(&file).expect("all parts").name(), "bf16");
        expect_same_bits("three parts", &open(&file).run(fastest(), &[whole]).remove(0), &twin);
    }
    // MXFP4 values in 16 bits are found again exactly.
    made.convert(&["--types", "bf16", "--experts", "f16"]);
    let exact = open(&made.out("bf16.gguf")).run(fastest(), &[whole]).remove(0);
    expect_same_bits("experts in f16", &exact, &twin);
    let folder = exported(&made, "bf16.gguf");
    let read = Loaded::open(&folder).run(fastest(), &[whole]).remove(0);
    expect_same_bits("exported in the published layout", &read, &twin);
    made.convert(&["--types", "bf16", "--experts", "q8_0"]);
    let rounded = open(&made.out("bf16.gguf")).run(fastest(), &[whole]).remove(0);
    let vocab = open(&made.out("bf16.gguf")).model.spec.vocab;
    let found = distance(&twin.logits, &rounded.logits, vocab, 0.02);
    // Values near a code's bound are rounded to another one now and then.
    assert!(found.finite && found.rel_l2 < 0.1, "experts in q8_0: {found:?}");
}

/// A fixture, and its conversions.
struct Made {
    seed: u64,
    fixture: Fixture,
    scratch: tempfile::TempDir,
    python: std::path::PathBuf,
}

impl Made {
    /// `None` if there is no Python to make it.
    fn new(shape: &[&str], conversion: &[&str]) -> Option<Made> {
        let Some(python) = reference::python() else {
            not_checked("GGUF files", "no python3 with numpy; `cargo xtask test` installs it");
            return None;
        };
        let scratch = tempfile::tempdir().expect("temporary folder");
        let seed = SEED;
        let folder = scratch.path().join("reference");
        let fixture = reference::make(&python, "tiny", seed, shape, &folder);
        let made = Made { seed, fixture, scratch, python };
        made.convert(conversion);
        Some(made)
    }

    fn convert(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.python);
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("OMP_NUM_THREADS", "1");
        command.arg(root().join("tests/fixtures/make_gguf.py")).arg(&self.fixture.folder);
        command.args(["--seed", &self.seed.to_string(), "--out"]).arg(self.out("")).args(arguments);
        let output = command.output().expect("python3 runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "seed {}: {errors}", self.seed);
    }

    fn out(&self, name: &str) -> std::path::PathBuf {
        self.scratch.path().join("gguf").join(name)
    }
}

/// A file in the published layout.
fn exported(made: &Made, file: &str) -> PathBuf {
    let file = made.out(file);
    let config = Gguf::open(&file).and_then(|gguf| gguf.config()).expect("metadata");
    let (folder, loaded) = (file.with_extension("exported"), open(&file));
    let files = [("config.json".to_owned(), config.into_bytes())];
    let options = ExportOptions { folder: &folder, files: &files, shard_bytes: 1 << 30 };
    let spec = &loaded.model.spec;
    let export = loaded.weights().export(spec, &options, &mut |_| ControlFlow::Continue(()));
    assert!(export.expect("an export").complete);
    folder
}

fn open(file: &Path) -> Loaded {
    let gguf = Gguf::open(file).unwrap_or_else(|why| panic!("{why}"));
    let config = gguf.config().unwrap_or_else(|why| panic!("{why}"));
    let spec = ossmith_codegen::spec::parse(&gguf.name(), &config, None);
    let spec = spec.unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    let model: &'static Model =
        ossmith_codegen::compile(spec).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    let weights = Checkpoint::from_gguf(gguf, model).unwrap_or_else(|why| panic!("{why}"));
    Loaded::new(model, weights)
}
