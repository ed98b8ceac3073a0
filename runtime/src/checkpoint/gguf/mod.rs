//! GGUF files, as llama.cpp writes them: metadata, tokenizer and tensors of a gpt-oss model in one file or several.
//!
//! [`header`] reads one file's header, [`types`] lists ggml's element types, [`dequantise`] decodes their blocks,
//! [`config`] turns metadata into the text of a `config.json`, and [`weights`] finds the model's weights.

mod config;
mod dequantise;
mod header;
mod types;
mod weights;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::content::{self, Content};
use crate::{Error, Result};
use header::{Header, TensorInfo, Value};
pub(super) use weights::GgufWeights;

/// The architecture's name in `general.architecture`, and the first part of its keys.
const ARCHITECTURE: &str = "gpt-oss";
const SPLIT_COUNT: &str = "split.count";
const SPLIT_NUMBER: &str = "split.no";
const SPLIT_TENSORS: &str = "split.tensors.count";
/// llama.cpp numbers the parts of a model with five digits.
const PART_DIGITS: usize = 5;

/// A model as llama.cpp stores it, opened: its header has been read and checked, its weights have not been read.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<GgufFile>,
}

#[derive(Debug)]
struct GgufFile {
    path: PathBuf,
    content: Content,
    header: Header,
}

/// The tokenizer in a GGUF file.
#[derive(Debug)]
pub struct GgufTokenizer<'a> {
    /// `tokenizer.ggml.model`: `gpt2` for any byte-level BPE.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`, the way in which text is split before BPE: `gpt-4o` for gpt-oss.
    pub pre: &'a str,
    /// The text of each token in GPT-2's spelling of bytes, by id.
    pub tokens: Vec<&'a [u8]>,
}

