//! Which crate may depend on which, and which dependencies must stay out of a crate.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::expect_none;

/// For each crate, the workspace crates it may depend on, transitively spelled out. Development-only dependencies
/// are free: a test may look anywhere.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("ossmith-plan", &[]),
    ("ossmith-device-fn", &[]),
    ("ossmith-scalar", &["ossmith-device-fn"]),
    ("ossmith-codegen", &["ossmith-plan", "ossmith-scalar"]),
    ("ossmith-macros", &["ossmith-codegen", "ossmith-plan"]),
    ("ossmith-models", &["ossmith-macros", "ossmith-plan"]),
    ("ossmith-harmony", &[]),
    ("ossmith", &["ossmith-plan", "ossmith-scalar"]),
    ("ossmith-report", &["ossmith-models", "ossmith-plan"]),
    ("ossmith-guide", &["ossmith", "ossmith-harmony"]),
    ("ossmith-server", &["ossmith", "ossmith-guide", "ossmith-harmony"]),
    (
        "ossmith-embed",
        &[
            "ossmith",
            "ossmith-codegen",
            "ossmith-guide",
            "ossmith-harmony",
            "ossmith-models",
            "ossmith-server",
        ],
    ),
    (
        "ossmith-cli",
        &[
            "ossmith",
            "ossmith-codegen",
            "ossmith-harmony",
            "ossmith-models",
            "ossmith-plan",
            "ossmith-report",
            "ossmith-server",
        ],
    ),
    (
        "ossmith-python",
        &[
            "ossmith",
            "ossmith-cli",
            "ossmith-codegen",
            "ossmith-harmony",
            "ossmith-models",
            "ossmith-plan",
            "ossmith-report",
            "ossmith-server",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that must not appear among a crate's own dependencies.
const MUST_NOT_DEPEND_ON: &[(&str, &[&str])] = &[
    ("ossmith", &["tokio", "syn", "quote", "clap", "axum", "ossmith-codegen", "ossmith-harmony"]),
    ("ossmith-codegen", &["cudarc", "syn", "memmap2"]),
    ("ossmith-macros", &["cudarc"]),
    ("ossmith-guide", &["cudarc", "tokio", "axum", "hyper"]),
    ("ossmith-server", &["cudarc", "clap", "reqwest", "llguidance"]),
    ("ossmith-cli", &["cudarc", "axum"]),
];

/// Crates without any dependency.
const ALONE: [&str; 2] = ["ossmith-plan", "xtask"];

#[test]
fn dependencies_point_one_way() {
    let packages = packages();
    let mut offences = Vec::new();
    for (name, allowed) in MAY_DEPEND_ON {
        for dependency in required(&packages, name) {
            if dependency.starts_with("ossmith") && !allowed.contains(&dependency.as_str()) {
                offences.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    expect_none("dependencies against the direction of ARCHITECTURE.md", &offences);
}

#[test]
fn forbidden_dependencies_stay_out() {
    let packages = packages();
    let mut offences = Vec::new();
    for (name, forbidden) in MUST_NOT_DEPEND_ON {
        let found = required(&packages, name).into_iter();
        offences.extend(
            found
                .filter(|found| forbidden.contains(&found.as_str()))
                .map(|found| format!("{name} depends on {found}")),
        );
    }
    for name in ALONE {
        offences.extend(
            required(&packages, name).iter().map(|found| format!("{name} depends on {found}")),
        );
    }
    expect_none("a crate has a dependency that it must not have", &offences);
}

#[test]
fn every_dependency_is_listed_once_with_its_reason() {
    let read = |path: &str| {
        let text = std::fs::read_to_string(ossmith_tests::root().join(path));
        text.unwrap_or_else(|why| panic!("{path}: {why}"))
    };
    let (manifest, table) = (read("Cargo.toml"), read("docs/DEPENDENCIES.md"));
    let section = manifest.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    let listed: BTreeMap<&str, &str> = section
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .collect();
    let packages = packages();
    let mut unused: BTreeSet<&str> = listed.keys().copied().collect();
    let mut offences = Vec::new();
    for (name, package) in &packages {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let dependency = dependency["name"].as_str().unwrap_or_default();
            unused.remove(dependency);
            if !listed.contains_key(dependency) {
                offences.push(format!("{name}: {dependency} is not listed"));
            }
        }
    }
    offences.extend(unused.iter().map(|name| format!("{name}: listed, used nowhere")));
    // Our own crates need no reason.
    for (name, line) in listed.iter().filter(|(name, _)| !packages.contains_key(**name)) {
        if line.split_once('#').is_none_or(|(_, reason)| reason.trim().is_empty()) {
            offences.push(format!("{name}: has no reason beside it"));
        }
        if !table.contains(&format!("`{name}`")) {
            offences.push(format!("{name}: not in docs/DEPENDENCIES.md"));
        }
    }
    expect_none("dependencies and the root's [workspace.dependencies] differ", &offences);
}

/// Every workspace member, by name.
fn packages() -> BTreeMap<String, Value> {
    let words = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output =
        Command::new(env!("CARGO")).args(words).current_dir(ossmith_tests::root()).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let members = metadata["packages"].as_array().expect("packages").iter();
    members.map(|p| (p["name"].as_str().unwrap_or_default().to_owned(), p.clone())).collect()
}

/// Names of a crate's normal and build dependencies that no feature can leave out.
fn required(packages: &BTreeMap<String, Value>, name: &str) -> Vec<String> {
    let package = packages.get(name).unwrap_or_else(|| panic!("the workspace has no crate {name}"));
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    dependencies
        .filter(|d| d["kind"] != "dev" && d["optional"] == false)
        .filter_map(|d| d["name"].as_str().map(str::to_owned))
        .collect()
}
