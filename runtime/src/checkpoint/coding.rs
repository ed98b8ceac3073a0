//! How one tensor's values are coded in safetensors files, which tensors belong to it, and decoding: plain floats,
//! 8-bit floats with scales ([`super::fp8`]), bitsandbytes' nf4 ([`super::nf4`]) and MXFP4.

use safetensors::Dtype;

use super::fp8::Fp8;
use super::lookup::{Bytes, Place, Problem, Stored, decode_floats, mismatch};
use super::mxfp4::BLOCK;
use super::nf4::Nf4;

/// A coded tensor.
#[derive(Clone, Debug)]
pub(super) enum Coding {
    Bf16(Place),
    F16(Place),
    F32(Place),
    Fp8(Fp8),
    Nf4(Nf4),
    /// Codes `[rows, k / 32, 16]` and scales `[rows, k / 32]`.
    Mxfp4 {
        blocks: Place,
        scales: Place,
    },
}

impl Coding {
    /// The format, for people.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Coding::Bf16(_) => "bf16",
            Coding::F16(_) => "fp16",
            Coding::F32(_) => "fp32",
            Coding::Fp8(_) => "fp8",
            Coding::Nf4(_) => "nf4",
            Coding::Mxfp4 { .. } => "MXFP4",
        }
    }

    /// Where its values are.
    pub(super) fn places(&self) -> Vec<&Place> {
        match self {
            Coding::Bf16(place) | Coding::F16(place) | Coding::F32(place) => vec![place],
            Coding::Fp8(fp8) => vec![&fp8.values],
            Coding::Nf4(nf4) => vec![&nf4.codes],
            Coding::Mxfp4 { blocks, scales } => vec![blocks, scales],
        }
    }

    /// Values from `start` on, counted through the whole tensor.
    pub(super) fn decode_run(&self, bytes: &Bytes<'_>, start: usize, out: &mut [f32]) {
        match self {
            Coding::Bf16(place) => decode_floats(Dtype::BF16, bytes(place), start, out),
            Coding::F16(place) => decode_floats(Dtype::F16, bytes(place), start, out),
            Coding::F32(place) => decode_floats(Dtype::F32, bytes(place), start, out),
            Coding::Fp8(fp8) => fp8.decode_run(bytes, start, out),
            Coding::Nf4(nf4) => nf4.decode_run(bytes, start, out),
            Coding::Mxfp4 { blocks, scales } => {
                let (blocks, scales) = (bytes(blocks), bytes(scales));
                for (index, out) in (start..).zip(out) {
                    let code = u32::from(blocks[index / 2] >> (4 * (index % 2)) & 15);
                    *out = ossmith_scalar::mxfp4_value(code, u32::from(scales[index / BLOCK]));
                }
            }
        }
    }
}

/// A coded tensor, and the names of the tensors that it consists of.
pub(super) struct Found {
    pub(super) coding: Coding,
    pub(super) names: Vec<String>,
}

/// MXFP4 codes and scales of values in this shape.
pub(super) fn blocks_and_scales(
    stored: &Stored<'_>,
    blocks: &str,
    scales: &str,
    shape: &[usize],
) -> Result<Found, Problem> {
    let mut scale_shape = shape.to_vec();
    if let Some(k) = scale_shape.last_mut() {
        *k /= BLOCK;
    }
    let block_shape: Vec<usize> = scale_shape.iter().copied().chain([BLOCK / 2]).collect();
    let names = vec![blocks.to_owned(), scales.to_owned()];
    let blocks = stored.exact(blocks, Dtype::U8, &block_shape)?;
    let scales = stored.exact(scales, Dtype::U8, &scale_shape)?;
    Ok(Found { coding: Coding::Mxfp4 { blocks, scales }, names })
}

/// A tensor of values in this shape, however they are coded.
pub(super) fn of_values(
    stored: &Stored<'_>,
    name: &str,
    shape: &[usize],
) -> Result<Found, Problem> {
    let (file, info) = stored.present(name, || format!("expected BF16 {shape:?}"))?;
    if info.dtype == Dtype::U8 {
        return match (stored.find)(&format!("{name}_scale")) {
            Some(_) => packed_mxfp4(stored, name, shape),
            None => {
                let (nf4, names) = Nf4::find(stored, name, shape)?;
                Ok(Found { coding: Coding::Nf4(nf4), names })
            }
        };
    }
    let floats = [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F8_E4M3, Dtype::F8_E5M2];
    if info.shape != shape || !floats.contains(&info.dtype) {
        let hint = match info.dtype {
            Dtype::F64 | Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => {
                "; bf16, fp16, fp32, fp8, nf4 and MXFP4 are read: convert the checkpoint to one of these"
            }
            _ => "",
        };
        let mut problem = mismatch(name, file, &format!("BF16 {shape:?}"), info);
        problem.text.push_str(hint);
        return Err(problem);
    }
    let place = stored.place(file, info);
    let mut names = vec![name.to_owned()];
    let coding = match info.dtype {
        Dtype::F16 => Coding::F16(place),
        Dtype::F32 => Coding::F32(place),
        Dtype::F8_E4M3 | Dtype::F8_E5M2 => {
            let (fp8, scale) = Fp8::find(stored, name, place, info)?;
            names.push(scale);
            Coding::Fp8(fp8)
        }
        _ => Coding::Bf16(place),
    };
    Ok(Found { coding, names })
}

/// MXFP4 as Quark packs it: `name` has two codes per byte along k, `name_scale` the block scales.
fn packed_mxfp4(stored: &Stored<'_>, name: &str, shape: &[usize]) -> Result<Found, Problem> {
    let with_k = |divisor: usize| {
        let mut shape = shape.to_vec();
        if let Some(k) = shape.last_mut() {
            *k /= divisor;
        }
        shape
    };
    if !shape.last().is_some_and(|k| k.is_multiple_of(BLOCK)) {
        let (file, info) = stored.present(name, String::new)?;
        return Err(mismatch(name, file, &format!("BF16 {shape:?}"), info));
    }
    let scale = format!("{name}_scale");
    let blocks = stored.exact(name, Dtype::U8, &with_k(2))?;
    let scales = stored.exact(&scale, Dtype::U8, &with_k(BLOCK))?;
    Ok(Found { coding: Coding::Mxfp4 { blocks, scales }, names: vec![name.to_owned(), scale] })
}
