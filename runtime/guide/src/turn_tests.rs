//! Turns token by token: how much a guide lets be written.

use std::sync::Arc;

use ossmith_harmony::{encode, special};

use super::tests::{WORDS, may, shared};
use super::{CallRule, Guide, Rules, begin_call, begin_channel, bits, next_message};

/// The ids are written out, so that no constant of the guide can hide a change.
#[test]
fn a_forced_call_begins_with_these_tokens() {
    // ` to=functions.trip<|channel|>commentary <|constrain|>json<|message|>`
    let wanted = [
        encode(" to=functions.trip"),
        vec![200_005],
        encode("commentary "),
        vec![200_003],
        encode("json"),
        vec![200_008],
    ]
    .concat();
    assert_eq!(begin_call("functions.trip"), wanted);
    // Where a call is required, a guide allows them, and no answer instead.
    let call =
        CallRule { recipient: "functions.trip".to_owned(), arguments: shared(), built_in: false };
    let rules = Arc::new(Rules {
        thinking: Some(0),
        calls: vec![call],
        must_call: true,
        ..Rules::default()
    });
    let (mut guide, mut mask) = (Guide::new(rules.clone(), &[]), vec![0; WORDS]);
    for (at, &token) in wanted.iter().enumerate() {
        assert!(may(&mut guide, &mut mask));
        assert!(bits::get(&mask, token), "token {at} of {wanted:?}");
        guide.accept(token);
    }
    assert!(may(&mut guide, &mut mask));
    assert!(bits::get(&mask, encode("{")[0]) && !bits::get(&mask, 200_012), "an empty call");
    let mut guide = Guide::new(rules, &[]);
    assert!(may(&mut guide, &mut mask));
    guide.accept(200_005);
    assert!(may(&mut guide, &mut mask));
    assert!(!bits::get(&mask, encode("final")[0]), "an answer instead of a call");
}

#[test]
fn reasoning_is_never_longer_than_its_budget() {
    let (word, mut mask) = (encode(" so")[0], vec![0; WORDS]);
    for budget in [1_usize, 2, 7, 40] {
        for first in [0, 1, budget / 2, budget] {
            let rules = Rules { thinking: Some(budget), answer: shared(), ..Rules::default() };
            let mut guide = Guide::new(Arc::new(rules), &begin_channel("analysis"));
            let (mut written, mut messages) = (0, 1);
            // A message of so many tokens, and then as much as is allowed.
            'turn: loop {
                assert!(may(&mut guide, &mut mask));
                if bits::get(&mask, word) && (messages > 1 || written < first) {
                    guide.accept(word);
                    written += 1;
                    assert!(written <= budget, "{written} of {budget} tokens");
                    continue;
                }
                assert!(bits::get(&mask, special::END));
                for token in
                    [vec![special::END], next_message().into(), begin_channel("analysis")].concat()
                {
                    may(&mut guide, &mut mask);
                    if !bits::get(&mask, token) {
                        break 'turn;
                    }
                    guide.accept(token);
                }
                messages += 1;
            }
            // The end of each message counts as well.
            assert!(written + messages >= budget, "{written} of {budget} tokens");
        }
    }
}
