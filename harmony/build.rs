//! Turns the o200k vocabulary and Unicode's categories into tables that need no loading.
//!
//! The vocabulary comes from the crate `bpe-openai`, the categories from `regex-syntax`; both are used only here.
//! Every table is a plain array of little-endian numbers, written to `OUT_DIR` and embedded by `src/bpe/tables.rs`, so a
//! program that never tokenizes pays nothing and one that does pays the page faults of what it touches.
//! This is not the tokenizer: see `src/bpe/`.

use std::path::Path;
use std::{env, fs};

#[path = "src/bpe/layout.rs"]
mod layout;
#[path = "build/merges.rs"]
mod merges;
#[path = "build/trie.rs"]
mod trie;
#[path = "build/unicode.rs"]
mod unicode;

fn main() {
    let out_dir = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let out = Path::new(&out_dir);
    let tokens = vocabulary();

    let mut text = Vec::new();
    let mut ends = Vec::new();
    for token in &tokens {
        text.extend_from_slice(token);
        ends.push(text.len() as u32);
    }
    let merges = merges::merges(&tokens);
    write(out, "token_text.bin", &text);
    write_u32(out, "token_ends.bin", &ends);
    write_u64(out, "merges.bin", &merges.iter().map(|m| m.pack()).collect::<Vec<_>>());
    write_u32(out, "pairs.bin", &merges::pair_table(&merges));
    write_u64(out, "trie.bin", &trie::trie(&tokens));
    let (blocks, classes) = unicode::classes();
    write(out, "class_blocks.bin", &blocks);
    write(out, "classes.bin", &classes);

    for file in ["build.rs", "build", "src/bpe/layout.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
}

/// The bytes of every ordinary token, by id.
fn vocabulary() -> Vec<Vec<u8>> {
    let bpe = &bpe_openai::o200k_base().bpe;
    let tokens: Vec<Vec<u8>> =
        (0..bpe.num_tokens() as u32).map(|id| bpe.token_bytes(id).to_vec()).collect();
    assert_eq!(
        tokens.len(),
        layout::ORDINARY_TOKENS,
        "bpe-openai's o200k has another size than o200k_harmony's"
    );
    assert!(
        tokens[..256].iter().all(|t| t.len() == 1),
        "the first 256 ids have to be the single bytes"
    );
    tokens
}

fn write(out: &Path, name: &str, bytes: &[u8]) {
    fs::write(out.join(name), bytes)
        .unwrap_or_else(|e| panic!("cannot write {name} to {}: {e}", out.display()));
}

fn write_u32(out: &Path, name: &str, numbers: &[u32]) {
    write(out, name, &numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
}

fn write_u64(out: &Path, name: &str, numbers: &[u64]) {
    write(out, name, &numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>());
}
