//! The embedded tables (written by the build script) and how to read them.

use super::layout::{
    CLASS_BLOCK, Merge, NO_PAIR, ORDINARY_TOKENS, PAIR_SLOT_BITS, TrieNode, pair_hash, pair_unslot,
};

static TOKEN_TEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/token_text.bin"));
static TOKEN_ENDS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/token_ends.bin"));
static MERGES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/merges.bin"));
static PAIRS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pairs.bin"));
static TRIE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/trie.bin"));
static CLASS_BLOCKS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/class_blocks.bin"));
static CLASSES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.bin"));

#[inline]
fn read_u32(table: &[u8], index: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&table[index * 4..index * 4 + 4]);
    u32::from_le_bytes(bytes)
}

#[inline]
fn read_u64(table: &[u8], index: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&table[index * 8..index * 8 + 8]);
    u64::from_le_bytes(bytes)
}

/// The bytes of an ordinary token; none for any other id.
#[inline]
pub(crate) fn token_bytes(id: u32) -> Option<&'static [u8]> {
    let id = id as usize;
    if id >= ORDINARY_TOKENS {
        return None;
    }
    let start = if id == 0 { 0 } else { read_u32(TOKEN_ENDS, id - 1) as usize };
    Some(&TOKEN_TEXT[start..read_u32(TOKEN_ENDS, id) as usize])
}

/// How an ordinary token is merged.
#[inline]
pub(crate) fn merge(id: u32) -> Merge {
    Merge::unpack(read_u64(MERGES, id as usize))
}

/// The two tokens that an ordinary token is merged from; none for a single byte.
pub(crate) fn merge_of(id: u32) -> Option<(u32, u32)> {
    let Merge { left, right, .. } = merge(id);
    (left != id).then_some((left, right))
}

/// The token that two tokens merge to.
#[inline]
pub(crate) fn merged(left: u32, right: u32) -> Option<u32> {
    let (mut slot, tag) = pair_hash(left, right);
    loop {
        let content = read_u32(PAIRS, slot);
        if content == NO_PAIR {
            return None;
        }
        let (slot_tag, id) = pair_unslot(content);
        if slot_tag == tag {
            let found = merge(id);
            if found.left == left && found.right == right {
                return Some(id);
            }
        }
        slot = (slot + 1) & ((1 << PAIR_SLOT_BITS) - 1);
    }
}

/// The longest token that `text` begins with, and its length. `text` must not be empty.
#[inline]
pub(crate) fn longest_token(text: &[u8]) -> (u32, usize) {
    let mut best = (u32::from(text[0]), 0);
    let mut base = TrieNode::base_of(read_u64(TRIE, 0));
    for (depth, &byte) in text.iter().enumerate() {
        let node = read_u64(TRIE, base ^ usize::from(byte));
        if !TrieNode::has_label(node, byte) {
            break;
        }
        let token = TrieNode::token_of(node);
        if TrieNode::is_leaf(node) {
            let bytes = token_bytes(token).unwrap_or_default();
            if bytes.len() == depth + 1 || text[depth + 1..].starts_with(&bytes[depth + 1..]) {
                best = (token, bytes.len());
            }
            break;
        }
        if token != super::layout::NO_TOKEN {
            best = (token, depth + 1);
        }
        base = TrieNode::base_of(node);
    }
    best
}

/// Bytes of the longest token (128 spaces).
pub(crate) const MAX_TOKEN_BYTES: usize = 128;

/// The token that is exactly this text, if there is one.
pub(crate) fn token_of(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let (token, len) = longest_token(text);
    (len == text.len()).then_some(token)
}

/// The class (see [`super::layout::class`]) of a character.
#[inline]
pub(crate) fn class_of(code: u32) -> u8 {
    let block = CLASS_BLOCKS[code as usize / CLASS_BLOCK];
    CLASSES[usize::from(block) * CLASS_BLOCK + code as usize % CLASS_BLOCK]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_the_longest_match_of_its_own_text() {
        for id in 0..ORDINARY_TOKENS as u32 {
            let bytes = token_bytes(id).expect("an ordinary token");
            assert_eq!(longest_token(bytes), (id, bytes.len()));
            assert!(bytes.len() <= MAX_TOKEN_BYTES);
        }
    }

    #[test]
    fn every_merge_is_found() {
        for id in 256..ORDINARY_TOKENS as u32 {
            let made_of = merge(id);
            assert_eq!(merged(made_of.left, made_of.right), Some(id));
        }
        assert_eq!(merged(5, 199_000), None);
    }

    #[test]
    fn classes_follow_unicode() {
        use super::super::layout::class;
        for (character, class) in [
            ('a', class::LOWER),
            ('Ä', class::UPPER),
            ('ǅ', class::UPPER),
            ('中', class::CASELESS),
            ('\u{301}', class::MARK),
            ('٣', class::NUMBER),
            ('\u{a0}', class::SPACE),
            ('\r', class::NEWLINE),
            ('🙂', class::OTHER),
            ('\u{10ffff}', class::OTHER),
        ] {
            assert_eq!(class_of(character as u32), class, "{character:?}");
        }
    }
}
