//! The CUDA text to compile: what the model carries, or edited copies of it from the folder that `OSSMITH_KERNELS`
//! names, so that a change to a kernel is measured without building anything.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ossmith_plan::{Model, Unit};

use crate::{Error, Result};

/// A model's units and headers, with edits.
#[derive(Debug)]
pub struct Sources {
    /// Edited units by the names of their files.
    units: HashMap<String, String>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Sources {
    /// The model's own text, with files of `OSSMITH_KERNELS` in place of those that they are named like.
    ///
    /// # Errors
    /// [`Error::File`] if the folder or a kernel in it cannot be read; [`Error::Device`] for a kernel that the model
    /// does not have.
    pub fn of(model: &Model) -> Result<Sources> {
        match std::env::var_os("OSSMITH_KERNELS") {
            None => Ok(Sources::with(model, HashMap::new())),
            Some(folder) => Sources::edited(model, Path::new(&folder)),
        }
    }

    fn edited(model: &Model, folder: &Path) -> Result<Sources> {
        let mut edits = HashMap::new();
        read(folder, folder, &mut edits)?;
        let units = model.units.iter().map(file_of);
        let known: Vec<String> =
            units.chain(model.headers.iter().map(|(path, _)| (*path).to_owned())).collect();
        let mut taken: Vec<&str> = edits.keys().map(String::as_str).collect();
        taken.sort_unstable();
        if let Some(stray) = taken.iter().find(|path| !known.iter().any(|name| name == **path)) {
            return Err(Error::Device(format!(
                "{} is no kernel or header of {}: name it as `ossmith kernels emit` does, or remove it",
                folder.join(stray).display(),
                model.spec.name
            )));
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

    /// A unit's text.
    #[must_use]
    pub fn unit(&self, unit: &Unit) -> Cow<'_, str> {
        self.units.get(&file_of(unit)).map_or(Cow::Borrowed(unit.source), |text| text.into())
    }

    /// A hash of every text that a model launches, by which measurements say what they measured: eight hexadecimal
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

    /// Every header: (path, text).
    #[must_use]
    pub fn headers(&self) -> &[(&'static str, Cow<'static, str>)] {
        &self.headers
    }
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

    #[test]
    fn edits_replace_what_they_are_named_like_and_nothing_is_passed_over() {
        let model = ossmith_models::GPT_OSS_20B;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        let unit = &model.units[0];
        write(&file_of(unit), b"// edited");
        write("ptx/math.cuh", b"// mine");
        write("notes.txt", b"no kernel");
        let sources = Sources::edited(model, folder.path()).expect("known names");
        assert_eq!(sources.unit(unit), "// edited");
        assert_eq!(sources.unit(&model.units[1]), model.units[1].source);
        let header = |path| sources.headers().iter().find(|(name, _)| *name == path);
        assert_eq!(header("ptx/math.cuh").expect("a header").1, "// mine");

        write("math.cuh", b"// in the wrong folder");
        let error = Sources::edited(model, folder.path()).expect_err("a stray").to_string();
        assert!(error.contains("math.cuh is no kernel or header of gpt-oss-20b"), "{error}");
        write("math.cuh", b"\xff");
        let error = Sources::edited(model, folder.path()).expect_err("no text").to_string();
        assert!(error.contains("math.cuh: stream did not contain valid UTF-8"), "{error}");
    }
}
