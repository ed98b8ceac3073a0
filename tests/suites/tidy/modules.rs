//! The modules of a crate form no cycle: whoever reads one file can read what it uses first. A parent and its
//! descendants may know each other (a folder's `mod.rs` re-exports its files, and these use its types), and code
//! under `#[cfg(test)]` may look anywhere.
//!
//! This reads `use` declarations and paths that begin with `crate`, `self`, `super` or a child's name, and follows
//! re-exports to the file that they come from. It sees neither macros' output nor methods.

use std::collections::{BTreeMap, BTreeSet};

use crate::expect_none;
use crate::sources::{self, Source};

/// One file of a crate.
#[derive(Default)]
struct Module {
    /// File, from the repository's root.
    path: String,
    /// Names that it re-exports, each with the path that it comes from.
    reexports: BTreeMap<String, Vec<String>>,
    /// Absolute paths that it uses, each as segments below the crate.
    uses: BTreeSet<Vec<String>>,
}

/// The modules of one crate by their path below the crate; the root has the empty path.
type Crate = BTreeMap<Vec<String>, Module>;

#[test]
fn modules_form_no_cycles() {
    let mut offences = Vec::new();
    for modules in crates().into_values() {
        let edges = edges(&modules);
        let cycle: Vec<&Vec<String>> =
            modules.keys().filter(|module| reaches(&edges, module, module)).collect();
        offences.extend(cycle.iter().map(|module| {
            let back = edges[*module].iter().filter(|to| reaches(&edges, to, module));
            let back: Vec<&str> = back.map(|to| modules[to].path.as_str()).collect();
            format!("{} uses {}", modules[*module].path, back.join(", "))
        }));
    }
    expect_none(
        "modules that use each other in a circle: move what they share below both",
        &offences,
    );
}

/// Every crate's modules, by the folder of its sources.
fn crates() -> BTreeMap<String, Crate> {
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    for source in sources::with(&["rs"]) {
        let Some((root, below)) = source.path.split_once("src/") else { continue };
        if below.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "bin") {
            continue;
        }
        let at = module_path(below);
        let module = read(&source, &at);
        crates.entry(format!("{root}src")).or_default().insert(at, module);
    }
    for modules in crates.values_mut() {
        resolve_children(modules);
    }
    crates
}

/// `a/mod.rs` and `a.rs` are module `a`; `lib.rs` and `main.rs` are the root.
fn module_path(file: &str) -> Vec<String> {
    let mut path: Vec<String> =
        file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// What a file uses and re-exports.
fn read(source: &Source, at: &[String]) -> Module {
    let tokens = tokens(&source.text);
    let tokens = without_tests(&tokens);
    let mut module = Module { path: source.path.clone(), ..Module::default() };
    let mut i = 0;
    while i < tokens.len() {
        let starts = i == 0 || tokens[i - 1] != "::";
        if tokens[i] == "use" && starts {
            let public = i > 0 && (tokens[i - 1] == "pub" || tokens[i - 1] == ")");
            let end = tokens[i..].iter().position(|t| t == ";").map_or(tokens.len(), |n| i + n);
            for (path, name) in use_tree(&tokens[i + 1..end]) {
                let path = absolute(at, path);
                if public {
                    module.reexports.insert(name, path.clone());
                }
                module.uses.insert(path);
            }
            i = end;
        } else if starts && is_name(&tokens[i]) && tokens.get(i + 1).is_some_and(|t| t == "::") {
            let mut path = vec![tokens[i].clone()];
            while tokens.get(i + 1).is_some_and(|t| t == "::")
                && tokens.get(i + 2).is_some_and(|t| is_name(t))
            {
                path.push(tokens[i + 2].clone());
                i += 2;
            }
            module.uses.insert(absolute(at, path));
            i += 1;
        } else {
            i += 1;
        }
    }
    module
}

/// A path from the crate's root. One that begins with neither `crate`, `self` nor `super` keeps a mark in front:
/// it may begin with a child of this module or with another crate, which [`resolve_children`] tells apart.
fn absolute(at: &[String], path: Vec<String>) -> Vec<String> {
    let mut base = at.to_vec();
    let mut rest = path.into_iter().peekable();
    match rest.peek().map(String::as_str) {
        Some("crate") => {
            base.clear();
            rest.next();
        }
        Some("self") => {
            rest.next();
        }
        Some("super") => {
            while rest.peek().is_some_and(|part| part == "super") {
                base.pop();
                rest.next();
            }
        }
        _ => return std::iter::once("?".to_owned()).chain(rest).collect(),
    }
    base.extend(rest);
    base
}

/// Puts paths that begin with a child's name below their module, and drops those of other crates.
fn resolve_children(modules: &mut Crate) {
    let known: BTreeSet<Vec<String>> = modules.keys().cloned().collect();
    for (at, module) in modules.iter_mut() {
        let place = |path: Vec<String>| -> Option<Vec<String>> {
            if path.first().is_none_or(|first| first != "?") {
                return Some(path);
            }
            let below: Vec<String> = at.iter().chain(&path[1..]).cloned().collect();
            known.contains(&below[..=at.len().min(below.len() - 1)]).then_some(below)
        };
        module.uses = std::mem::take(&mut module.uses).into_iter().filter_map(place).collect();
        module.reexports = std::mem::take(&mut module.reexports)
            .into_iter()
            .filter_map(|(name, path)| Some((name, place(path)?)))
            .collect();
    }
}

/// For each module, the modules that it uses, without its ancestors and descendants.
fn edges(modules: &Crate) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let edges = modules.iter().map(|(at, module)| {
        let used = module.uses.iter().map(|path| home(modules, path, 0));
        let strangers = used.filter(|to| !to.starts_with(at) && !at.starts_with(to));
        (at.clone(), strangers.collect())
    });
    edges.collect()
}

