//! References with new seeds and shapes, made while the test runs.

use ossmith_tests::drive::Feed;
use ossmith_tests::fixture::Fixture;
use ossmith_tests::{not_checked, reference};

use crate::model::{Loaded, expect_rows, expect_same_bits, fastest};

/// Presets of the generator, and committed shapes with other dimensions.
const SHAPES: [(&str, &[&str]); 7] = [
    ("smallhead", &[]),
    ("topk2", &[]),
    ("manyexperts", &[]),
    ("batchy", &[]),
    ("tiny", &["--set", "layers=3", "--set", "experts=5", "--set", "T=70", "--shards", "3"]),
    (
        "odd",
        &["--set", "hidden=96", "--set", "inter=160", "--set", "vocab=407", "--set", "kv_heads=3"],
    ),
    ("tiny", &["--set", "head_dim=128", "--set", "window=1", "--set", "T=20"]),
];

#[test]
fn fresh_seeds_and_shapes() {
    let Some(python) = reference::python() else {
        not_checked(
            "fixtures with fresh seeds and shapes",
            "no python3 with numpy; `cargo xtask test` installs it",
        );
        return;
    };
    let scratch = tempfile::tempdir().expect("temporary folder");
    let seed = reference::fresh_seed();
    for (i, (preset, extra)) in SHAPES.iter().enumerate() {
        let folder = scratch.path().join(i.to_string());
        let seed = seed + i as u64;
        let fixture = reference::make(&python, preset, seed, extra, &folder);
        let what = format!("{preset} {extra:?} with seed {seed}");
        check(&what, &fixture);
        check(&format!("{what} in OpenAI layout"), &fixture.original());
    }
}

fn check(what: &str, fixture: &Fixture) {
    let loaded = Loaded::open(&fixture.folder);
    let greedy = fixture.expected.ids("greedy_tokens");
    let whole = Feed { greedy: greedy.len(), ..Feed::at_once(&fixture.tokens) };
    let short = Feed::at_once(&fixture.tokens[..fixture.tokens.len() / 2]);
    let batch = loaded.run(fastest(), &[whole, Feed { chunk: 9, ..short }]);
    expect_rows(what, fixture, loaded.model, &batch[0], whole.tokens.len());
    expect_rows(&format!("{what}, half"), fixture, loaded.model, &batch[1], short.tokens.len());
    assert_eq!(batch[0].greedy, greedy, "{what}: greedy continuation");
    let chunked = loaded.run(fastest(), &[Feed { chunk: 13, ..whole }]).remove(0);
    expect_same_bits(&format!("{what} in chunks of 13"), &batch[0], &chunked);
}
