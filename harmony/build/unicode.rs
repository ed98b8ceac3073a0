//! Sorts all characters into the pre-tokenizer's classes, by the Unicode version of the build's `regex-syntax`.
//!
//! The reference library's pattern is compiled by the same crate, so both have the same idea of a letter.

use std::collections::HashMap;

use regex_syntax::hir::{Class, HirKind};

use crate::layout::{CLASS_BLOCK, class};

/// The block of each 256 characters, and the blocks.
pub(crate) fn classes() -> (Vec<u8>, Vec<u8>) {
    let mut of = vec![class::OTHER; 0x11_0000];
    for (pattern, class) in [
        (r"[\p{Lu}\p{Lt}]", class::UPPER),
        (r"\p{Ll}", class::LOWER),
        (r"[\p{Lm}\p{Lo}]", class::CASELESS),
        (r"\p{M}", class::MARK),
        (r"\p{N}", class::NUMBER),
        (r"\s", class::SPACE),
        (r"[\r\n]", class::NEWLINE),
    ] {
        for (start, end) in ranges(pattern) {
            of[start as usize..=end as usize].fill(class);
        }
    }
    let mut blocks: Vec<u8> = Vec::new();
    let mut known: HashMap<&[u8], u8> = HashMap::new();
    let mut index = Vec::new();
    for block in of.chunks(CLASS_BLOCK) {
        let next = u8::try_from(known.len()).expect("at most 256 different blocks");
        index.push(*known.entry(block).or_insert_with(|| {
            blocks.extend_from_slice(block);
            next
        }));
    }
    (index, blocks)
}

fn ranges(pattern: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
    match hir.kind() {
        HirKind::Class(Class::Unicode(class)) => {
            class.ranges().iter().map(|r| (r.start(), r.end())).collect()
        }
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().iter().map(|r| (char::from(r.start()), char::from(r.end()))).collect()
        }
        other => panic!("{pattern} is not a class: {other:?}"),
    }
}
