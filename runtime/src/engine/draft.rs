//! Drafts from the text itself (prompt lookup): what followed the last few tokens where they stood before is likely to
//! follow them again. Copies, quotations and code profit. A wrong draft token costs its place in the step, so each sample
//! drafts more tokens while its drafts are accepted, and pauses, longer and longer, while they are not ([`DraftState`]).

/// Length of the longest n-gram that is looked for.
const MAX_NGRAM: usize = 4;
/// Length of the shortest.
const MIN_NGRAM: usize = 2;
/// Tokens that are searched, from the end. This bounds the time that a draft takes.
const SEARCH_TOKENS: usize = 8192;
/// Tokens to the next draft after one that was rejected, and after several in a row.
const PAUSES: [usize; 2] = [1, 128];

/// The history of a sample's drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DraftState {
    /// Tokens of the next draft.
    length: usize,
    /// No draft is made before this many tokens are generated.
    resume_at: usize,
    /// The last pause; 0 after a draft that was accepted.
    pause: usize,
}

impl DraftState {
    /// No draft made yet.
    pub(super) fn new() -> DraftState {
        DraftState { length: MIN_NGRAM, resume_at: 0, pause: 0 }
    }

    /// Tokens to draft after `generated` tokens, at most `max_tokens`.
    pub(super) fn length(&self, generated: usize, max_tokens: usize) -> usize {
        if generated < self.resume_at { 0 } else { self.length.min(max_tokens) }
    }

    /// Records that the first `accepted` of `drafted` tokens were accepted, which makes `generated` tokens.
    pub(super) fn record(&mut self, drafted: usize, accepted: usize, generated: usize) {
        if accepted == 0 {
            self.pause = (2 * self.pause).clamp(PAUSES[0], PAUSES[1]);
            (self.length, self.resume_at) = (1, generated + self.pause);
        } else {
            self.pause = 0;
            self.length = if accepted == drafted { 2 * drafted } else { accepted };
        }
    }
}

/// At most `max_tokens` tokens that may follow `tokens`: what followed the latest earlier occurrence of its longest
/// final n-gram, repeated if that is less.
pub(super) fn propose(tokens: &[u32], max_tokens: usize) -> Vec<u32> {
    let tokens = &tokens[tokens.len().saturating_sub(SEARCH_TOKENS)..];
    match after_last_ngram(tokens) {
        Some(after) => tokens[after..].iter().copied().cycle().take(max_tokens).collect(),
        None => Vec::new(),
    }
}

/// Whether the end of `tokens` repeats earlier text, so that it is worth waiting for its last token and drafting.
pub(super) fn is_repeating(tokens: &[u32]) -> bool {
    let tokens = &tokens[tokens.len().saturating_sub(SEARCH_TOKENS)..];
    let Some((last, before)) = tokens.split_last() else { return false };
    after_last_ngram(before).is_some_and(|after| before[after] == *last)
        && after_last_ngram(tokens).is_some()
}

/// The index after the latest earlier occurrence of the longest final n-gram of `tokens`.
fn after_last_ngram(tokens: &[u32]) -> Option<usize> {
    let (&last, before) = tokens.split_last()?;
    let (mut longest, mut found) = (MIN_NGRAM - 1, None);
    for at in (0..before.len()).rev().filter(|&at| before[at] == last) {
        let same = |back: &usize| at >= *back && tokens[at - back] == before[before.len() - back];
        let length = 1 + (1..MAX_NGRAM).take_while(same).count();
        if length > longest {
            (longest, found) = (length, Some(at + 1));
        }
        if longest == MAX_NGRAM {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draft_is_what_followed_the_last_ngram_before() {
        for (tokens, max_tokens, want) in [
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
            assert_eq!(propose(tokens, max_tokens), want, "{tokens:?}");
        }
    }

    #[test]
    fn text_is_repeating_once_a_draft_would_have_been_accepted() {
        for (tokens, want) in [
            (&[1, 2, 3, 1, 2, 3][..], true),
            (&[1, 2, 3, 1, 2], false),
            (&[1, 2, 3, 1, 2, 4], false),
            (&[7, 7, 7, 7], true),
            (&[7], false),
            (&[], false),
        ] {
            assert_eq!(is_repeating(tokens), want, "{tokens:?}");
        }
    }

    #[test]
    fn drafts_grow_while_they_are_accepted_and_pause_while_they_are_not() {
        let mut drafts = DraftState::new();
        let mut lengths = Vec::new();
        let mut generated = 0;
        for _ in 0..4 {
            let drafted = drafts.length(generated, 10);
            generated += drafted + 1;
            drafts.record(drafted, drafted, generated);
            lengths.push(drafted);
        }
        assert_eq!(lengths, [2, 4, 8, 10]);
        drafts.record(10, 3, generated);
        assert_eq!(drafts.length(generated, 10), 3);
        let mut tried = 0;
        for generated in 1000..2000 {
            let drafted = drafts.length(generated, 10);
            if drafted > 0 {
                tried += drafted;
                drafts.record(drafted, 0, generated + 1);
            }
        }
        assert!((8..24).contains(&tried), "{tried} rejected tokens in 1000 tokens");
        drafts.record(1, 1, 3000);
        assert_eq!(drafts.length(3000, 10), 2);
    }
}
