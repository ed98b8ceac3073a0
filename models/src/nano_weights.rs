//! nano's trained weights, embedded as the zstd file that `tools/nano-training` made, and the questions by which
//! `ossmith eval nano` measures what they can do.

use std::io::{self, Read};

use ruzstd::decoding::StreamingDecoder;

static COMPRESSED: &[u8] = include_bytes!("../nano/model.safetensors.zst");

/// Questions for nano with the rules by which an answer is right, one JSON object per line; they were made apart from
/// the training, from another seed.
pub static NANO_EVAL: &str = include_str!("../nano/eval.jsonl");

/// nano's checkpoint: a safetensors file in Hugging Face's layout, 214 MB, decompressed anew by each call.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`] where there is not so much memory; a damaged file, which only a broken build can hold.
pub fn nano_checkpoint() -> io::Result<Vec<u8>> {
    let mut decoder = StreamingDecoder::new(COMPRESSED).map_err(io::Error::other)?;
    let size = usize::try_from(decoder.decoder.content_size()).map_err(io::Error::other)?;
    let mut file = Vec::new();
    file.try_reserve_exact(size).map_err(|_| {
        let why = format!("nano's weights need {} MB of memory", size.div_ceil(1_000_000));
        io::Error::new(io::ErrorKind::OutOfMemory, why)
    })?;
    decoder.read_to_end(&mut file)?;
    if file.len() != size {
        return Err(io::Error::other(format!("{} bytes of {size}", file.len())));
    }
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_file_is_small_and_whole() {
        assert!(COMPRESSED.len() <= 8_000_000, "{} bytes", COMPRESSED.len());
        let file = nano_checkpoint().unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap());
        assert!(header < file.len() as u64 && file[8] == b'{');
    }
}