impl Gguf {
    /// Opens a file, and where its name ends in `-00001-of-00003.gguf` (or another part's number) all parts.
    ///
    /// # Errors
    /// [`Error::File`] for a part that cannot be read, [`Error::Checkpoint`] naming the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Gguf> {
        let paths = parts_of(path);
        let files = paths
            .iter()
            .map(|path| GgufFile::read(path, content::map(path, "a GGUF file")?))
            .collect::<Result<_>>()?;
        Gguf::checked(files)
    }

    /// Reads one file that is not on disk; errors show `name` as its path.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], as for [`Gguf::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::checked(vec![GgufFile::read(Path::new(name), Content::InMemory(bytes))?])
    }

    /// Whether a path has the extension of a GGUF file.
    #[must_use]
    pub fn is_named(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    }

    /// The name of the model: that of the file, without its extension and the number of its part.
    #[must_use]
    pub fn name(&self) -> String {
        let path = &self.files[0].path;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        part(path).and_then(|part| name.get(..part.prefix_bytes).map(str::to_owned)).unwrap_or(name)
    }

    /// The model's metadata as the text of a `config.json`. Keys of another model are refused; values are not checked
    /// beyond their types.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the key that is missing or of another type, or a value that no gpt-oss model has.
    pub fn config(&self) -> Result<String> {
        config::text(self).map_err(|problem| self.refused(problem))
    }

    /// The tokenizer, if the file has one.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a tokenizer whose keys are of other types than they should be.
    pub fn tokenizer(&self) -> Result<Option<GgufTokenizer<'_>>> {
        config::tokenizer(self).map_err(|problem| self.refused(problem))
    }

    /// Every element of a tensor, decoded; `None` if there is no such tensor, or its type is not decoded.
    #[doc(hidden)]
    #[must_use]
    pub fn values(&self, tensor: &str) -> Option<Vec<f32>> {
        let (file, info) = self.find(tensor)?;
        let coding = info.block.coding?;
        let stored = &self.files[file].content[info.bytes.clone()];
        let mut values = vec![0.0; stored.len() / info.block.bytes * info.block.elements];
        let blocks = stored.chunks_exact(info.block.bytes);
        for (bytes, out) in blocks.zip(values.chunks_exact_mut(info.block.elements)) {
            dequantise::block(coding, bytes, out);
        }
        Some(values)
    }

    /// The names of all tensors.
    #[doc(hidden)]
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|file| file.header.tensors.keys().map(String::as_str))
    }

    /// A tensor, and the file that it is in.
    fn find(&self, tensor: &str) -> Option<(usize, &TensorInfo)> {
        let mut found = self.files.iter().enumerate();
        found.find_map(|(at, file)| Some((at, file.header.tensors.get(tensor)?)))
    }

    /// A value of the metadata, which the first part has whole.
    fn value(&self, key: &str) -> Option<&Value> {
        self.files[0].header.metadata.get(key)
    }

    /// An error of the whole model, which is named by its first file.
    fn refused(&self, problem: String) -> Error {
        refused(&self.files[0].path, problem)
    }

    /// Checks that the files are all parts of one model, and that no tensor is in two of them.
    fn checked(files: Vec<GgufFile>) -> Result<Gguf> {
        for (at, file) in files.iter().enumerate() {
            let number = |key| match file.header.metadata.get(key) {
                Some(&Value::Unsigned(number)) => Some(number),
                Some(&Value::Signed(number)) => u64::try_from(number).ok(),
                _ => None,
            };
            let (count, which) =
                (number(SPLIT_COUNT).unwrap_or(1).max(1), number(SPLIT_NUMBER).unwrap_or(0));
            if (count, which) != (files.len() as u64, at as u64) {
                let problem = format!(
                    "is part {} of {count} of a model by its metadata, but was opened as part {} of {}: keep the names that llama.cpp gives the parts, NAME-00001-of-{count:05}.gguf, with all of them in one folder",
                    which.saturating_add(1),
                    at + 1,
                    files.len()
                );
                return Err(refused(&file.path, problem));
            }
            for name in file.header.tensors.keys() {
                let other =
                    files[..at].iter().find(|other| other.header.tensors.contains_key(name));
                if let Some(other) = other {
                    let problem = format!("tensor {name}: also in {}", other.path.display());
                    return Err(refused(&file.path, problem));
                }
            }
            let tensors: usize = files.iter().map(|file| file.header.tensors.len()).sum();
            if let Some(claimed) = number(SPLIT_TENSORS)
                && claimed != tensors as u64
            {
                let problem =
                    format!("{SPLIT_TENSORS} is {claimed}, but the parts have {tensors} tensors");
                return Err(refused(&file.path, problem));
            }
        }
        Ok(Gguf { files })
    }
}

impl GgufFile {
    fn read(path: &Path, content: Content) -> Result<GgufFile> {
        let header = header::read(&content).map_err(|problem| refused(path, problem))?;
        Ok(GgufFile { path: path.to_owned(), content, header })
    }

    /// The text of a string value.
    fn text(&self, value: &Value) -> Option<&str> {
        match value {
            Value::Text(range) => std::str::from_utf8(&self.content[range.clone()]).ok(),
            _ => None,
        }
    }
}

fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint { path: path.to_owned(), problem }
}

/// What a name like `NAME-00001-of-00003.gguf` says.
struct Part {
    prefix_bytes: usize,
    count: usize,
}

fn part(path: &Path) -> Option<Part> {
    let stem = path.file_stem()?.to_str()?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| -> Option<usize> {
        let all = text.len() == PART_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|&number| all && number > 0)
    };
    let (number, count) = (digits(number)?, digits(count)?);
    (number <= count).then_some(Part { prefix_bytes: prefix.len(), count })
}

/// The files of the model that a path is a part of; the path alone if it is no part.
fn parts_of(path: &Path) -> Vec<PathBuf> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    match (part(path), stem) {
        (Some(Part { prefix_bytes, count }), Some(stem)) => {
            let prefix = &stem[..prefix_bytes];
            let name = |number| format!("{prefix}-{number:05}-of-{count:05}.gguf");
            (1..=count).map(|number| path.with_file_name(name(number))).collect()
        }
        _ => vec![path.to_owned()],
    }
}
