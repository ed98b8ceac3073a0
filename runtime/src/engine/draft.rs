//! Guesses from the text itself: where the last few tokens stood before, what followed them then is likely to follow
//! again. Copies, quotations and code profit. A wrong guess costs its place in the step, so each sample guesses further
//! ahead while its guesses hold, and pauses, longer and longer, when they do not ([`Drafting`]).

/// Longest run of last tokens that is looked for.
const LONGEST: usize = 4;
/// Shortest.
const SHORTEST: usize = 2;
/// Tokens that are searched, from the end: bounds the time of a guess.
const REACH: usize = 8192;
/// Tokens to the next guess after one that was wrong, and after several in a row.
const PAUSES: [usize; 2] = [1, 128];

/// How a sample's guesses fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drafting {
    /// Tokens to guess next time.
    ahead: usize,
    /// Generated tokens before which nothing is guessed.
    from: usize,
    /// The last pause; 0 after a guess that held.
    pause: usize,
}

impl Drafting {
    /// Nothing guessed yet.
    pub(super) fn new() -> Drafting {
        Drafting { ahead: SHORTEST, from: 0, pause: 0 }
    }

    /// Tokens to guess after `generated` tokens, at most `most`.
    pub(super) fn ahead(&self, generated: usize, most: usize) -> usize {
        if generated < self.from { 0 } else { self.ahead.min(most) }
    }

    /// Takes note that the first `right` of so many guesses held, which makes `generated` tokens.
    pub(super) fn settle(&mut self, guesses: usize, right: usize, generated: usize) {
        if right == 0 {
            self.pause = (2 * self.pause).clamp(PAUSES[0], PAUSES[1]);
            (self.ahead, self.from) = (1, generated + self.pause);
        } else {
            self.pause = 0;
            self.ahead = if right == guesses { 2 * guesses } else { right };
        }
    }
}

/// At most `most` tokens that may follow `tokens`: what followed the latest earlier occurrence of its longest end, over
/// and over if that is less.
pub(super) fn guess(tokens: &[u32], most: usize) -> Vec<u32> {
    let tokens = &tokens[tokens.len().saturating_sub(REACH)..];
    match latest(tokens) {
        Some(after) => tokens[after..].iter().copied().cycle().take(most).collect(),
        None => Vec::new(),
    }
}

/// Whether the end of `tokens` goes on as it did before, so that what follows is worth waiting for and guessing.
pub(super) fn copies(tokens: &[u32]) -> bool {
    let tokens = &tokens[tokens.len().saturating_sub(REACH)..];
    let Some((last, before)) = tokens.split_last() else { return false };
    latest(before).is_some_and(|after| before[after] == *last) && latest(tokens).is_some()
}

/// The place after the latest earlier occurrence of the longest end of `tokens`.
fn latest(tokens: &[u32]) -> Option<usize> {
    let (&last, before) = tokens.split_last()?;
    let (mut best, mut found) = (SHORTEST - 1, None);
    for at in (0..before.len()).rev().filter(|&at| before[at] == last) {
        let same = |back: &usize| at >= *back && tokens[at - back] == before[before.len() - back];
        let length = 1 + (1..LONGEST).take_while(same).count();
        if length > best {
            (best, found) = (length, Some(at + 1));
        }
        if best == LONGEST {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        for (tokens, most, want) in [
            (&[1, 2, 3, 4, 1, 2][..], 3, &[3, 4, 1][..]),
            (&[1, 2, 3, 9, 2, 3, 7, 2, 3], 2, &[7, 2]),
            (&[5, 1, 2, 3, 8, 7, 2, 3, 9, 1, 2, 3], 1, &[8]),
            (&[4, 4, 4], 5, &[4, 4, 4, 4, 4]),
            (&[1, 2, 1, 2], 5, &[1, 2, 1, 2, 1]),
            (&[1, 2, 3], 4, &[]),
            (&[1], 4, &[]),
            (&[], 4, &[]),
            (&[1, 2, 3, 1, 2], 0, &[]),
        ] {
            assert_eq!(guess(tokens, most), want, "{tokens:?}");
        }
    }

    #[test]
    fn a_copy_is_seen_once_a_guess_would_have_held() {
        for (tokens, want) in [
            (&[1, 2, 3, 1, 2, 3][..], true),
            (&[1, 2, 3, 1, 2], false),
            (&[1, 2, 3, 1, 2, 4], false),
            (&[7, 7, 7, 7], true),
            (&[7], false),
            (&[], false),
        ] {
            assert_eq!(copies(tokens), want, "{tokens:?}");
        }
    }

    #[test]
    fn guesses_reach_further_while_they_hold_and_pause_when_they_do_not() {
        let mut drafting = Drafting::new();
        let mut ahead = Vec::new();
        let mut generated = 0;
        for _ in 0..4 {
            let guesses = drafting.ahead(generated, 10);
            generated += guesses + 1;
            drafting.settle(guesses, guesses, generated);
            ahead.push(guesses);
        }
        assert_eq!(ahead, [2, 4, 8, 10]);
        drafting.settle(10, 3, generated);
        assert_eq!(drafting.ahead(generated, 10), 3);
        let mut tried = 0;
        for generated in 1000..2000 {
            let guesses = drafting.ahead(generated, 10);
            if guesses > 0 {
                tried += guesses;
                drafting.settle(guesses, 0, generated + 1);
            }
        }
        assert!((8..24).contains(&tried), "{tried} wrong guesses in 1000 tokens");
        drafting.settle(1, 1, 3000);
        assert_eq!(drafting.ahead(3000, 10), 2);
    }
}
