//! Rules about text: file sizes, module docs, unfinished work, machine paths, where `unsafe` and cudarc may stand.

use crate::expect_none;
use crate::sources;

/// How many lines a file may have that a person is meant to read whole.
const MAX_LINES: usize = 600;

#[test]
fn files_are_not_too_long() {
    let long = sources::with(&["rs", "cu", "cuh", "py", "sh"]).into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > MAX_LINES).then(|| format!("{}: {lines} lines", source.path))
    });
    expect_none("files over 600 lines: split them by concept", &long.collect::<Vec<_>>());
}

#[test]
fn every_module_has_a_doc_comment() {
    let silent = sources::with(&["rs"]).into_iter().filter_map(|source| {
        // A file of unit tests is named for what it is; rejected input under `ui/` is read by a machine.
        let exempt = source.path.ends_with("/tests.rs") || source.path.contains("/ui/");
        let documented = source.text.starts_with("//!") || exempt;
        (!documented).then_some(source.path)
    });
    expect_none("files that do not start with a module doc (//!)", &silent.collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["TO", "FIX", "XX"].map(|start| {
        format!(
            "{start}{}",
            if start == "TO" {
                "DO"
            } else if start == "FIX" {
                "ME"
            } else {
                "X"
            }
        )
    });
    let macros = ["todo!(", "unimplemented!("];
    let mut offences = Vec::new();
    for source in sources::with(&["rs", "cu", "cuh", "py", "sh", "toml"]) {
        if source.path == "tests/suites/tidy/text.rs" {
            continue;
        }
        for (number, line) in source.lines() {
            let mark = line
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| marks.iter().any(|m| m == word));
            if mark || macros.iter().any(|stub| line.contains(stub)) {
                offences.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    expect_none("unfinished work: finish it, or leave it out and document that", &offences);
}

#[test]
fn no_path_of_one_machine() {
    // Spelled in pieces, so that this file passes its own rule.
    let places = ["work", "home", "root", "Users"].map(|folder| format!("/{folder}/"));
    let beside = ["..", "shared"].join("/");
    let mut offences = Vec::new();
    for source in sources::with(&["rs", "cu", "cuh", "py", "sh", "toml", "md", "json"]) {
        for (number, line) in source.lines() {
            let absolute = places.iter().any(|place| starts_a_path(line, place));
            if absolute || line.contains(&beside) {
                offences.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    expect_none("paths that exist on one machine only", &offences);
}

/// Whether `place` occurs as the start of a path, not inside a longer one such as `docs/work/`.
fn starts_a_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-/}>".contains(c))
    })
}

#[test]
fn cudarc_stays_in_its_backend() {
    let named = sources::with(&["rs"]).into_iter().filter(|source| {
        let backend = source.path.starts_with("runtime/src/backend/cuda/");
        !backend && source.text.contains(&["cudarc", "::"].concat())
    });
    let named: Vec<_> = named.map(|source| source.path).collect();
    expect_none("only runtime/src/backend/cuda may name cudarc", &named);
}

#[test]
fn unsafe_code_has_its_places() {
    let places = [
        "runtime/src/backend/cuda/",
        "runtime/src/backend/cpu/simd",
        "runtime/src/checkpoint/",
        "runtime/src/allocator.rs",
        "runtime/src/priority.rs",
    ];
    let attributes = ["allow", "expect"].map(|how| format!("{how}(unsafe_code"));
    let mut offences = Vec::new();
    for source in sources::with(&["rs"]) {
        let lifted = attributes.iter().any(|attribute| source.text.contains(attribute));
        if lifted && !places.iter().any(|place| source.path.starts_with(place)) {
            offences.push(source.path);
        }
    }
    expect_none(
        "unsafe code outside the CUDA backend, SIMD, the checkpoint's memory map, the allocator and the priority of threads",
        &offences,
    );
}
