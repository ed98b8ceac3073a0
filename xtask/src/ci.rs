//! The checks that CI runs, and that a contributor runs before a change is sent. Tests come last, so that the output ends with cargo's own summaries.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::shell::{Result, cargo, run};
use crate::{clients, debian, images, mutants, nvrtc, python, python_package, site, supply};

/// Whether kernels are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nvrtc {
    /// With the compiler that `OSSMITH_NVRTC` names, else with the one fetched from PyPI.
    Fetch,
    /// Not at all; the output reports it.
    LeaveOut,
}

/// Runs every check. All steps run, also after one has failed; the error names those that did.
pub(crate) fn check(compiler: Nvrtc) -> Result<()> {
    let mut checks = Checks::default();
    checks.step("format", || run(&mut cargo(&["fmt", "--all", "--check"])));
    let lints = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    checks.step("lints", || run(&mut cargo(&lints)));
    match supply::fetch_deny() {
        Ok(program) => {
            checks.step("licences and sources of dependencies", || supply::check(&program))
        }
        Err(why) => checks.unchecked.push(format!("licences and sources of dependencies: {why}")),
    }
    checks.unchecked.push("advisories about dependencies: `cargo xtask deny` does that where their database can be reached".to_owned());
    let docs = ["doc", "--workspace", "--no-deps", "--lib", "--quiet"];
    checks.step("documentation", || run(cargo(&docs).env("RUSTDOCFLAGS", "-D warnings")));

    checks.step("the runtime for the CPU alone", || {
        let words = ["clippy", "-p", "ossmith", "--no-default-features", "--", "-D", "warnings"];
        run(&mut cargo(&words))
    });
    checks.step("documentation without features", || {
        let words = ["doc", "--no-deps", "--lib", "--quiet", "--no-default-features"];
        let mut command = cargo(&words);
        command.args(["-p", "ossmith", "-p", "ossmith-models", "-p", "ossmith-server"]);
        command.args(["-p", "ossmith-embed"]);
        run(command.env("RUSTDOCFLAGS", "-D warnings"))
    });
    checks.step("packages", packages);
    match site::fetch() {
        Ok(python) => checks.step("site of the documents", || site::build(&python)),
        Err(why) => checks.unchecked.push(format!("the site of the documents: {why}")),
    }
    match images::fetch() {
        Ok(linter) => checks.step("images", || images::check(&linter)),
        Err(why) => checks.unchecked.push(format!("the files of images: {why}")),
    }
    println!("\n== a few mutants of today's room (reported, no error)");
    if let Err(why) = mutants::make_daily() {
        checks.unchecked.push(format!("mutants: {why}"));
    }

    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    // Property tests try the same cases in each run, so that a change is not blamed for what another seed would find in
    // the code before it. `cargo test` alone takes new ones.
    tests.env("PROPTEST_RNG_SEED", std::env::var_os("PROPTEST_RNG_SEED").unwrap_or("1".into()));
    match compiler {
        Nvrtc::Fetch => checks.step("NVRTC", || provide_nvrtc(&mut tests)),
        Nvrtc::LeaveOut => {
            tests.env_remove("OSSMITH_NVRTC");
            checks.unchecked.push("compiling the generated kernels: --without-nvrtc".to_owned());
        }
    }
    println!("\n== numpy, for fixtures with fresh seeds");
    if let Err(why) = python::fetch_numpy() {
        checks.unchecked.push(format!("fixtures with fresh seeds and shapes: {why}"));
    }
    println!("\n== Python packages for the server's tests");
    if let Err(why) = python::fetch_for_server() {
        checks.unchecked.push(format!("the server with OpenAI's SDK and other clients: {why}"));
    }
    println!("\n== clients for the server's tests");
    let missing = clients::fetch().into_iter().map(|why| format!("the server's clients: {why}"));
    checks.unchecked.extend(missing);
    println!("\n== Redis for the tests of stores that servers share");
    if let Err(why) = debian::fetch_redis() {
        checks.unchecked.push(format!("stores that servers share: {why}"));
    }
    println!("\n== Prometheus for the tests of what an operator sees");
    if let Err(why) = debian::fetch_prometheus() {
        checks.unchecked.push(format!("metrics, board and alerts in Prometheus: {why}"));
    }
    println!("\n== packages for the Python package's tests");
    match python_package::fetch() {
        Ok(()) => checks.step("Python package", python_package::check),
        Err(why) => checks.unchecked.push(format!("the Python package: {why}")),
    }
    checks.unchecked.push(gpu_note());
    println!("\n== not checked by this run");
    for line in &checks.unchecked {
        println!("- {line}");
    }
    checks.step("tests, golden files included", || run(&mut tests));
    checks.verdict()
}

/// The crates that are published, each after those that it needs.
const PUBLISHED: [&str; 11] = [
    "ossmith-plan",
    "ossmith-device-fn",
    "ossmith-scalar",
    "ossmith-codegen",
    "ossmith-macros",
    "ossmith-models",
    "ossmith-harmony",
    "ossmith",
    "ossmith-guide",
    "ossmith-server",
    "ossmith-embed",
];

/// Packs the crates as they would be published; building them from their packages is left to a release.
fn packages() -> Result<()> {
    let mut command = cargo(&["package", "--quiet", "--no-verify", "--allow-dirty", "--offline"]);
    for name in PUBLISHED {
        command.args(["-p", name]);
    }
    run(&mut command)
}

fn provide_nvrtc(tests: &mut Command) -> Result<()> {
    let folder = match std::env::var_os("OSSMITH_NVRTC") {
        Some(given) => given,
        None => nvrtc::fetch()?.into(),
    };
    println!("OSSMITH_NVRTC={}", Path::new(&folder).display());
    tests.env("OSSMITH_NVRTC", folder);
    Ok(())
}

fn gpu_note() -> String {
    let note = if Path::new("/dev/nvidiactl").exists() {
        "the kernels on this machine's GPU: `cargo run --release -- check` does that"
    } else {
        "anything on a GPU: there is none here; `cargo xtask gpu-bundle` packs those checks for a machine with one"
    };
    note.to_owned()
}

/// The checks so far: those that failed, and those that this machine cannot make.
#[derive(Default)]
struct Checks {
    failed: Vec<&'static str>,
    unchecked: Vec<String>,
}

impl Checks {
    fn step(&mut self, title: &'static str, check: impl FnOnce() -> Result<()>) {
        println!("\n== {title}");
        let start = Instant::now();
        let outcome = check();
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("== {title}: ok, {seconds:.0} s"),
            Err(why) => {
                println!("{why}\n== {title}: FAILED, {seconds:.0} s");
                self.failed.push(title);
            }
        }
    }

    fn verdict(self) -> Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(format!("failed: {}", self.failed.join("; ")))
    }
}
