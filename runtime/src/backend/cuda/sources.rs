//! The CUDA text to compile: what the model carries, or edited copies of it from the folder that `OSSMITH_KERNELS`
//! names, so that a change to a kernel is measured without building anything.
//!
//! `kernels emit` writes such a folder. An edit may change a kernel's body and the headers, but not what the launch
//! relies on: [`edits`] refuses text that does not match the model's plan.

mod edits;
mod stamps;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use ossmith_plan::{Model, Unit};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};
pub(super) use stamps::{BlockTrace, RECORD_WORDS};

/// The file of an emitted folder that says what it was emitted for.
const MANIFEST: &str = "manifest.json";

/// What an emitted folder was emitted for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    /// Version of Ossmith.
    ossmith: String,
    /// Name of the model.
    model: String,
    /// Name of the GPU that its schedules are made for.
    arch: String,
    /// [`plan_hash`] of the model.
    plan: String,
}

impl std::fmt::Display for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Manifest { ossmith, model, arch, plan } = self;
        write!(f, "{model} on {arch} (plan {plan}, Ossmith {ossmith})")
    }
}

impl Manifest {
    fn of(model: &Model) -> Manifest {
        Manifest {
            ossmith: env!("CARGO_PKG_VERSION").to_owned(),
            model: model.spec.name.to_owned(),
            arch: model.arch.name.to_owned(),
            plan: plan_hash(model),
        }
    }

    /// Refuses a folder that was emitted for another plan. A folder without a manifest holds single edited files, of
    /// which each is checked by itself.
    fn check(folder: &Path, model: &Model) -> Result<()> {
        let path = folder.join(MANIFEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::File { action: "read", path, source }),
        };
        let found: Manifest = serde_json::from_str(&text).map_err(|why| Error::KernelSource {
            path: path.clone(),
            problem: format!(
                "it is not a manifest of emitted kernels ({why}): emit the folder again"
            ),
        })?;
        let wanted = Manifest::of(model);
        if found.plan == wanted.plan {
            return Ok(());
        }
        Err(Error::KernelSource {
            path,
            problem: format!(
                "the folder was emitted for {found}, but the model is {wanted}: emit the kernels of this model",
            ),
        })
    }
}

