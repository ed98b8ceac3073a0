//! Several sequences in one batch, each against its own reference. Attention is causal, so a prefix of a fixture's
//! prompt is a prompt with a reference of its own.

use ossmith_tests::drive::Feed;
use ossmith_tests::fixture::Fixture;

use crate::model::{Loaded, expect_rows, expect_same_bits, fastest};

/// A prefix of the prompt: (tokens, tokens per step, steps before it joins).
type Member = (usize, usize, usize);

fn check(name: &str, members: &[Member]) {
    let fixture = Fixture::committed(name);
    let loaded = Loaded::open(&fixture.folder);
    let greedy = fixture.expected.ids("greedy_tokens");
    let feeds: Vec<Feed<'_>> = members
        .iter()
        .map(|&(tokens, chunk, wait)| {
            // Only the whole prompt has a stored continuation; the others decode a few tokens beside it.
            let greedy = if tokens == fixture.tokens.len() { greedy.len() } else { tokens % 4 };
            Feed { tokens: &fixture.tokens[..tokens], chunk, wait, greedy }
        })
        .collect();
    let batch = loaded.run(fastest(), &feeds);
    for (i, (feed, rows)) in feeds.iter().zip(&batch).enumerate() {
        let what = format!("{name}, sequence {i} of {members:?}");
        expect_rows(&what, &fixture, loaded.model, rows, feed.tokens.len());
        if feed.tokens.len() == fixture.tokens.len() {
            assert_eq!(rows.greedy, greedy, "{what}: greedy continuation");
        }
        let alone = Feed { chunk: feed.tokens.len(), wait: 0, ..*feed };
        let alone = loaded.run(fastest(), &[alone]).remove(0);
        expect_same_bits(&format!("{what}: alone and in the batch"), &alone, rows);
        assert_eq!(alone.greedy, rows.greedy, "{what}: continuation alone and in the batch");
    }
}

#[test]
fn ragged_prefixes_side_by_side() {
    check("tiny", &[(48, 48, 0), (17, 17, 0), (1, 1, 0), (33, 33, 0)]);
    check("odd", &[(37, 37, 0), (2, 2, 0), (20, 20, 0), (21, 21, 0)]);
}

#[test]
fn chunks_of_different_length_and_late_arrivals() {
    check("tiny", &[(48, 5, 0), (48, 7, 3), (16, 1, 1), (47, 13, 2)]);
    check("odd", &[(36, 3, 4), (37, 1, 0), (37, 37, 9)]);
}

#[test]
fn sequences_cross_window_and_page_edges_apart() {
    check("window", &[(321, 64, 0), (128, 100, 0), (129, 7, 1), (256, 33, 2), (64, 64, 3)]);
}
