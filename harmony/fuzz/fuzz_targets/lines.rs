//! Any line for the command: an answer with the id, and no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let answer = ossmith_harmony::answer_line(data);
    assert!(answer.get("id").is_some());
});