/// A hash of everything that a model's launches rely on: every unit's name, launch geometry, constants and parameters, but
/// not the kernels' bodies. Sixteen hexadecimal digits.
#[must_use]
pub fn plan_hash(model: &Model) -> String {
    let mut hasher = blake3::Hasher::new();
    for unit in model.units {
        add(&mut hasher, unit.name);
        add(&mut hasher, edits::plan_part(unit.source));
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Adds a text to a hash so that the boundary between two texts counts.
pub(super) fn add(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// Writes every unit and header of a model to a folder, to read or to edit, with a manifest of what they are for.
///
/// # Errors
/// [`Error::File`] if the folder or a file cannot be written.
pub fn emit(model: &Model, folder: &Path) -> Result<()> {
    let write = |path: &str, text: &str| {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&file, text));
        written.map_err(|source| Error::File { action: "write", path: file.clone(), source })
    };
    for unit in model.units {
        write(&file_of(unit), unit.source)?;
    }
    for (path, text) in model.headers {
        write(path, text)?;
    }
    let manifest = serde_json::to_string_pretty(&Manifest::of(model))
        .map_err(|why| Error::Internal(format!("cannot write the manifest: {why}")))?;
    write(MANIFEST, &(manifest + "\n"))
}

/// A model's units and headers, with edits.
#[derive(Debug)]
pub struct Sources {
    /// Edited units by the names of their files.
    units: HashMap<String, String>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Sources {
    /// The model's own text, with files of `OSSMITH_KERNELS` in place of those with the same names.
    ///
    /// # Errors
    /// [`Error::File`] if the folder or a kernel in it cannot be read; [`Error::KernelSource`] for a folder or file that
    /// is not this model's or does not match its plan.
    pub fn of(model: &Model) -> Result<Sources> {
        match std::env::var_os("OSSMITH_KERNELS") {
            None => Ok(Sources::with(model, HashMap::new())),
            Some(folder) => Sources::edited(model, Path::new(&folder)),
        }
    }

    /// The model's own text, with the files of a folder in place of those with the same names.
    ///
    /// # Errors
    /// Those of [`Sources::of`].
    pub fn edited(model: &Model, folder: &Path) -> Result<Sources> {
        Manifest::check(folder, model)?;
        let mut edits = HashMap::new();
        read(folder, folder, &mut edits)?;
        let mut taken: Vec<String> = edits.keys().cloned().collect();
        taken.sort_unstable();
        let refused =
            |file: &str, problem| Error::KernelSource { path: folder.join(file), problem };
        let is_header = |file: &str| model.headers.iter().any(|(path, _)| *path == file);
        for file in &taken {
            let unit = model.units.iter().find(|unit| file_of(unit) == *file);
            match unit {
                Some(unit) => edits::check(unit, model.spec.name, &edits[file])
                    .map_err(|problem| refused(file, problem))?,
                None if is_header(file) => {}
                None => {
                    let problem = format!(
                        "it is no kernel or header of {}: name it as `ossmith kernels emit` does, or remove it",
                        model.spec.name
                    );
                    return Err(refused(file, problem));
                }
            }
            if let Some(unknown) = includes(&edits[file]).find(|path| !is_header(path)) {
                let problem =
                    format!("it includes {unknown}, which is no header of {}", model.spec.name);
                return Err(refused(file, problem));
            }
        }
        tracing::info!(folder = %folder.display(), files = taken.join(" "), "OSSMITH_KERNELS replaces kernel sources");
        Ok(Sources::with(model, edits))
    }

    fn with(model: &Model, mut edits: HashMap<String, String>) -> Sources {
        let headers = model
            .headers
            .iter()
            .map(|&(path, text)| (path, edits.remove(path).map_or(Cow::Borrowed(text), Cow::Owned)))
            .collect();
        Sources { units: edits, headers }
    }

    /// The same text with stamps in the kernels of `model`'s steps, for a trace.
    ///
    /// # Errors
    /// [`Error::KernelSource`] for an edited kernel of another form.
    pub(super) fn stamped(mut self, model: &Model) -> Result<Sources> {
        let infos = model.schedules.iter().flat_map(ossmith_plan::Schedule::infos);
        let names: BTreeSet<&str> = infos.map(|info| info.name).collect();
        for unit in model.units.iter().filter(|unit| names.contains(unit.name)) {
            let text =
                stamps::stamped(unit, &self.unit(unit)).map_err(|problem| Error::KernelSource {
                    path: file_of(unit).into(),
                    problem: format!("{problem}, so it has no trace"),
                })?;
            self.units.insert(file_of(unit), text);
        }
        self.headers.push((stamps::HEADER, Cow::Borrowed(stamps::HEADER_TEXT)));
        Ok(self)
    }

    /// A unit's text.
    #[must_use]
    pub fn unit(&self, unit: &Unit) -> Cow<'_, str> {
        self.units.get(&file_of(unit)).map_or(Cow::Borrowed(unit.source), |text| text.into())
    }

    /// The headers that a text includes, directly or through others: (path, text), by path.
    #[must_use]
    pub fn headers_of(&self, text: &str) -> Vec<(&'static str, &str)> {
        let mut found: BTreeMap<&'static str, &str> = BTreeMap::new();
        let mut open: Vec<&str> = includes(text).collect();
        while let Some(path) = open.pop() {
            let header = self.headers.iter().find(|(known, _)| *known == path);
            if let Some((path, text)) = header.filter(|(path, _)| !found.contains_key(path)) {
                found.insert(path, text);
                open.extend(includes(text));
            }
        }
        found.into_iter().collect()
    }

    /// A hash of every text that a model launches, by which measurements tell what was measured: eight hexadecimal
    /// digits.
    #[must_use]
    pub fn hash(&self, model: &Model) -> String {
        let mut hasher = blake3::Hasher::new();
        for unit in model.launched() {
            hasher.update(self.unit(unit).as_bytes());
        }
        for (_, text) in &self.headers {
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_hex()[..8].to_owned()
    }
}

/// The paths that a text includes in quotes.
fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let directive = line.trim_start().strip_prefix('#')?.trim_start();
        let path = directive.strip_prefix("include")?.trim_start().strip_prefix('"')?;
        path.split('"').next()
    })
}

/// The name of a unit's file.
fn file_of(unit: &Unit) -> String {
    format!("{}.cu", unit.name)
}

