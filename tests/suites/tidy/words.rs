//! One vocabulary: words of our own where the field has a standard one are not used. `words.txt` lists them with what
//! to write instead.

use crate::expect_none;
use crate::sources::{self, Source};

/// Each line: word, what to write instead, path prefixes that it is limited to, and text that excuses a line.
const WORDS: &str = include_str!("words.txt");
/// The table of this test, and the page that counts the words, name them.
const NAMES_THE_WORDS: [&str; 2] =
    ["tests/suites/tidy/words", "docs/experiments/2026-11-30-standard-terms.md"];

/// A line of `words.txt`.
struct Rule {
    /// The pattern as it is written, or its short name.
    name: &'static str,
    pattern: Pattern,
    instead: &'static str,
    below: Vec<&'static str>,
    excused_by: Vec<&'static str>,
}

enum Pattern {
    /// Words that follow one another, each with its alternatives, whatever their case; parts of names count as words.
    Phrase(Vec<Vec<&'static str>>),
    /// Whole names in code, case and all.
    Names(Vec<&'static str>),
    /// Names in code that begin so.
    Prefix(&'static str),
}

#[test]
fn standard_terms_are_used() {
    let rules = rules();
    let mut offences = Vec::new();
    for source in sources::with(&["rs", "cu", "cuh", "py", "sh", "toml", "md", "html", "js"]) {
        if NAMES_THE_WORDS.iter().any(|path| source.path.starts_with(path)) {
            continue;
        }
        offences.extend(uses(&rules, &source).into_iter().map(|(rule, line)| {
            format!("{}:{line}: `{}`: write {}", source.path, rule.name, rule.instead)
        }));
    }
    expect_none("words of our own where the field has a standard term", &offences);
}

fn rules() -> Vec<Rule> {
    let lines = WORDS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(rule).collect()
}

fn rule(line: &'static str) -> Rule {
    let mut cells = line.split('|').map(str::trim);
    let (word, instead) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
    assert!(!word.is_empty() && !instead.is_empty(), "words.txt: `{line}` lacks a cell");
    let (name, word) = word.split_once(" := ").unwrap_or((word, word));
    let below = cells.next().unwrap_or_default().split_whitespace().collect();
    let excused_by = cells.next().unwrap_or_default().split("; ").filter(|e| !e.is_empty());
    let pattern = match word.strip_prefix('=') {
        None => Pattern::Phrase(word.split(' ').map(|word| word.split('/').collect()).collect()),
        Some(names) => match names.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix),
            None => Pattern::Names(names.split('/').collect()),
        },
    };
    Rule { name, pattern, instead, below, excused_by: excused_by.collect() }
}

/// Every use of a word in a file, with its line.
fn uses<'r>(rules: &'r [Rule], source: &Source) -> Vec<(&'r Rule, usize)> {
    let rules = rules.iter().filter(|rule| {
        rule.below.is_empty() || rule.below.iter().any(|below| source.path.starts_with(below))
    });
    let lines: Vec<&str> = source.text.lines().collect();
    let words = words(&source.text);
    let names = names(&source.text);
    let mut uses = Vec::new();
    for rule in rules {
        let places: Vec<usize> = match &rule.pattern {
            Pattern::Phrase(phrase) => words
                .windows(phrase.len())
                .filter(|words| fits(phrase, words))
                .map(|words| words[0].1)
                .collect(),
            Pattern::Names(wanted) => {
                names.iter().filter(|(name, _)| wanted.contains(name)).map(|&(_, at)| at).collect()
            }
            Pattern::Prefix(prefix) => names
                .iter()
                .filter(|(name, _)| name.starts_with(prefix))
                .map(|&(_, at)| at)
                .collect(),
        };
        let excused = |line: usize| {
            let text = lines.get(line - 1).copied().unwrap_or_default();
            rule.excused_by.iter().any(|excuse| text.contains(excuse))
        };
        uses.extend(places.into_iter().filter(|&line| !excused(line)).map(|line| (rule, line)));
    }
    uses
}

fn fits(phrase: &[Vec<&str>], words: &[(String, usize)]) -> bool {
    phrase.iter().zip(words).all(|(wanted, (word, _))| wanted.contains(&word.as_str()))
}

/// Names in a text with their lines: what a programming language takes for one word.
fn names(text: &str) -> Vec<(&str, usize)> {
    let mut names = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let parts = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names.extend(parts.filter(|name| !name.is_empty()).map(|name| (name, i + 1)));
    }
    names
}

/// Words in lower case with their lines. Names are taken apart (`kRowTile` is three words), lines and the marks of
/// comments are skipped, and any other mark, or an empty line, is a word that no phrase has.
fn words(text: &str) -> Vec<(String, usize)> {
    let mut words: Vec<(String, usize)> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let mut before = ' ';
        let mut chars = line.chars().peekable();
        if line.trim().is_empty() {
            words.push((String::new(), i + 1)); // a paragraph ends a phrase
        }
        while let Some(c) = chars.next() {
            if c.is_ascii_alphanumeric() {
                let follows = chars.peek().copied().unwrap_or(' ');
                if starts_a_word(before, c, follows) {
                    words.push((String::new(), i + 1));
                }
                if let Some((word, _)) = words.last_mut() {
                    word.push(c.to_ascii_lowercase());
                }
            } else if !c.is_whitespace() && !"/!#*`_".contains(c) {
                words.push((c.to_string(), i + 1));
            }
            before = c;
        }
    }
    words
}

/// Whether a letter begins a word: after what is no letter, and inside `camelCase` and `GPUName`.
fn starts_a_word(before: char, c: char, follows: char) -> bool {
    !before.is_ascii_alphanumeric()
        || (before.is_ascii_digit() != c.is_ascii_digit())
        || (c.is_ascii_uppercase() && (before.is_ascii_lowercase() || follows.is_ascii_lowercase()))
}

#[test]
fn names_are_taken_apart_and_marks_end_phrases() {
    let plain = |text| words(text).into_iter().map(|(word, _)| word).collect::<Vec<_>>().join(" ");
    assert_eq!(plain("kRowTile row_tiles GPUName 16rows"), "k row tile row tiles gpu name 16 rows");
    assert_eq!(plain("/// tokens\n/// a `second`, a"), "tokens a second , a");
    assert_eq!(plain("values\n\na call"), "values  a call", "an empty word between paragraphs");
}
