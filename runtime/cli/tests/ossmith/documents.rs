//! Commands that documents show: each is one that the program takes, with flags and values that it has. Records of their time
//! (experiments, results, the changelog) are left out.

use std::path::Path;

use clap::error::ErrorKind;

use super::serve::root;

/// How documents call the program.
const CALLS: [&str; 2] = ["cargo run --release -- ", "ossmith "];
/// Documents that say what was done once.
const RECORDS: [&str; 3] = ["docs/experiments/", "benches/results/", "CHANGELOG.md"];

/// A command of a document.
struct Shown {
    document: String,
    /// Without the program's name.
    text: String,
    /// It stands in a block to be copied; in a sentence, what is left out is left out.
    whole: bool,
}

#[test]
fn commands_of_documents_are_commands() {
    let shown: Vec<Shown> = documents().iter().flat_map(|document| commands(document)).collect();
    let whole = shown.iter().filter(|command| command.whole).count();
    assert!(whole > 50 && shown.len() > whole + 20, "{whole} of {} are found", shown.len());
    let mut offences = Vec::new();
    for Shown { document, text, whole } in shown {
        let Err(why) = ossmith_cli::check_words(words(&text)) else { continue };
        let fine = match why.kind() {
            ErrorKind::DisplayHelp => true,
            ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => false,
            _ => !whole,
        };
        if !fine {
            let why = why.to_string();
            offences
                .push(format!("{document}: {text}: {}", why.lines().next().unwrap_or_default()));
        }
    }
    assert!(offences.is_empty(), "documents show what is no command:\n{}", offences.join("\n"));
}

#[test]
fn tasks_of_documents_are_tasks() {
    let help = std::fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    let mut offences = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(root().join(&document)).unwrap();
        for rest in text.split("cargo xtask ").skip(1) {
            let end =
                rest.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(rest.len());
            if end > 0 && !help.contains(&format!("\n  {} ", &rest[..end])) {
                offences.push(format!("{document}: {}", &rest[..end]));
            }
        }
    }
    assert!(offences.is_empty(), "documents show what is no task: {offences:#?}");
}

/// The repository's documents, found without git, which a packed copy of the sources does not have.
fn documents() -> Vec<String> {
    let (mut documents, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}{name}");
            if entry.file_type().unwrap().is_dir() {
                // What is built or hidden is no document.
                if name != "target" && !name.starts_with('.') {
                    folders.push(format!("{path}/"));
                }
            } else if name.ends_with(".md") && !RECORDS.iter().any(|of| path.starts_with(of)) {
                documents.push(path);
            }
        }
    }
    assert!(documents.len() > 20 && documents.iter().any(|path| path == "README.md"));
    documents.sort();
    documents
}

/// The commands of a document's blocks and sentences.
fn commands(document: &str) -> Vec<Shown> {
    let text = std::fs::read_to_string(root().join(Path::new(document))).unwrap();
    let text = text.replace("\\\n", " ");
    let (mut found, mut fence) = (Vec::new(), None);
    let mut add = |line: &str, whole: bool| {
        for call in CALLS {
            // A variable may be set before it.
            let at = line.match_indices(call).map(|(at, _)| at).find(|&at| {
                line[..at].split_whitespace().all(|word| word == "$" || word.contains('='))
            });
            let Some(at) = at else { continue };
            let text = line[at + call.len()..].split(" # ").next().unwrap_or_default();
            let text = text.split([';', '>', '|', '&']).next().unwrap_or_default().trim();
            if text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.contains('…') {
                found.push(Shown { document: document.to_owned(), text: text.to_owned(), whole });
            }
        }
    };
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language) };
        } else if let Some(language) = fence {
            if ["sh", "console"].contains(&language) {
                add(line.trim(), true);
            }
        } else if let Some(line) = line.strip_prefix("    ") {
            add(line.trim(), true);
        } else {
            line.split('`').skip(1).step_by(2).for_each(|code| add(code, false));
        }
    }
    found
}

/// The words of a command as a shell takes them, after the program's name.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec!["ossmith".to_owned(), String::new()], None);
    for character in text.chars() {
        match (quote, character) {
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().unwrap().push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
