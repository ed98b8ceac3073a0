//! The bit layouts that the build script writes and the tokenizer reads; compiled into both.
//!
//! Only shapes and packing live here. The tables themselves are in `tables`, the algorithms in `encode`.

/// Ordinary tokens of o200k; special tokens have larger ids.
pub(crate) const ORDINARY_TOKENS: usize = 199_998;

/// Bits of an ordinary token's id.
const ID_BITS: u32 = 18;
const ID_MASK: u64 = (1 << ID_BITS) - 1;

/// Stands for "no token" in an id's place.
pub(crate) const NO_TOKEN: u32 = ID_MASK as u32;

/// How a token comes about, and what is tried after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// The two tokens that byte-pair encoding joins to make this one; a single byte has itself in both places.
    pub(crate) left: u32,
    pub(crate) right: u32,
    /// The longest other token that this one begins with, or [`NO_TOKEN`].
    pub(crate) prefix: u32,
}

impl Merge {
    #[allow(dead_code)] // written by the build script only
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.left)
            | u64::from(self.right) << ID_BITS
            | u64::from(self.prefix) << (2 * ID_BITS)
    }

    #[allow(dead_code)] // read by the tokenizer only
    pub(crate) fn unpack(bits: u64) -> Self {
        Self {
            left: (bits & ID_MASK) as u32,
            right: (bits >> ID_BITS & ID_MASK) as u32,
            prefix: (bits >> (2 * ID_BITS) & ID_MASK) as u32,
        }
    }
}

/// Slots of the open-addressed table from a pair of tokens to their merge, as a power of two (load 0.38).
pub(crate) const PAIR_SLOT_BITS: u32 = 19;
/// A slot with nothing in it.
pub(crate) const NO_PAIR: u32 = u32::MAX;

/// The slot where the search for a pair starts, and the tag that a slot has to show (14 bits above the merge's id).
pub(crate) fn pair_hash(left: u32, right: u32) -> (usize, u32) {
    let key = u64::from(left) | u64::from(right) << ID_BITS;
    let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((hash >> (64 - PAIR_SLOT_BITS)) as usize, (hash >> 8) as u32 & 0x3FFF)
}

/// A slot's content.
#[allow(dead_code)] // written by the build script only
pub(crate) fn pair_slot(tag: u32, merged: u32) -> u32 {
    tag << ID_BITS | merged
}

/// A slot's tag and merged token.
#[allow(dead_code)] // read by the tokenizer only
pub(crate) fn pair_unslot(slot: u32) -> (u32, u32) {
    (slot >> ID_BITS, slot & ID_MASK as u32)
}

/// A node of the double-array trie over all tokens: child `b` of a node is at `base ^ b` if that entry's label is `b`.
///
/// A node below which only one token is left is a leaf: the rest of that token is compared as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrieNode {
    /// The byte that leads here; none in a free entry.
    pub(crate) label: Option<u8>,
    pub(crate) leaf: bool,
    /// The token that ends here, or for a leaf the only one that goes on; [`NO_TOKEN`] where there is none.
    pub(crate) token: u32,
    pub(crate) base: u32,
}

impl TrieNode {
    #[allow(dead_code)] // written by the build script only
    pub(crate) fn pack(self) -> u64 {
        let label = self.label.map_or(0x100, u64::from);
        label | u64::from(self.leaf) << 9 | u64::from(self.token) << 10 | u64::from(self.base) << 32
    }

    #[allow(dead_code)] // read by the tokenizer only
    pub(crate) fn has_label(bits: u64, label: u8) -> bool {
        bits & 0x1FF == u64::from(label)
    }

    #[allow(dead_code)] // read by the tokenizer only
    pub(crate) fn is_leaf(bits: u64) -> bool {
        bits >> 9 & 1 == 1
    }

    #[allow(dead_code)] // read by the tokenizer only
    pub(crate) fn token_of(bits: u64) -> u32 {
        (bits >> 10 & ID_MASK) as u32
    }

    #[allow(dead_code)] // read by the tokenizer only
    pub(crate) fn base_of(bits: u64) -> usize {
        (bits >> 32) as usize
    }
}

/// Characters in a block of the category table.
pub(crate) const CLASS_BLOCK: usize = 256;

/// What the pre-tokenizer has to know about a character.
pub(crate) mod class {
    /// Neither a letter, a mark, a number nor white space.
    pub(crate) const OTHER: u8 = 0;
    /// Upper-case and title-case letters.
    pub(crate) const UPPER: u8 = 1;
    /// Lower-case letters.
    pub(crate) const LOWER: u8 = 2;
    /// Letters without case, and modifiers.
    pub(crate) const CASELESS: u8 = 3;
    /// Combining marks.
    pub(crate) const MARK: u8 = 4;
    /// Numbers of all kinds.
    pub(crate) const NUMBER: u8 = 5;
    /// White space without carriage return and line feed.
    pub(crate) const SPACE: u8 = 6;
    /// Carriage return and line feed.
    pub(crate) const NEWLINE: u8 = 7;
}
