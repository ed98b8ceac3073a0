//! Masks over the vocabulary: bit `id % 32` of word `id / 32`.

use ossmith_harmony::special;

/// Allows a token.
pub fn set(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}

/// Forbids a token.
pub fn clear(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word &= !(1 << (token % 32));
    }
}

/// Whether a token is allowed.
#[must_use]
pub fn get(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// Allows this token and no other.
pub fn only(mask: &mut [u32], token: u32) {
    mask.fill(0);
    set(mask, token);
}

/// Allows all ordinary tokens, and these.
pub fn text_and(mask: &mut [u32], ends: &[u32]) {
    let ordinary = special::START_OF_TEXT;
    let whole = ordinary as usize / 32;
    mask.fill(0);
    let count = mask.len().min(whole);
    mask[..count].fill(u32::MAX);
    (whole as u32 * 32..ordinary).for_each(|token| set(mask, token));
    ends.iter().for_each(|&end| set(mask, end));
}