/// Reads every `.cu` and `.cuh` file in and below `folder`, by its path from `root`.
fn read(root: &Path, folder: &Path, files: &mut HashMap<String, String>) -> Result<()> {
    let failed = |path: &Path, source| Error::File {
        action: "read the kernels of",
        path: path.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        if path.is_dir() {
            read(root, &path, files)?;
        } else if path.extension().is_some_and(|end| end == "cu" || end == "cuh") {
            let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &Model = ossmith_models::GPT_OSS_20B;

    fn unit(name: &str) -> &'static Unit {
        MODEL.units.iter().find(|unit| unit.name == name).expect("a unit of this name")
    }

    fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn refusal(model: &Model, folder: &Path) -> String {
        Sources::edited(model, folder).expect_err("a refusal").to_string()
    }

    #[test]
    fn files_replace_those_of_the_same_names_and_none_is_ignored() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = folder.path();
        let edited = format!("{}// edited\n", unit("rmsnorm").source);
        write(folder, "rmsnorm.cu", &edited);
        write(folder, "ptx/math.cuh", "// edited");
        write(folder, "notes.txt", "not a kernel");
        let sources = Sources::edited(MODEL, folder).expect("known names");
        assert_eq!(sources.unit(unit("rmsnorm")), edited);
        assert_eq!(sources.unit(unit("embed")), unit("embed").source);
        let header = sources.headers.iter().find(|(path, _)| *path == "ptx/math.cuh");
        assert_eq!(header.expect("a header").1, "// edited");

        write(folder, "math.cuh", "// in the wrong folder");
        let error = refusal(MODEL, folder);
        assert!(error.contains("math.cuh: it is no kernel or header of gpt-oss-20b"), "{error}");
        write(folder, "math.cuh", b"\xff");
        let error = refusal(MODEL, folder);
        assert!(error.contains("math.cuh: stream did not contain valid UTF-8"), "{error}");
    }

    #[test]
    fn an_emitted_folder_runs_its_own_model_and_no_other() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        emit(MODEL, folder.path()).expect("written");
        Sources::edited(MODEL, folder.path()).expect("its own model");
        let other = ossmith_models::GPT_OSS_120B;
        let error = refusal(other, folder.path());
        for value in ["gpt-oss-20b", "gpt-oss-120b", &plan_hash(MODEL), &plan_hash(other)] {
            assert!(error.contains(value), "{error} lacks {value}");
        }
        // Without its manifest, a kernel that the other has not is refused, then the first that differs.
        std::fs::remove_file(folder.path().join(MANIFEST)).expect("removed");
        let error = refusal(other, folder.path());
        assert!(error.contains("it is no kernel or header of gpt-oss-120b"), "{error}");
        let of_other = |name: &str| other.units.iter().any(|unit| unit.name == name);
        for unit in MODEL.units.iter().filter(|unit| !of_other(unit.name)) {
            std::fs::remove_file(folder.path().join(format!("{}.cu", unit.name))).expect("removed");
        }
        let error = refusal(other, folder.path());
        assert!(error.contains("kExperts is 32") && error.contains("with 128"), "{error}");

        write(folder.path(), MANIFEST, "{}");
        let error = refusal(MODEL, folder.path());
        assert!(error.contains("manifest.json: it is not a manifest"), "{error}");
    }

    #[test]
    fn headers_are_those_that_a_text_includes() {
        let sources = Sources::with(MODEL, HashMap::new());
        let paths = |text: &str| -> Vec<&str> {
            sources.headers_of(text).into_iter().map(|(path, _)| path).collect()
        };
        assert_eq!(paths("int x;"), [""; 0]);
        assert_eq!(
            paths("  #  include \"ptx/launch.cuh\"  // why\n"),
            ["ptx/launch.cuh", "ptx/types.cuh"]
        );
        assert_eq!(
            paths("#include \"tile/norm.cuh\"\n#include \"ptx/types.cuh\"\n"),
            [
                "facts.cuh",
                "ptx/math.cuh",
                "ptx/memory.cuh",
                "ptx/types.cuh",
                "scalar.cuh",
                "tile/norm.cuh",
                "tile/order.cuh"
            ]
        );
    }

    #[test]
    fn an_include_that_nobody_provides_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), "ptx/math.cuh", "#include \"mine.cuh\"\n");
        let error = refusal(MODEL, folder.path());
        assert!(error.contains("it includes mine.cuh, which is no header"), "{error}");
    }
}
