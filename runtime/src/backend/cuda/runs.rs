//! Which tokens of a step attention takes in tiles, and which one by one.
//!
//! Tokens that follow one another in a sequence see nearly the same keys, and a tile of them reads each key once. A
//! short run would leave most of a tile empty and make too few blocks to be quick over many keys, which the kernel for
//! single tokens splits: it keeps those, and the steps that draw a token for each sequence.

use std::cmp::Reverse;

/// Tokens of the shortest run that is taken in tiles.
const SHORTEST_RUN: usize = 16;

/// A step's tokens as attention takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// First token and number of tokens of each tile. Those that see most come first, so that none of them is left over
    /// at the end.
    pub tiles: Vec<[u32; 2]>,
    /// The other tokens. Empty if there are no tiles: every token is alone then.
    pub alone: Vec<u32>,
}

impl Runs {
    /// Words of the lists of a step of `tokens` tokens at most. A token alone is one word. A tile is two, and stands for
    /// at least eight tokens, or ends a run of at least [`SHORTEST_RUN`].
    pub(super) const fn most_words(tokens: usize) -> usize {
        tokens
    }

    /// Divides the tokens of sequences, each of which begins at a position and appends some tokens.
    pub(super) fn fill(
        &mut self,
        sequences: impl Iterator<Item = (usize, usize)> + Clone,
        tile_tokens: usize,
    ) {
        self.tiles.clear();
        self.alone.clear();
        if sequences.clone().all(|(_, count)| count < SHORTEST_RUN) {
            return;
        }
        let (mut first, mut tiles) = (0, Vec::new());
        for (start, count) in sequences {
            if count < SHORTEST_RUN {
                self.alone.extend((first..first + count).map(|token| token as u32));
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

    /// (start and count of each sequence, tiles of 8, tokens alone).
    type Case = (&'static [(usize, usize)], &'static [[u32; 2]], &'static [u32]);

    const CASES: &[Case] = &[
        (&[(5, 1), (900, 1), (7, 15)], &[], &[]),
        (&[(0, 16)], &[[8, 8], [0, 8]], &[]),
        (&[(100, 1), (0, 17), (3, 2)], &[[17, 1], [9, 8], [1, 8]], &[0, 18, 19]),
        (&[(64, 20), (70, 16)], &[[16, 4], [28, 8], [8, 8], [20, 8], [0, 8]], &[]),
    ];

    #[test]
    fn tokens_are_in_one_list_once_and_the_longest_tiles_come_first() {
        for &(sequences, tiles, alone) in CASES {
            let mut runs = Runs { tiles: vec![[7, 7]], alone: vec![7] };
            runs.fill(sequences.iter().copied(), 8);
            let expected = Runs { tiles: tiles.to_vec(), alone: alone.to_vec() };
            assert_eq!(runs, expected, "{sequences:?}");
            let tokens = sequences.iter().map(|&(_, count)| count).sum();
            let words = 2 * runs.tiles.len() + runs.alone.len();
            assert!(words <= Runs::most_words(tokens), "{sequences:?} make {words} words");
        }
    }
}
