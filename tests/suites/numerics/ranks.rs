//! Ranks on the CPU against the fixtures' references and nano against itself: a model that several threads share, each with
//! a part of the weights, computes what one thread does, within float32 bounds.

use std::sync::Arc;

use ossmith::Checkpoint;
use ossmith::unstable::cpu::{CpuBackend, Isa};
use ossmith_plan::{Model, Shard};
use ossmith_tests::bounds::F32;
use ossmith_tests::drive::{self, Feed, Rows};
use ossmith_tests::fixture::Fixture;

use crate::model::{Loaded, compile, expect_rows, expect_same_bits, fastest};

fn run(
    model: &'static Model,
    weights: &Arc<Checkpoint>,
    isa: Isa,
    ranks: usize,
    feeds: &[Feed<'_>],
) -> Vec<Rows> {
    let backend =
        CpuBackend::with_ranks(model, weights, drive::limits(feeds), isa, ranks, Some(ranks));
    drive::run(&mut backend.expect("ranks"), feeds).expect("steps within their limits")
}

fn check(name: &str, ranks: usize) {
    let fixture = Fixture::committed(name);
    let loaded = Loaded::open(&fixture.folder);
    for isa in [Isa::SCALAR, fastest()] {
        let what = format!("{name} on {ranks} ranks, {}", isa.name());
        let tokens = &fixture.tokens;
        let greedy = fixture.expected.get("greedy_tokens").int.len();
        let whole = Feed { greedy, ..Feed::at_once(tokens) };
        let feeds = [whole, Feed { chunk: 7, wait: 2, ..whole }, Feed::at_once(&tokens[..9])];
        let rows = run(loaded.model, loaded.weights(), isa, ranks, &feeds);
        expect_rows(&what, &fixture, loaded.model, &rows[0], tokens.len());
        expect_rows(&what, &fixture, loaded.model, &rows[2], 9);
        assert_eq!(rows[0].greedy, fixture.expected.ids("greedy_tokens"), "{what}: continuation");
        assert_eq!(rows[0].greedy, rows[1].greedy, "{what}: continuation in chunks");
        expect_same_bits(&format!("{what}: whole and in chunks"), &rows[0], &rows[1]);
        let again = run(loaded.model, loaded.weights(), isa, ranks, &feeds);
        expect_same_bits(&format!("{what}: another run"), &rows[0], &again[0]);
    }
}

#[test]
fn odd_on_two_ranks() {
    check("odd", 2);
}

#[test]
fn window_on_two_ranks() {
    check("window", 2);
}

#[test]
fn nano_on_two_ranks_is_nano() {
    let model = ossmith_models::NANO;
    let bytes = ossmith_models::nano_checkpoint().expect("embedded weights");
    let weights = Arc::new(Checkpoint::from_bytes("nano", bytes, model).expect("nano"));
    // Any tokens will do: what is compared is arithmetic.
    let tokens: Vec<u32> = (0..24).map(|i| (i * 7919 + i * i * 104_729) % 199_998).collect();
    let feeds = [Feed { chunk: 10, ..Feed::at_once(&tokens) }];
    let [whole, shared] =
        [1, 2].map(|ranks| run(model, &weights, fastest(), ranks, &feeds).remove(0));
    F32.assert_logits("nano on two ranks", &whole.logits, &shared.logits, model.spec.vocab);
    for (layer, (whole, shared)) in whole.layers.iter().zip(&shared.layers).enumerate() {
        let what = format!("nano on two ranks, layer {layer}");
        assert_eq!(whole.router_indices, shared.router_indices, "{what}: experts");
        F32.assert_close(&what, &whole.residual, &shared.residual);
    }
}

#[test]
fn shapes_that_ranks_cannot_share_are_refused_with_their_numbers() {
    let tiny = compile(&Fixture::committed("tiny").folder);
    let odd = compile(&Fixture::committed("odd").folder);
    for (model, ranks, wanted) in [
        (tiny, 2, "1 tiles of the experts' inner width cannot be shared by 2 ranks"),
        (odd, 4, "2 key/value heads cannot be shared by 4 ranks"),
        (ossmith_models::NANO, 8, "2 key/value heads cannot be shared by 8 ranks"),
    ] {
        let refused = model.of_rank(Shard { rank: 0, of: ranks }).expect_err(wanted).to_string();
        assert!(refused.contains(wanted), "{refused} does not contain: {wanted}");
    }
}
