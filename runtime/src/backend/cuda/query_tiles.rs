//! Which tokens of a step attention takes in tiles, and which one by one.
//!
//! Consecutive tokens of a sequence see nearly the same keys, and a tile of them reads each key once. A short query segment
//! would leave most of a tile empty and make too few blocks to be quick over many keys, which the kernel for single-query
//! tokens splits: it keeps those, and the steps that sample a token for each sequence.

use std::cmp::Reverse;

/// Tokens of the shortest query segment that is taken in tiles.
const SHORTEST_SEGMENT: usize = 16;

/// A step's tokens as attention takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct QueryTiles {
    /// First token and number of tokens of each tile. Those that see most come first, so that none of them is left over
    /// at the end.
    pub tiles: Vec<[u32; 2]>,
    /// The other tokens. Empty if there are no tiles: then every token is a single-query token.
    pub single_query_tokens: Vec<u32>,
}

impl QueryTiles {
    /// Most words of the lists of a step of `tokens` tokens. A single-query token is one word. A tile is two, and stands for
    /// at least eight tokens, or ends a segment of at least [`SHORTEST_SEGMENT`].
    pub(super) const fn max_words(tokens: usize) -> usize {
        tokens
    }

    /// Divides the tokens of sequences, each of which begins at a position and appends some tokens.
    pub(super) fn fill(
        &mut self,
        sequences: impl Iterator<Item = (usize, usize)> + Clone,
        tile_tokens: usize,
    ) {
        self.tiles.clear();
        self.single_query_tokens.clear();
        if sequences.clone().all(|(_, count)| count < SHORTEST_SEGMENT) {
            return;
        }
        let (mut first, mut tiles) = (0, Vec::new());
        for (start, count) in sequences {
            if count < SHORTEST_SEGMENT {
                self.single_query_tokens.extend((first..first + count).map(|token| token as u32));
            } else {
                for offset in (0..count).step_by(tile_tokens) {
                    let tokens = tile_tokens.min(count - offset);
                    tiles.push((start + offset, [(first + offset) as u32, tokens as u32]));
                }
            }
            first += count;
        }
        tiles.sort_by_key(|&(position, _)| Reverse(position));
        self.tiles.extend(tiles.into_iter().map(|(_, tile)| tile));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (start and count of each sequence, tiles of 8, single-query tokens).
    type Case = (&'static [(usize, usize)], &'static [[u32; 2]], &'static [u32]);

    const CASES: &[Case] = &[
        (&[(5, 1), (900, 1), (7, 15)], &[], &[]),
        (&[(0, 16)], &[[8, 8], [0, 8]], &[]),
        (&[(100, 1), (0, 17), (3, 2)], &[[17, 1], [9, 8], [1, 8]], &[0, 18, 19]),
        (&[(64, 20), (70, 16)], &[[16, 4], [28, 8], [8, 8], [20, 8], [0, 8]], &[]),
    ];

    #[test]
    fn tokens_are_in_one_list_once_and_the_longest_tiles_come_first() {
        for &(sequences, tiles, singles) in CASES {
            let mut divided = QueryTiles { tiles: vec![[7, 7]], single_query_tokens: vec![7] };
            divided.fill(sequences.iter().copied(), 8);
            let expected =
                QueryTiles { tiles: tiles.to_vec(), single_query_tokens: singles.to_vec() };
            assert_eq!(divided, expected, "{sequences:?}");
            let tokens = sequences.iter().map(|&(_, count)| count).sum();
            let words = 2 * divided.tiles.len() + divided.single_query_tokens.len();
            assert!(words <= QueryTiles::max_words(tokens), "{sequences:?} make {words} words");
        }
    }
}
