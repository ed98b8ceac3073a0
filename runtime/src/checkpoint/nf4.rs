//! bitsandbytes' 4-bit floats: two codes per byte, the first in the high nibble, each an index into a table of 16 values
//! (`quant_map`), and a factor for each block (`absmax`), which may be quantised once more.

use safetensors::Dtype;
use serde::Deserialize;

use super::lookup::{Bytes, Place, Problem, Stored};

/// A 4-bit tensor.
#[derive(Clone, Debug)]
pub(super) struct Nf4 {
    pub(super) codes: Place,
    table: [f32; 16],
    /// Factor of each block.
    factors: Vec<f32>,
    block: usize,
}

/// What bitsandbytes writes of a tensor, as JSON in a tensor of its own.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl Nf4 {
    /// The coding of tensor `name`, whose values have this shape, and the names of all its tensors.
    pub(super) fn find(
        stored: &Stored<'_>,
        name: &str,
        shape: &[usize],
    ) -> Result<(Nf4, Vec<String>), Problem> {
        let mut names = vec![name.to_owned()];
        let mut part = |suffix: &str| {
            let part = format!("{name}.{suffix}");
            let found = stored.present(&part, || {
                format!(
                    "{name} is U8 and has no {name}_scale, so it is read as bitsandbytes' 4 bits"
                )
            })?;
            names.push(part.clone());
            Ok((part, found.0, found.1))
        };
        let (state_name, file, info) = part("quant_state.bitsandbytes__nf4")?;
        let problem = |text: String| Problem {
            file: Some(file),
            text: format!("tensor {state_name}: {text}"),
        };
        let state: State = serde_json::from_slice(stored.bytes(&stored.place(file, info)))
            .map_err(|why| problem(format!("is not the state of a 4-bit tensor: {why}")))?;
        let elements: usize = shape.iter().product();
        let State { quant_type, blocksize, shape: found, nested_blocksize, nested_offset } = state;
        if quant_type != "nf4" || found != shape || !(2..=1 << 20).contains(&blocksize) {
            return Err(problem(format!(
                "has quant_type {quant_type:?}, shape {found:?} and blocksize {blocksize}; expected nf4 of shape {shape:?}"
            )));
        }
        let (map_name, map_file, map) = part("quant_map")?;
        let table = stored.floats(&map_name, map_file, map)?;
        let table: [f32; 16] = table.try_into().map_err(|table: Vec<f32>| {
            problem(format!("its quant_map has {} values, not 16", table.len()))
        })?;
        let blocks = elements.div_ceil(blocksize);
        let (absmax_name, absmax_file, absmax) = part("absmax")?;
        let factors = if absmax.dtype == Dtype::U8 {
            let (nested_name, nested_file, nested) = part("nested_absmax")?;
            let outer = stored.floats(&nested_name, nested_file, nested)?;
            let (inner_name, inner_file, inner) = part("nested_quant_map")?;
            let inner = stored.floats(&inner_name, inner_file, inner)?;
            let block = nested_blocksize.unwrap_or(256).max(1);
            let codes = stored.bytes(&stored.place(absmax_file, absmax));
            if inner.len() != 256 || outer.len() != codes.len().div_ceil(block) {
                return Err(problem(format!(
                    "its nested table has {} values and {} factors for {} blocks of {block}; expected 256, and one for each",
                    inner.len(),
                    outer.len(),
                    codes.len()
                )));
            }
            let offset = nested_offset.unwrap_or(0.0);
            let factor = |(place, &code): (usize, &u8)| {
                inner[usize::from(code)] * outer[place / block] + offset
            };
            codes.iter().enumerate().map(factor).collect()
        } else {
            stored.floats(&absmax_name, absmax_file, absmax)?
        };
        if factors.len() != blocks {
            return Err(problem(format!(
                "its absmax has {} values, expected {blocks}",
                factors.len()
            )));
        }
        let (file, info) = stored.present(name, String::new)?;
        let codes = stored.place(file, info);
        if codes.range.len() != elements.div_ceil(2) {
            return Err(problem(format!(
                "{name} has {} bytes, expected {} for {shape:?}",
                codes.range.len(),
                elements.div_ceil(2)
            )));
        }
        Ok((Nf4 { codes, table, factors, block: blocksize }, names))
    }

    pub(super) fn decode_run(&self, bytes: &Bytes<'_>, start: usize, out: &mut [f32]) {
        let codes = bytes(&self.codes);
        for (index, out) in (start..).zip(out) {
            let code = codes[index / 2] >> (4 * (1 - index % 2)) & 15;
            *out = self.table[usize::from(code)] * self.factors[index / self.block];
        }
    }
}
