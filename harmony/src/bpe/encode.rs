//! Byte-pair encoding of a piece in linear time, by longest match with backtracking.
//!
//! Byte-pair encoding has two properties that make this exact: whether two neighbouring tokens may stand side by side depends on
//! them alone, and every prefix of a text has one encoding. So tokens are laid from the left, longest first; one that cannot stand
//! beside its neighbour is replaced by its next shorter prefix; and a position from which nothing leads on is never tried again.
//! (The idea is that of the crate `bpe`; this is written anew on the embedded tables.)

use super::layout::NO_TOKEN;
use super::split::piece_end;
use super::tables::{longest_token, merge, merged, token_bytes};

/// Appends the tokens of `text`, read as ordinary text.
pub(crate) fn encode_ordinary(text: &str, out: &mut Vec<u32>) {
    let text = text.as_bytes();
    let mut start = 0;
    while start < text.len() {
        let end = piece_end(text, start);
        encode_piece(&text[start..end], out);
        start = end;
    }
}

#[inline]
fn encode_piece(piece: &[u8], out: &mut Vec<u32>) {
    let (token, len) = longest_token(piece);
    if len == piece.len() {
        out.push(token);
    } else {
        backtrack(piece, token, len, out);
    }
}

/// Encodes a piece that is more than one token; `token` is the longest one at its start.
fn backtrack(piece: &[u8], mut token: u32, mut len: usize, out: &mut Vec<u32>) {
    let first = out.len();
    let mut dead_ends = DeadEnds::default();
    let mut at = 0;
    loop {
        let end = at + len;
        if !dead_ends.contains(end)
            && (out.len() == first || border_stands(out[out.len() - 1], token))
        {
            out.push(token);
            at = end;
            if at == piece.len() {
                return;
            }
            (token, len) = longest_token(&piece[at..]);
            continue;
        }
        let shorter = merge(token).prefix;
        if shorter != NO_TOKEN {
            token = shorter;
        } else if out.len() > first {
            // Nothing leads on from here: take the last token back and try what is shorter than it.
            dead_ends.insert(at, piece.len());
            token = out.pop().unwrap_or(token);
            at -= token_bytes(token).map_or(0, <[u8]>::len);
        } else {
            // Every text has an encoding, so this is not reached; single bytes are always right to decode.
            debug_assert!(false, "no encoding for {piece:?}");
            out.extend(piece.iter().map(|&b| u32::from(b)));
            return;
        }
        len = token_bytes(token).map_or(1, <[u8]>::len);
    }
}

/// Whether byte-pair encoding leaves the border between two neighbouring tokens alone.
///
/// Undoes the merges beside the border, the latest first. Before each was made, the two tokens that touched the border could
/// have been merged instead: if that merge comes earlier, the border does not stand.
fn border_stands(mut left: u32, mut right: u32) -> bool {
    let mut before = u32::MAX;
    loop {
        if merged(left, right).is_some_and(|id| id < before) {
            return false;
        }
        if left.max(right) < 256 {
            return true;
        }
        if left > right {
            before = left;
            left = merge(left).right;
        } else {
            // Of two equal merges the left one is made first, so an equal one across the border also comes earlier.
            before = right + 1;
            right = merge(right).left;
        }
    }
}

/// The positions of a piece from which no encoding leads on.
#[derive(Default)]
struct DeadEnds {
    near: u64,
    far: Vec<u64>,
}

impl DeadEnds {
    fn contains(&self, at: usize) -> bool {
        match at {
            0..64 => self.near >> at & 1 == 1,
            _ => self.far.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1),
        }
    }

    fn insert(&mut self, at: usize, piece_len: usize) {
        if at < 64 {
            self.near |= 1 << at;
            return;
        }
        if self.far.is_empty() {
            self.far = vec![0; piece_len / 64 + 1];
        }
        self.far[at / 64] |= 1 << (at % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte-pair encoding as it is defined: the pair with the lowest id is merged first, the left one of equals.
    fn naive(piece: &[u8]) -> Vec<u32> {
        let id_of = |bytes: &[u8]| match longest_token(bytes) {
            (id, len) if len == bytes.len() => Some(id),
            _ => None,
        };
        let mut cuts: Vec<usize> = (0..=piece.len()).collect();
        while let Some((_, i)) = (0..cuts.len().saturating_sub(2))
            .filter_map(|i| Some((id_of(&piece[cuts[i]..cuts[i + 2]])?, i)))
            .min()
        {
            cuts.remove(i + 1);
        }
        cuts.windows(2).filter_map(|w| id_of(&piece[w[0]..w[1]])).collect()
    }

    proptest::proptest! {
        #[test]
        fn backtracking_equals_merging(piece in "[a-dA-D]{1,40}|[ -~]{1,30}|[а-яё]{1,20}|[一-龥]{1,15}|\\PC{1,12}") {
            let mut fast = Vec::new();
            encode_piece(piece.as_bytes(), &mut fast);
            proptest::prop_assert_eq!(fast, naive(piece.as_bytes()));
        }

        #[test]
        fn raw_bytes_too(piece in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..60)) {
            let mut fast = Vec::new();
            encode_piece(&piece, &mut fast);
            proptest::prop_assert_eq!(fast, naive(&piece));
        }
    }
}
