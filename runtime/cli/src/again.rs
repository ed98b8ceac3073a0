//! How the command starts itself a second time, for work that needs a process of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use ossmith_server::GrammarHelper;

static WORDS: OnceLock<Vec<OsString>> = OnceLock::new();

/// States the words that start this command again where the running program is another one, such as Python's interpreter:
/// the program, then what comes before the command's own arguments. Only the first call counts.
pub fn start_again_with(words: Vec<OsString>) {
    let _ = WORDS.set(words);
}

/// This command again, as the process in which grammars are tried out.
pub(crate) fn grammar_helper() -> GrammarHelper {
    let command = OsString::from("grammar-helper");
    if let Some((program, before)) = WORDS.get().and_then(|words| words.split_first()) {
        let arguments = before.iter().cloned().chain([command]).collect();
        return GrammarHelper { program: program.into(), arguments };
    }
    // The link leads to what runs, even where an upgrade has put another file in its place.
    let link = PathBuf::from("/proc/self/exe");
    let program = if link.exists() { link } else { std::env::current_exe().unwrap_or_default() };
    GrammarHelper { program, arguments: vec![command] }
}
