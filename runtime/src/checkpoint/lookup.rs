//! Finding tensors of a checkpoint's files by name, with errors that name the file, the tensor, what was expected and what
//! was found; and decoding plain floats.

use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use super::safetensors_file::TensorFile;

/// Bytes in one of the checkpoint's files.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) range: Range<usize>,
}

/// The bytes of a place.
pub(super) type Bytes<'a> = dyn Fn(&Place) -> &'a [u8] + 'a;

/// Decodes plain floats from element `start` on; nothing for another type.
pub(super) fn decode_floats(dtype: Dtype, stored: &[u8], start: usize, out: &mut [f32]) {
    match dtype {
        Dtype::BF16 => {
            for (out, &pair) in out.iter_mut().zip(stored[2 * start..].as_chunks().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
            }
        }
        Dtype::F16 => {
            for (out, &pair) in out.iter_mut().zip(stored[2 * start..].as_chunks().0) {
                *out = half::f16::from_le_bytes(pair).to_f32();
            }
        }
        Dtype::F32 => {
            for (out, &word) in out.iter_mut().zip(stored[4 * start..].as_chunks().0) {
                *out = f32::from_le_bytes(word);
            }
        }
        _ => {}
    }
}

/// What is wrong with a tensor, and in which file.
pub(super) struct Problem {
    pub(super) file: Option<usize>,
    pub(super) text: String,
}

type Lookup<'a> = dyn Fn(&str) -> Option<(usize, &'a TensorInfo)> + 'a;

/// The tensors of all files.
pub(super) struct Stored<'a> {
    pub(super) file: &'a dyn Fn(usize) -> &'a TensorFile,
    pub(super) find: &'a Lookup<'a>,
}

impl<'a> Stored<'a> {
    /// A tensor of this name and type in this shape.
    pub(super) fn exact(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Place, Problem> {
        let (file, info) = self.present(name, || format!("expected {dtype:?} {shape:?}"))?;
        if info.dtype == dtype && info.shape == shape {
            return Ok(self.place(file, info));
        }
        Err(mismatch(name, file, &format!("{dtype:?} {shape:?}"), info))
    }

    pub(super) fn present(
        &self,
        name: &str,
        expected: impl FnOnce() -> String,
    ) -> Result<(usize, &'a TensorInfo), Problem> {
        (self.find)(name).ok_or_else(|| Problem {
            file: None,
            text: format!("tensor {name}: missing; {}", expected()),
        })
    }

    pub(super) fn place(&self, file: usize, info: &TensorInfo) -> Place {
        Place { file, range: (self.file)(file).range(info) }
    }

    pub(super) fn bytes(&self, place: &Place) -> &'a [u8] {
        (self.file)(place.file).bytes(place.range.clone())
    }

    /// A tensor of plain floats, decoded at once: scales and tables.
    pub(super) fn floats(
        &self,
        name: &str,
        file: usize,
        info: &TensorInfo,
    ) -> Result<Vec<f32>, Problem> {
        if !matches!(info.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32) {
            return Err(mismatch(name, file, "BF16, F16 or F32", info));
        }
        let mut values = vec![0.0; info.shape.iter().product()];
        decode_floats(info.dtype, self.bytes(&self.place(file, info)), 0, &mut values);
        match values.iter().find(|value| !value.is_finite()) {
            None => Ok(values),
            Some(bad) => Err(Problem {
                file: Some(file),
                text: format!("tensor {name}: holds {bad}, which is no scale"),
            }),
        }
    }
}

pub(super) fn mismatch(name: &str, file: usize, expected: &str, info: &TensorInfo) -> Problem {
    let text =
        format!("tensor {name}: expected {expected}, found {:?} {:?}", info.dtype, info.shape);
    Problem { file: Some(file), text }
}
