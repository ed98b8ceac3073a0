//! A crate outside the workspace compiles a model of its own with one dependency.

use std::path::Path;
use std::process::Command;

/// The workspace's own profile, so that nothing is optimised that it is not.
const MANIFEST: &str = r#"
[package]
name = "outside"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
ossmith-models = { path = "MODELS" }
"#;

const MAIN: &str = r#"
mod mine {
    ossmith_models::model!("models/mine/config.json");
}

fn main() {
    let model: &ossmith_models::Model = &mine::MODEL;
    assert_eq!(model.spec.hidden, mine::spec::HIDDEN);
    println!("{} {} {}", model.spec.name, mine::spec::LAYERS, model.units.len());
}
"#;

#[test]
fn a_crate_outside_needs_one_dependency() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| {
        let path = project.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    let config = std::fs::read_to_string(models.join("nano/config.json")).expect("nano's config");
    write("Cargo.toml", &MANIFEST.replace("MODELS", &models.to_string_lossy()));
    write("src/main.rs", MAIN);
    write("models/mine/config.json", &config);
    // The versions that the workspace has, so that nothing is asked of a registry.
    std::fs::copy(models.join("../Cargo.lock"), project.path().join("Cargo.lock")).expect("a lock");

    // A target folder of its own, kept between runs: only the first one compiles the compiler.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--offline", "--quiet", "--target-dir"])
        .arg(target)
        .current_dir(project.path())
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut words = text.split_whitespace();
    assert_eq!(words.next(), Some("mine"), "named like its folder");
    assert_eq!(words.next(), Some(ossmith_models::nano::spec::LAYERS.to_string().as_str()));
    let units = ossmith_models::NANO.units.len().to_string();
    assert_eq!(words.next(), Some(units.as_str()), "the kernels of nano");
}
