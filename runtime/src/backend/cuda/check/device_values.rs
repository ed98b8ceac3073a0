//! Values on the device, read and written as f32, and poisoned so that what a kernel forgets to write shows.

use half::bf16;
use ossmith_scalar::tile_position;

use super::super::cache::DeviceCache;
use super::super::forward::Pass;
use super::super::memory::Buffer;
use crate::Result;

/// The first `count` bf16 elements.
pub(super) fn read_bf16(buffer: &Buffer, count: usize) -> Result<Vec<f32>> {
    let mut bits = vec![0_u16; count];
    buffer.read(0, &mut bits)?;
    Ok(bits.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect())
}

/// The first `count` elements of rows that a GEMM of a step of `tokens` tokens reads, element by element.
pub(super) fn read_rows(
    pass: &Pass,
    buffer: &Buffer,
    count: usize,
    tokens: usize,
) -> Result<Vec<f32>> {
    let rows = read_bf16(buffer, count)?;
    Ok((0..count).map(|element| rows[row_position(pass, tokens, element)]).collect())
}

/// Writes such rows.
pub(super) fn write_rows(pass: &Pass, buffer: &Buffer, rows: &[f32], tokens: usize) -> Result<()> {
    let mut placed = vec![0_u16; rows.len()];
    for (element, &value) in rows.iter().enumerate() {
        placed[row_position(pass, tokens, element)] = bf16::from_f32(value).to_bits();
    }
    buffer.write(0, &placed)
}

/// Where an element stands among the rows that a GEMM of a step of `tokens` tokens reads.
fn row_position(pass: &Pass, tokens: usize, element: usize) -> usize {
    match pass.model.schedule(tokens).tile_order {
        true => tile_position(element as u32) as usize,
        false => element,
    }
}

/// The first `count` f32 elements.
pub(super) fn read_f32(buffer: &Buffer, count: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; count];
    buffer.read(0, &mut values)?;
    Ok(values)
}

/// Fills a whole buffer with bytes that are not a number in any float format.
pub(super) fn poison(buffer: &Buffer) -> Result<()> {
    buffer.write(0, &vec![0xff_u8; buffer.bytes()])
}

/// Fills a whole buffer with zeros.
pub(super) fn clear(buffer: &Buffer) -> Result<()> {
    buffer.write(0, &vec![0_u8; buffer.bytes()])
}

/// One layer's cache on the host, in the device's order.
pub(super) struct LayerSnapshot {
    keys: Vec<u16>,
    values: Vec<u16>,
    kv_heads: usize,
    head_dim: usize,
    page_tokens: usize,
}

impl LayerSnapshot {
    pub(super) fn take(
        cache: &DeviceCache,
        layer: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        let (keys, values) = cache.buffers(layer);
        let read = |buffer: &Buffer| {
            let mut bits = vec![0_u16; buffer.bytes() / 2];
            buffer.read(0, &mut bits)?;
            Ok::<_, crate::Error>(bits)
        };
        let (keys, values) = (read(keys)?, read(values)?);
        Ok(LayerSnapshot {
            keys,
            values,
            kv_heads,
            head_dim,
            page_tokens: cache.page_tokens(layer),
        })
    }

    /// Keys and values of one position, each `[kv_heads, head_dim]`: keys lie as `[page][head][token][dim]`, values
    /// as `[page][head][dim][token]`.
    pub(super) fn position(&self, page: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let (dims, tokens) = (self.head_dim, self.page_tokens);
        let in_page = position % tokens;
        let mut keys = Vec::with_capacity(self.kv_heads * dims);
        let mut values = Vec::with_capacity(self.kv_heads * dims);
        for head in 0..self.kv_heads {
            let base = (page * self.kv_heads + head) * tokens * dims;
            keys.extend((0..dims).map(|dim| self.keys[base + in_page * dims + dim]));
            values.extend((0..dims).map(|dim| self.values[base + dim * tokens + in_page]));
        }
        let widen =
            |bits: Vec<u16>| bits.into_iter().map(|b| bf16::from_bits(b).to_f32()).collect();
        (widen(keys), widen(values))
    }
}
