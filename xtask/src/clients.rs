//! The clients that the server is tested with, at the versions that `tests/clients` names: Python packages in `target/clients/py`,
//! npm packages in `target/clients/npm`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::python::pip_install;
use crate::shell::{Result, at, capture, root, target};

/// Holds the list that was installed, so that nothing is fetched twice. Written last.
const MARKER: &str = "installed";

/// Fetches those of PyPI, then those of npm, each unless they are there. All errors are returned.
pub(crate) fn fetch() -> Vec<String> {
    let python = fetch_list("requirements.txt", "py", install_python);
    let node = fetch_list("package.json", "npm", install_node);
    [python, node].into_iter().filter_map(Result::err).collect()
}

fn fetch_list(list: &str, folder: &str, install: fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let (list, folder) = (root().join("tests/clients").join(list), target("clients").join(folder));
    let wanted = at(&list, fs::read_to_string(&list))?;
    let marker = folder.join(MARKER);
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("fetching the packages of {} into {}", list.display(), folder.display());
    if folder.exists() {
        at(&folder, fs::remove_dir_all(&folder))?;
    }
    at(&folder, fs::create_dir_all(&folder))?;
    install(&list, &folder).map_err(|why| {
        // A half of it must not look like the whole to the tests.
        let _ = fs::remove_dir_all(&folder);
        format!("cannot install {} (is there a network?): {why}", list.display())
    })?;
    at(&marker, fs::write(&marker, wanted))
}

fn install_python(list: &Path, folder: &Path) -> Result<()> {
    capture(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    capture(pip_install(&folder.join("bin/python3")).arg("-r").arg(list))?;
    Ok(())
}

fn install_node(list: &Path, folder: &Path) -> Result<()> {
    at(list, fs::copy(list, folder.join("package.json")))?;
    let words = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
    capture(Command::new("npm").args(words).current_dir(folder))?;
    // It puts the program of this platform, which is a package of its own, in its place.
    let script = "node_modules/@anthropic-ai/claude-code/install.cjs";
    capture(Command::new("node").arg(script).current_dir(folder))?;
    Ok(())
}
