//! The documents keep up with the code: environment variables, links, and files that prose names.

use std::collections::BTreeSet;

use ossmith_tests::root;

use crate::expect_none;
use crate::sources::{self, Source};

/// The one table of environment variables.
const TABLE: &str = "docs/ENVIRONMENT.md";
/// How Rust, the command's and the cache's own helpers, and Python read a variable.
const READERS: [&str; 5] =
    ["env::var(\"", "env::var_os(\"", "variable(\"", "set(\"", "environ.get(\""];
/// What the system and cargo set; the table names them where a default depends on them.
const SYSTEM: [&str; 3] = ["HOME", "XDG_CACHE_HOME", "OUT_DIR"];

#[test]
fn environment_variables_are_in_the_table() {
    let table = std::fs::read_to_string(root().join(TABLE)).expect("the table of variables");
    let documented = listed(&table);
    let sources = sources::with(&["rs", "sh", "py"]);
    let mut used: BTreeSet<String> =
        sources.iter().flat_map(|source| ours(&source.text).chain(read(&source.text))).collect();
    used.retain(|name| !SYSTEM.contains(&name.as_str()) && !name.starts_with("CARGO"));
    let missing = used.difference(&documented).map(|name| format!("{name}: not in {TABLE}"));
    let stale =
        documented.difference(&used).map(|name| format!("{name}: in {TABLE}, used nowhere"));
    expect_none(
        "environment variables and their table differ",
        &missing.chain(stale).collect::<Vec<_>>(),
    );
}

/// Names in the table's first column.
fn listed(table: &str) -> BTreeSet<String> {
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

/// Names of our own environment variables, wherever they stand.
fn ours(text: &str) -> impl Iterator<Item = String> {
    let prefix = ["OSSMITH", "_"].concat();
    text.match_indices(&prefix)
        .map(|(at, _)| name_at(&text[at..]).to_owned())
        .filter(|name| *name != prefix)
        .collect::<Vec<_>>()
        .into_iter()
}

/// Names that a call which reads a variable is given, other people's too.
fn read(text: &str) -> impl Iterator<Item = String> {
    let given = READERS.iter().flat_map(|reader| text.split(reader).skip(1));
    given.filter_map(|rest| {
        let name = name_at(rest);
        (!name.is_empty() && rest[name.len()..].starts_with('"')).then(|| name.to_owned())
    })
}

/// The variable's name that a text begins with.
fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

#[test]
fn links_lead_somewhere() {
    let mut offences = Vec::new();
    for document in sources::with(&["md"]) {
        for target in links(&document.text) {
            let outside = target.contains("://") || target.starts_with('#') || target.is_empty();
            let file = target.split('#').next().unwrap_or_default();
            if !outside && !folder(&document).join(file).exists() {
                offences.push(format!("{}: {target}", document.path));
            }
        }
    }
    expect_none("links to nothing", &offences);
}

fn folder(document: &Source) -> std::path::PathBuf {
    let path = root().join(&document.path);
    path.parent().map(std::path::Path::to_path_buf).unwrap_or_default()
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn documents_that_prose_names_exist() {
    let all = sources::with(&["md"]);
    let known: BTreeSet<&str> =
        all.iter().filter_map(|document| document.path.rsplit('/').next()).collect();
    let mut offences = Vec::new();
    for source in sources::with(&["rs", "cuh", "toml", "md", "py", "sh"]) {
        for (number, line) in source.lines() {
            let words = line.split(|c: char| !c.is_alphanumeric() && !"._-".contains(c));
            let documents =
                words.map(|w| w.trim_matches('.')).filter(|w| w.ends_with(".md") && w.len() > 3);
            for document in documents.filter(|document| !known.contains(document)) {
                offences.push(format!("{}:{number}: {document}", source.path));
            }
        }
    }
    expect_none("documents that are named but not there", &offences);
}

/// Documents with Rust, and the texts that are compiled and run in tests: an example, or a README that is a test itself.
const RUST: [(&str, &[&str]); 2] = [
    ("README.md", &["runtime/examples/embed.rs", "runtime/embed/README.md"]),
    ("runtime/README.md", &["runtime/examples/embed.rs"]),
];

#[test]
fn rust_in_readmes_is_taken_from_what_runs() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file");
    for (document, sources) in RUST {
        let text = read(document);
        let blocks: Vec<&str> = text.split("```rust\n").skip(1).collect();
        assert!(!blocks.is_empty(), "{document} has no Rust any more");
        for block in blocks {
            let block: Vec<&str> =
                block.split("```").next().map(code).into_iter().flatten().collect();
            let found = sources.iter().any(|source| {
                let source = read(source);
                let mut lines = code(&source);
                block.iter().all(|line| lines.any(|found| found == *line))
            });
            assert!(found, "{document}: these lines are not in {sources:?}: {block:#?}");
        }
    }
}

/// The lines of code of a text, without comments and indentation.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(|line| line.split(" //").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}

#[test]
fn the_readme_has_its_two_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    for command in ["cargo run --release -- generate \"", "cargo xtask test"] {
        assert!(readme.contains(command), "README.md does not show `{command}`");
    }
    let ci = std::fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    assert!(
        ci.contains("cargo xtask test"),
        ".ci/run runs something else than the README's test command"
    );
}
