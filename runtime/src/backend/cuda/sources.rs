//! The CUDA text to compile: what the model carries, or edited copies of it from the folder that `OSSMITH_KERNELS`
//! names, so that a change to a kernel is measured without building anything.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ossmith_plan::{Model, Unit};

use crate::{Error, Result};

/// A model's units and headers, with edits.
#[derive(Debug)]
pub struct Sources {
    folder: Option<PathBuf>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
}

impl Sources {
    /// The model's own text, with files of `OSSMITH_KERNELS` in place of those that they are named like.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be read.
    pub fn of(model: &Model) -> Result<Sources> {
        let folder = std::env::var_os("OSSMITH_KERNELS").map(PathBuf::from);
        if let Some(folder) = &folder {
            if let Err(source) = std::fs::read_dir(folder) {
                return Err(Error::File {
                    action: "read the kernels of",
                    path: folder.clone(),
                    source,
                });
            }
            tracing::info!(folder = %folder.display(), "kernel sources come from OSSMITH_KERNELS");
        }
        let edited = |path: &str| folder.as_deref().and_then(|folder| read(folder, path));
        let headers = model
            .headers
            .iter()
            .map(|&(path, text)| (path, edited(path).map_or(Cow::Borrowed(text), Cow::Owned)));
        Ok(Sources { headers: headers.collect(), folder })
    }

    /// A unit's text.
    #[must_use]
    pub fn unit(&self, unit: &Unit) -> Cow<'static, str> {
        let edited = self.folder.as_deref().and_then(|f| read(f, &format!("{}.cu", unit.name)));
        edited.map_or(Cow::Borrowed(unit.source), Cow::Owned)
    }

    /// A hash of every text of a model, by which measurements say what they measured: eight hexadecimal digits.
    #[must_use]
    pub fn hash(&self, model: &Model) -> String {
        let mut hasher = blake3::Hasher::new();
        for unit in model.units {
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

fn read(folder: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(path)).ok()
}
