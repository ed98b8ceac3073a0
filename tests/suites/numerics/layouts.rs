//! The layouts that published checkpoints come in, written by `fixtures/make_layouts.py` while the test runs, against the
//! float64 model's results of the values as they are stored.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use ossmith::unstable::export::ExportOptions;
use ossmith::{CheckpointOptions, ExpertStorage};
use ossmith_tests::bounds::{F32, Profile, rel_l2};
use ossmith_tests::drive::{Feed, Rows};
use ossmith_tests::fixture::Fixture;
use ossmith_tests::{not_checked, reference, root};

use crate::model::{Loaded, expect_rows, expect_same_bits, fastest};

/// Every value that is stored is a value that is computed with.
const EXACT: [&str; 18] = [
    "bf16-fused",
    "fp16-fused",
    "fp32-fused",
    "bf16-openai",
    "bf16-unsloth",
    "bf16-split",
    "quark",
    "fp8-row",
    "fp8-tensor",
    "fp8-block",
    "nf4",
    "nf4-nested",
    "tied",
    "no-bias",
    "alpha",
    "full",
    "pruned",
    "uneven",
];

/// Experts that MXFP4 does not hold exactly, and the relative error of quantising them: normal values have 9 to 12 %, and
/// values that are already of 8 or 4 bits no more.
const QUANTISED: [&str; 3] = ["gaussian-fused", "fp8-experts", "nf4-experts"];

/// Experts in bf16 that are stored in 8 or 4 bits: what is left is rounding those times a scale to bf16, at most 2^-9 each. At
/// that distance the fixtures' logits, of about 3, change by 0.016 each and two by 0.02 against each other, so a best token is
/// one by more than four times that.
const BF16_EXPERTS: Profile =
    Profile { name: "bf16 experts", rel_l2: 5e-3, kl: 1e-4, top1: 1.0, margin: 0.1 };
/// Experts in MXFP4: how far the residual after the first layer may be, whose routes do not depend on experts. Gate, up and
/// down each have an error of up to 0.12 that is independent of the others': together √3 of it, of what experts write.
const MXFP4_RESIDUAL: f64 = 0.21;

#[test]
fn layouts_of_published_checkpoints() {
    let Some(python) = reference::python() else {
        not_checked(
            "layouts of published checkpoints",
            "no python3 with numpy; `cargo xtask test` installs it",
        );
        return;
    };
    let scratch = tempfile::tempdir().expect("temporary folder");
    let seed = reference::fresh_seed() % 1_000_000;
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("OMP_NUM_THREADS", "1");
    command.arg(root().join("tests/fixtures/make_layouts.py"));
    command.args(["--seed", &seed.to_string(), "--out"]).arg(scratch.path());
    let output = command.output().expect("the generator runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {errors}");
    for layout in EXACT.into_iter().chain(["tiny-trl"]) {
        let fixture = Fixture::open(&scratch.path().join(layout));
        let loaded = Loaded::open(&fixture.folder);
        let rows = loaded.run(fastest(), &[Feed::at_once(&fixture.tokens)]).remove(0);
        let what = format!("{layout} with seed {seed}");
        expect_rows(&what, &fixture, loaded.model, &rows, fixture.tokens.len());
        expect_published(&what, &fixture, &loaded, &rows, scratch.path());
        let conversions = loaded.conversions();
        let experts = conversions.iter().any(|one| one.weights == "experts");
        assert!(!experts, "{what}: experts that MXFP4 holds exactly were changed: {conversions:?}");
    }
    for layout in QUANTISED {
        let fixture = Fixture::open(&scratch.path().join(layout));
        for experts in [ExpertStorage::Bf16, ExpertStorage::Mxfp4] {
            let options = CheckpointOptions::default().with_experts(experts);
            let loaded = Loaded::open_with(&fixture.folder, options);
            let rows = loaded.run(fastest(), &[Feed::at_once(&fixture.tokens)]).remove(0);
            let what = format!("{layout} with seed {seed}, {experts:?}");
            let expected = fixture.expected.f32("logits");
            if experts == ExpertStorage::Bf16 {
                let width = loaded.model.spec.vocab;
                // What is stored in bf16 stays as it is.
                let profile = if layout == "gaussian-fused" { F32 } else { BF16_EXPERTS };
                profile.assert_logits(&what, expected, &rows.logits, width);
            }
            let residual = rel_l2(fixture.expected.f32("resid.0"), &rows.layers[0].residual);
            assert!(residual < MXFP4_RESIDUAL, "{what}: {residual}");
            if experts == ExpertStorage::Mxfp4 {
                expect_published(&what, &fixture, &loaded, &rows, scratch.path());
            }
            let mut conversions = loaded.conversions();
            conversions.retain(|one| one.weights == "experts");
            for one in &conversions {
                let most = if one.to == "MXFP4" { 0.12 } else { 2e-3 };
                assert!(one.relative_error < most, "{what}: {one:?}");
            }
            let quantised = conversions.iter().any(|one| one.to == "MXFP4");
            assert_eq!(quantised, experts == ExpertStorage::Mxfp4, "{what}: {conversions:?}");
        }
    }
}

/// Exports a checkpoint to the published layout: what is loaded from there has the bits of what was loaded from `fixture`, and
/// exporting it once more changes no byte of the weights.
fn expect_published(what: &str, fixture: &Fixture, loaded: &Loaded, rows: &Rows, scratch: &Path) {
    let config = std::fs::read(fixture.folder.join("config.json")).expect("config.json");
    let files = [("config.json".to_owned(), config)];
    let name = fixture.folder.file_name().expect("a folder").to_string_lossy();
    let export = |from: &Loaded, stage: &str| {
        let folder = &scratch.join(format!("{name}-{stage}"));
        let options = ExportOptions { folder, files: &files, shard_bytes: 100_000 };
        let exported =
            from.weights().export(&from.model.spec, &options, &mut |_| ControlFlow::Continue(()));
        let exported = exported.unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(exported.complete, "{what}: {exported:?}");
        (folder.clone(), exported)
    };
    let (once, exported) = export(loaded, "once");
    let again = Loaded::open(&once);
    let read = again.run(fastest(), &[Feed::at_once(&fixture.tokens)]).remove(0);
    expect_same_bits(&format!("{what}, exported"), rows, &read);
    let (twice, unchanged) = export(&again, "twice");
    assert!(unchanged.tensors.iter().all(|tensor| tensor.from.is_empty()), "{what}: {unchanged:?}");
    for shard in 1..=exported.shards {
        let shard = format!("model-{shard:05}-of-{:05}.safetensors", exported.shards);
        let read = |folder: &Path| std::fs::read(folder.join(&shard)).expect("a file of weights");
        assert!(read(&once) == read(&twice), "{what}: {shard} changed when it was exported again");
    }
}
