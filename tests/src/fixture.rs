//! Stored references: small random checkpoints with the outputs of transformers in float32.
//! `fixtures/README.md` describes each file; `fixtures/make_reference.py` made them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::root;

/// A tensor read from a file, widened to one of two types.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Values, if the tensor holds floating-point numbers.
    pub f32: Vec<f32>,
    /// Values, if the tensor holds integers.
    pub int: Vec<i64>,
}

/// Every tensor of a safetensors file, by name.
#[derive(Clone, Debug)]
pub struct Tables {
    file: PathBuf,
    tables: BTreeMap<String, Table>,
}

impl Tables {
    /// Reads a file.
    ///
    /// # Panics
    /// When it is missing or damaged: the fixtures are part of the repository.
    #[must_use]
    pub fn read(file: &Path) -> Tables {
        let bytes = fs::read(file).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let views = SafeTensors::deserialize(&bytes);
        let views = views.unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let tables = views.tensors().into_iter().map(|(name, view)| {
            let table = widen(view.dtype(), view.shape(), view.data());
            (name.clone(), table.unwrap_or_else(|why| panic!("{}: {name}: {why}", file.display())))
        });
        Tables { file: file.to_path_buf(), tables: tables.collect() }
    }

    /// A tensor.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> &Table {
        let found = self.tables.get(name);
        found.unwrap_or_else(|| panic!("{} holds no tensor {name}", self.file.display()))
    }

    /// A tensor of floating-point numbers.
    #[must_use]
    pub fn f32(&self, name: &str) -> &[f32] {
        &self.get(name).f32
    }

    /// A tensor of integers that are ids, positions or counts.
    #[must_use]
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.get(name).int.iter().map(|&id| u32::try_from(id));
        ids.collect::<Result<_, _>>()
            .unwrap_or_else(|why| panic!("{name} of {}: {why}", self.file.display()))
    }
}

fn widen(dtype: Dtype, shape: &[usize], data: &[u8]) -> Result<Table, String> {
    let mut table = Table { shape: shape.to_vec(), f32: Vec::new(), int: Vec::new() };
    match dtype {
        Dtype::F32 => table.f32 = words(data).map(f32::from_le_bytes).collect(),
        Dtype::BF16 => {
            let wide = words(data).map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
            table.f32 = wide.collect();
        }
        Dtype::I32 => table.int = words(data).map(i32::from_le_bytes).map(i64::from).collect(),
        Dtype::I64 => table.int = words(data).map(i64::from_le_bytes).collect(),
        Dtype::U8 => table.int = data.iter().map(|&byte| i64::from(byte)).collect(),
        other => return Err(format!("no test reads {other:?}")),
    }
    Ok(table)
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.chunks_exact(N).map(|chunk| {
        let mut word = [0; N];
        word.copy_from_slice(chunk);
        word
    })
}

/// A checkpoint folder with the expected outputs.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Folder of the checkpoint: `config.json` and `model.safetensors`.
    pub folder: PathBuf,
    /// Logits, residuals, router choices and greedy tokens at [`Fixture::positions`].
    pub expected: Tables,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Prompt positions whose rows are stored.
    pub positions: Vec<usize>,
}

impl Fixture {
    /// A committed fixture: `tiny`, `odd`, `window`, `deep-rope`.
    #[must_use]
    pub fn committed(name: &str) -> Fixture {
        Fixture::open(&root().join("tests/fixtures").join(name))
    }

    /// A fixture in a folder.
    #[must_use]
    pub fn open(folder: &Path) -> Fixture {
        let expected = Tables::read(&folder.join("expected.safetensors"));
        let tokens = expected.ids("input_ids");
        let positions = expected.ids("positions").iter().map(|&p| p as usize).collect();
        Fixture { folder: folder.to_path_buf(), expected, tokens, positions }
    }

    /// The same references for the checkpoint in OpenAI's layout, in the folder `original`.
    #[must_use]
    pub fn original(mut self) -> Fixture {
        self.folder.push("original");
        self
    }

    /// The stored rows among `rows` (one row per prompt token, `width` wide), in stored order; only positions
    /// below `tokens` (a prefix of the prompt gives the same rows).
    #[must_use]
    pub fn stored_rows<T: Copy>(&self, rows: &[T], width: usize, tokens: usize) -> Vec<T> {
        let kept = self.positions.iter().filter(|&&p| p < tokens);
        kept.flat_map(|&p| &rows[p * width..(p + 1) * width]).copied().collect()
    }

    /// How many stored rows are for positions below `tokens`.
    #[must_use]
    pub fn stored(&self, tokens: usize) -> usize {
        self.positions.iter().filter(|&&p| p < tokens).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixtures_are_complete_and_small() {
        for (name, tokens, vocab) in
            [("tiny", 48, 256), ("odd", 37, 331), ("window", 321, 256), ("deep-rope", 4481, 256)]
        {
            let fixture = Fixture::committed(name);
            assert_eq!(fixture.tokens.len(), tokens, "{name}");
            let rows = fixture.positions.len();
            assert_eq!(fixture.expected.get("logits").shape, [rows, vocab], "{name}");
            assert!(fixture.tokens.iter().all(|&token| (token as usize) < vocab), "{name}");
        }
    }

    #[test]
    fn stored_rows_of_a_prefix() {
        let mut fixture = Fixture::committed("window");
        fixture.positions = vec![0, 2, 5];
        let rows: Vec<u32> = (0..8).flat_map(|p| [10 * p, 10 * p + 1]).collect();
        assert_eq!(fixture.stored_rows(&rows, 2, 8), [0, 1, 20, 21, 50, 51]);
        assert_eq!(fixture.stored_rows(&rows, 2, 5), [0, 1, 20, 21]);
        assert_eq!(fixture.stored(5), 2);
    }
}
