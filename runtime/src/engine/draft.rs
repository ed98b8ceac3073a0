//! Guesses from the text itself: where the last few tokens stood before, what followed them then is likely to follow
//! again. Copies, quotations and code profit; a wrong guess costs its place in the step and nothing else.

/// Longest run of last tokens that is looked for.
const LONGEST: usize = 4;
/// Shortest.
const SHORTEST: usize = 2;
/// Tokens that are searched, from the end: bounds the time of a guess.
const REACH: usize = 8192;

/// At most `most` tokens that may follow `tokens`: what followed the latest earlier occurrence of its longest end, over
/// and over if that is less.
pub(super) fn guess(tokens: &[u32], most: usize) -> Vec<u32> {
    let tokens = &tokens[tokens.len().saturating_sub(REACH)..];
    if most == 0 {
        return Vec::new();
    }
    for length in (SHORTEST..=LONGEST).rev().filter(|&length| length < tokens.len()) {
        let end = &tokens[tokens.len() - length..];
        let earlier = tokens[..tokens.len() - 1].windows(length).rposition(|run| run == end);
        if let Some(at) = earlier {
            return tokens[at + length..].iter().copied().cycle().take(most).collect();
        }
    }
    Vec::new()
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
}