/// The module in which the item at a path is defined, through re-exports. `depth` ends circles of these.
fn home(modules: &Crate, path: &[String], depth: usize) -> Vec<String> {
    let longest = (0..=path.len()).rev().find(|&n| modules.contains_key(&path[..n])).unwrap_or(0);
    let module = &path[..longest];
    let source = path.get(longest).and_then(|name| modules[module].reexports.get(name));
    match source {
        Some(source) if depth < 8 => {
            let path: Vec<String> = source.iter().chain(&path[longest + 1..]).cloned().collect();
            home(modules, &path, depth + 1)
        }
        _ => module.to_vec(),
    }
}

/// Whether a path of at least one edge leads from one module to another.
fn reaches(
    edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
    from: &Vec<String>,
    to: &Vec<String>,
) -> bool {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&Vec<String>> = edges[from].iter().collect();
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            open.extend(&edges[module]);
        }
    }
    false
}

/// The paths of a `use` declaration, each with the name that it gets.
fn use_tree(tokens: &[String]) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    let mut prefixes: Vec<Vec<String>> = vec![Vec::new()];
    let mut path: Vec<String> = Vec::new();
    let mut renamed: Option<String> = None;
    let mut i = 0;
    let close = |path: &mut Vec<String>, renamed: &mut Option<String>, found: &mut Vec<_>| {
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        if let Some(last) = path.last().cloned() {
            let name = renamed.take().unwrap_or(last);
            found.push((path.clone(), name));
        }
    };
    while i < tokens.len() {
        match tokens[i].as_str() {
            "::" => {}
            "{" => {
                prefixes.push(path.clone());
            }
            "," | "}" => {
                if tokens[i - 1] != "}" && tokens[i - 1] != "," && tokens[i - 1] != "{" {
                    close(&mut path, &mut renamed, &mut found);
                }
                if tokens[i] == "}" {
                    prefixes.pop();
                }
                path = prefixes.last().cloned().unwrap_or_default();
            }
            "as" => {
                renamed = tokens.get(i + 1).cloned();
                i += 1;
            }
            "*" => {}
            name => path.push(name.to_owned()),
        }
        i += 1;
    }
    if tokens.last().is_some_and(|last| last != "}") {
        close(&mut path, &mut renamed, &mut found);
    }
    found
}

/// Leaves out items under `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        let marked = tokens[i..].len() >= MARK.len()
            && tokens[i..].iter().zip(MARK).all(|(token, mark)| token == mark);
        if !marked {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        // The item ends with the first `;` or `}` that stands outside all brackets.
        let mut depth = 0_i32;
        i += MARK.len();
        while i < tokens.len() {
            match tokens[i].as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && (tokens[i] == ";" || tokens[i] == "}");
            i += 1;
            if ends {
                break;
            }
        }
    }
    kept
}

fn is_name(token: &str) -> bool {
    token.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_')
}

/// A file's names and marks, without comments, texts and characters.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        let start = i;
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i += 2;
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c.is_alphanumeric() || c == '_' {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            let raw = ["r", "br", "cr"].contains(&word.as_str());
            if raw && (at(i) == '"' || (at(i) == '#' && (at(i + 1) == '#' || at(i + 1) == '"'))) {
                i = after_raw_text(&chars, i);
            } else {
                tokens.push(word);
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character, or a lifetime, which has no second mark.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else {
                i += if at(i + 2) == '\'' { 3 } else { 1 };
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            i += 1;
        }
    }
    tokens
}

/// The place after `#…#"…"#…#`, which begins at `i`.
fn after_raw_text(chars: &[char], mut i: usize) -> usize {
    let marks = chars[i..].iter().take_while(|c| **c == '#').count();
    i += marks + 1;
    while i < chars.len() {
        let closed = chars[i] == '"'
            && chars.len() >= i + 1 + marks
            && chars[i + 1..=i + marks].iter().all(|c| *c == '#');
        i += 1;
        if closed {
            return i + marks;
        }
    }
    i
}

#[test]
fn a_cycle_through_a_reexport_is_found() {
    let file = |path: &str, text: &str| {
        let at = module_path(path);
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        (at.clone(), read(&source, &at))
    };
    let mut modules: Crate = [
        file("lib.rs", "mod a; mod b; pub use a::x::X;"),
        file("a/mod.rs", "pub mod x; pub use x::{X, Z as Y}; // crate::b"),
        file("a/x.rs", "use crate::b; use super::Helper; fn f() -> b::B { \"crate::c\"; 'c' }"),
        file("b.rs", "fn g<'a>(x: crate::a::Y<'a>) {} #[cfg(test)] mod tests { use crate::c::C; }"),
        file("c.rs", "use crate::{a::{self, X}, b::*}; use std::fmt;"),
    ]
    .into();
    resolve_children(&mut modules);
    let edges = edges(&modules);
    let cycle: Vec<&str> = modules
        .iter()
        .filter(|(at, _)| reaches(&edges, at, at))
        .map(|(_, module)| module.path.as_str())
        .collect();
    assert_eq!(cycle, ["a/x.rs", "b.rs"], "{edges:?}");
}
