//! Any text: the tokens give it back, and special tokens only come from names that are allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ossmith_harmony::{SpecialSet, decode, encode, encode_with_special, special};

fuzz_target!(|text: &str| {
    let tokens = encode(text);
    assert!(!tokens.iter().any(|&token| special::is_special(token)));
    assert_eq!(decode(&tokens).as_deref(), Ok(text));
    let tokens = encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE).expect("nothing is disallowed");
    assert_eq!(decode(&tokens).as_deref(), Ok(text));
});
