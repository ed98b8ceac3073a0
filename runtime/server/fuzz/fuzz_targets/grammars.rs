//! Any text as a JSON schema, a regular expression, a grammar or a choice; see `GrammarFuzzer::run`.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use ossmith_server::{GrammarFuzzer, GrammarHelper};

/// The helper is the command itself, as in a server: build it first.
static FUZZER: LazyLock<GrammarFuzzer> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let program = root.join("target/release/ossmith");
    assert!(program.exists(), "{} is missing: cargo build --release", program.display());
    GrammarFuzzer::new(GrammarHelper { program, arguments: vec!["grammar-helper".into()] })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| FUZZER.run(data));
