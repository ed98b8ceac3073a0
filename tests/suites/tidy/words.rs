//! One vocabulary: words of our own where the field has a standard one are not used. `words.txt` lists them with what
//! to write instead; `words_left.txt` says how many of each still stand in an area of the repository. A count may only go down.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ossmith_tests::{not_checked, root};

use crate::expect_none;
use crate::sources::{self, Source};

/// Each line: word, what to write instead, path prefixes that it is limited to, and text that excuses a line.
const WORDS: &str = include_str!("words.txt");
/// Each line: a word, then areas of the repository and how often the word may still stand there.
const LEFT: &str = "tests/suites/tidy/words_left.txt";
/// Areas by path prefix; the first prefix that fits counts.
const AREAS: [(&str, &str); 15] = [
    ("runtime/server/src/guide/", "guide"),
    ("runtime/server/", "server"),
    ("runtime/src/backend/cuda/", "cuda-backend"),
    ("runtime/cli/", "cli"),
    ("runtime/", "runtime"),
    ("codegen/cuda/", "codegen/cuda"),
    ("codegen/", "codegen"),
    ("tools/nano-training/", "nano-training"),
    ("models/", "codegen"),
    ("harmony/", "harmony"),
    ("tests/", "tests"),
    ("xtask/", "tests"),
    ("benches/", "docs"),
    ("docs/", "docs"),
    ("", "docs"),
];
/// The tables of this test, and the page that counts the words, name them.
const NAMES_THE_WORDS: [&str; 2] =
    ["tests/suites/tidy/words", "docs/experiments/2026-11-30-standard-terms.md"];

/// A line of `words.txt`.
struct Rule {
    /// The pattern as it is written, or its short name: the key of `words_left.txt`.
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
    let mut found: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for source in sources::with(&["rs", "cu", "cuh", "py", "sh", "toml", "md", "html", "js"]) {
        if NAMES_THE_WORDS.iter().any(|path| source.path.starts_with(path)) {
            continue;
        }
        let area = area(&source.path);
        for (rule, line) in uses(&rules, &source) {
            let place = format!("{}:{line}: `{}`: write {}", source.path, rule.name, rule.instead);
            found.entry((rule.name, area)).or_default().push(place);
        }
    }
    let file = std::fs::read_to_string(root().join(LEFT)).unwrap_or_default();
    let allowed = allowances(&file);
    let known: Vec<&str> = rules.iter().map(|rule| rule.name).collect();
    let stale = allowed.keys().filter(|(word, _)| !known.contains(word));
    let mut offences: Vec<String> =
        stale.map(|(word, _)| format!("{LEFT}: `{word}` is not in words.txt")).collect();
    for (key, places) in &found {
        let most = allowed.get(key).copied().unwrap_or(0);
        if places.len() > most {
            let (word, area) = key;
            offences.push(format!(
                "`{word}` stands {} times in {area}, {most} are allowed:",
                places.len()
            ));
            offences.extend(places.iter().map(|place| format!("  {place}")));
        }
    }
    let lower: BTreeMap<_, _> = allowed
        .iter()
        .map(|(key, &most)| (*key, most.min(found.get(key).map_or(0, Vec::len))))
        .collect();
    if lower != allowed {
        if std::env::var_os("OSSMITH_BLESS").is_some() {
            std::fs::write(root().join(LEFT), written(&rules, &lower)).expect("the allowances");
        } else {
            let why =
                "counts have gone down: run this test once with OSSMITH_BLESS=1 to lower them";
            not_checked(LEFT, why);
        }
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

fn area(path: &str) -> &'static str {
    let area = AREAS.iter().find(|(prefix, _)| path.starts_with(prefix));
    area.map_or("docs", |(_, area)| area)
}

/// The lines of `words_left.txt`: `word: area 3, area 1`.
fn allowances(text: &str) -> BTreeMap<(&str, &str), usize> {
    let mut allowed = BTreeMap::new();
    for line in text.lines() {
        let (word, areas) = line.split_once(": ").unwrap_or_else(|| panic!("{LEFT}: `{line}`"));
        for entry in areas.split(", ") {
            let (area, count) = entry.split_once(' ').unwrap_or_else(|| panic!("{LEFT}: `{line}`"));
            let count = count.parse().unwrap_or_else(|why| panic!("{LEFT}: `{line}`: {why}"));
            allowed.insert((word, area), count);
        }
    }
    allowed
}

/// `words_left.txt` in the order of `words.txt`, without what is no longer used.
fn written(rules: &[Rule], allowed: &BTreeMap<(&str, &str), usize>) -> String {
    let mut text = String::new();
    for rule in rules {
        let areas: Vec<String> = allowed
            .iter()
            .filter(|((word, _), count)| *word == rule.name && **count > 0)
            .map(|((_, area), count)| format!("{area} {count}"))
            .collect();
        if !areas.is_empty() {
            let _ = writeln!(text, "{}: {}", rule.name, areas.join(", ")); // a String takes any text
        }
    }
    text
}

#[test]
fn names_are_taken_apart_and_marks_end_phrases() {
    let plain = |text| words(text).into_iter().map(|(word, _)| word).collect::<Vec<_>>().join(" ");
    assert_eq!(plain("kRowTile row_tiles GPUName 16rows"), "k row tile row tiles gpu name 16 rows");
    assert_eq!(plain("/// tokens\n/// a `second`, a"), "tokens a second , a");
    assert_eq!(plain("values\n\na call"), "values  a call", "an empty word between paragraphs");
}
