//! One sequence, fed in every way, against the committed fixtures in float32 bounds.

use ossmith::unstable::cpu::Isa;
use ossmith_tests::drive::{Feed, Rows};
use ossmith_tests::fixture::Fixture;

use crate::model::{Loaded, expect_rows, expect_same_bits, fastest};

/// Chunk lengths: one token, an odd number, a page, and one that straddles pages and windows.
const CHUNKS: [usize; 4] = [1, 7, 64, 100];

fn check(name: &str, fixture: &Fixture) {
    let loaded = Loaded::open(&fixture.folder);
    for isa in Isa::available() {
        let what = format!("{name} on {}", isa.name());
        let whole = feed(&loaded, fixture, isa, fixture.tokens.len());
        expect_rows(&what, fixture, loaded.model, &whole, fixture.tokens.len());
        expect_greedy(&what, fixture, &whole);
        // Plain scalar code is the oracle of the rest; on long prompts one pass of it is enough.
        if isa != fastest() && fixture.tokens.len() > 1000 {
            continue;
        }
        for chunk in CHUNKS {
            let what = format!("{what} in chunks of {chunk}");
            let chunked = feed(&loaded, fixture, isa, chunk);
            expect_rows(&what, fixture, loaded.model, &chunked, fixture.tokens.len());
            expect_greedy(&what, fixture, &chunked);
            expect_same_bits(&what, &whole, &chunked);
        }
    }
}

fn feed(loaded: &Loaded, fixture: &Fixture, isa: Isa, chunk: usize) -> Rows {
    let greedy = fixture.expected.get("greedy_tokens").int.len();
    let feed = Feed { chunk, greedy, ..Feed::at_once(&fixture.tokens) };
    loaded.run(isa, &[feed]).remove(0)
}

#[track_caller]
fn expect_greedy(what: &str, fixture: &Fixture, rows: &Rows) {
    assert_eq!(rows.greedy, fixture.expected.ids("greedy_tokens"), "{what}: greedy continuation");
}

#[test]
fn tiny() {
    check("tiny", &Fixture::committed("tiny"));
}

#[test]
fn tiny_in_openai_layout() {
    check("tiny/original", &Fixture::committed("tiny").original());
}

#[test]
fn odd() {
    check("odd", &Fixture::committed("odd"));
}

#[test]
fn window() {
    check("window", &Fixture::committed("window"));
}

#[test]
fn deep_rope() {
    check("deep-rope", &Fixture::committed("deep-rope"));
}
