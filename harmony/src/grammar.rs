//! Which tokens may come next while a header is written, so that a model cannot sample a malformed one.
//!
//! [`HeaderGrammar`] holds the headers that are on offer as a small tree of bytes and marks; [`HeaderState`] is a place in it. It
//! starts after `<|start|>assistant` (or where a completion begins) and ends with `<|message|>`. Any way of cutting the words into
//! tokens is accepted, not only the tokenizer's own, because a model may sample another one. What comes after the header, such as
//! the arguments' schema, is not this module's business.

use crate::bpe;
use crate::special::{CHANNEL, CONSTRAIN, MESSAGE, Token, VOCABULARY_SIZE};

/// What a message may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChoices {
    /// Channels on which text may be written, such as `analysis` and `final`.
    pub channels: Vec<String>,
    /// Recipients that may be called, with the channels of the call, such as `functions.get_weather` on `commentary`.
    pub calls: Vec<CallChoice>,
}

/// A recipient that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallChoice {
    /// The recipient's full name.
    pub recipient: String,
    /// The channel the call is on.
    pub channel: String,
    /// Content types the model may state, such as `json`; it may always state none.
    pub formats: Vec<String>,
}

impl HeaderChoices {
    /// gpt-oss's channels, and calls of these functions as JSON on `commentary`.
    pub fn functions<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let call = |name| CallChoice {
            recipient: format!("functions.{name}"),
            channel: "commentary".to_owned(),
            formats: vec!["json".to_owned()],
        };
        Self {
            channels: ["analysis", "commentary", "final"].map(str::to_owned).to_vec(),
            calls: names.into_iter().map(call).collect(),
        }
    }
}

/// All headers that may be written.
///
/// ```
/// use ossmith_harmony::{HeaderChoices, HeaderGrammar, encode, special};
/// let grammar = HeaderGrammar::new(&HeaderChoices::functions(["get_weather"]));
/// let mut state = grammar.start();
/// assert!(grammar.allowed(state).contains(&special::CHANNEL));
/// for token in [vec![special::CHANNEL], encode("commentary"), encode(" to=functions.get_weather")].concat() {
///     state = grammar.next(state, token).expect("on offer");
/// }
/// assert_eq!(grammar.next(state, encode("_in")[0]), None); // there is no get_weather_in
/// let end = grammar.next(state, special::MESSAGE).expect("the header may end here");
/// assert!(grammar.is_complete(end));
/// ```
#[derive(Clone, Debug)]
pub struct HeaderGrammar {
    /// The tree; node 0 is the start.
    nodes: Vec<Node>,
}

/// A place in a header. It is a number: copy it freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeaderState(u32);

/// A place, and what leads to it from its parent. Children are a list of siblings: an agent's hundred functions make thousands
/// of places, most of which have one child.
#[derive(Clone, Copy, Debug)]
struct Node {
    label: Label,
    first_child: u32,
    next_sibling: u32,
}

/// No node.
const NONE: u32 = u32::MAX;

/// What leads to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    /// Nothing: the start.
    Start,
    Byte(u8),
    Mark(Token),
}

impl Node {
    fn new(label: Label) -> Self {
        Self { label, first_child: NONE, next_sibling: NONE }
    }
}

/// A part of a header.
#[derive(Clone, Copy)]
enum Part<'a> {
    Text(&'a str),
    Mark(Token),
}

impl HeaderGrammar {
    /// The grammar of these choices. The recipient of a call may stand before or after the channel.
    pub fn new(choices: &HeaderChoices) -> Self {
        use Part::{Mark, Text};
        let mut grammar = Self { nodes: vec![Node::new(Label::Start)] };
        for channel in &choices.channels {
            grammar.add(&[Mark(CHANNEL), Text(channel), Mark(MESSAGE)]);
        }
        for call in &choices.calls {
            let recipient = format!(" to={}", call.recipient);
            let mut formats = vec![vec![]];
            for format in &call.formats {
                // A model writes the mark with and without a space before it, and the bare word.
                formats.push(vec![Mark(CONSTRAIN), Text(format)]);
                formats.push(vec![Text(" "), Mark(CONSTRAIN), Text(format)]);
                formats.push(vec![Text(" "), Text(format)]);
            }
            for format in formats {
                let ends = [format, vec![Mark(MESSAGE)]].concat();
                let before = vec![Text(&recipient), Mark(CHANNEL), Text(&call.channel)];
                let after = vec![Mark(CHANNEL), Text(&call.channel), Text(&recipient)];
                grammar.add(&[before, ends.clone()].concat());
                grammar.add(&[after, ends].concat());
            }
        }
        grammar
    }

    fn add(&mut self, parts: &[Part<'_>]) {
        let mut at = 0;
        for part in parts {
            match part {
                Part::Mark(token) => at = self.child_or_new(at, Label::Mark(*token)),
                Part::Text(text) => {
                    for byte in text.bytes() {
                        at = self.child_or_new(at, Label::Byte(byte));
                    }
                }
            }
        }
    }

    fn child_or_new(&mut self, at: u32, label: Label) -> u32 {
        if let Some(child) = self.child(at, label) {
            return child;
        }
        let fresh = self.nodes.len() as u32;
        let parent = &mut self.nodes[at as usize];
        let next_sibling = std::mem::replace(&mut parent.first_child, fresh);
        self.nodes.push(Node { next_sibling, ..Node::new(label) });
        fresh
    }

    fn child(&self, at: u32, label: Label) -> Option<u32> {
        self.children(at).find(|(_, node)| node.label == label).map(|(child, _)| child)
    }

    fn children(&self, at: u32) -> impl Iterator<Item = (u32, &Node)> {
        let mut next = self.nodes.get(at as usize).map_or(NONE, |node| node.first_child);
        std::iter::from_fn(move || {
            let (child, node) = (next, self.nodes.get(next as usize)?);
            next = node.next_sibling;
            Some((child, node))
        })
    }

    /// Before the header's first token.
    pub fn start(&self) -> HeaderState {
        HeaderState(0)
    }

    /// The place after this token; none where it may not come.
    pub fn next(&self, state: HeaderState, token: Token) -> Option<HeaderState> {
        let after = match bpe::token_bytes(token) {
            None => self.child(state.0, Label::Mark(token)),
            Some(bytes) => {
                bytes.iter().try_fold(state.0, |at, &byte| self.child(at, Label::Byte(byte)))
            }
        };
        after.map(HeaderState)
    }

    /// Whether the header is complete: `<|message|>` was the last token.
    pub fn is_complete(&self, state: HeaderState) -> bool {
        self.nodes.get(state.0 as usize).is_some_and(|node| node.first_child == NONE)
    }

    /// The tokens that may come next, in ascending order; none after a complete header.
    pub fn allowed(&self, state: HeaderState) -> Vec<Token> {
        let mut tokens = Vec::new();
        // Walk all texts from here; each step that is a whole token is a choice.
        let mut todo = vec![(state.0, Vec::new())];
        while let Some((at, text)) = todo.pop() {
            for (child, node) in self.children(at) {
                match node.label {
                    Label::Byte(byte) => {
                        let mut longer: Vec<u8> = text.clone();
                        longer.push(byte);
                        tokens.extend(bpe::token_of(&longer));
                        if longer.len() < bpe::MAX_TOKEN_BYTES {
                            todo.push((child, longer));
                        }
                    }
                    // A mark is a token of its own, so it ends no text.
                    Label::Mark(token) if text.is_empty() => tokens.push(token),
                    Label::Mark(_) | Label::Start => {}
                }
            }
        }
        tokens.sort_unstable();
        tokens
    }

    /// Writes the allowed tokens as a mask, bit `i % 32` of word `i / 32` for token `i`; further words are cleared.
    ///
    /// The mask has to have at least [`HeaderGrammar::MASK_WORDS`] words; tokens beyond a shorter one are left out.
    pub fn fill_mask(&self, state: HeaderState, mask: &mut [u32]) {
        mask.fill(0);
        for token in self.allowed(state) {
            if let Some(word) = mask.get_mut(token as usize / 32) {
                *word |= 1 << (token % 32);
            }
        }
    }

    /// Words of 32 bits that a mask over the whole vocabulary takes.
    pub const MASK_WORDS: usize = VOCABULARY_SIZE.div_ceil(32) as usize;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Role, SpecialSet, encode_with_special, parse_lenient};

    fn walk(grammar: &HeaderGrammar, text: &str) -> Option<HeaderState> {
        let tokens = encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE)
            .expect("nothing is disallowed");
        tokens.into_iter().try_fold(grammar.start(), |state, token| {
            let next = grammar.next(state, token);
            assert_eq!(next.is_some(), grammar.allowed(state).contains(&token), "{text}: {token}");
            next
        })
    }

    #[test]
    fn only_what_is_offered_can_be_written() {
        let grammar = HeaderGrammar::new(&HeaderChoices::functions(["get_weather", "get"]));
        for good in [
            "<|channel|>final<|message|>",
            "<|channel|>commentary<|message|>",
            "<|channel|>commentary to=functions.get<|message|>",
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
            " to=functions.get_weather<|channel|>commentary json<|message|>",
        ] {
            assert!(walk(&grammar, good).is_some_and(|state| grammar.is_complete(state)), "{good}");
        }
        for bad in [
            "<|message|>",
            "<|channel|><|message|>",
            "<|channel|>thoughts<|message|>",
            "<|channel|>final to=functions.get<|message|>",
            "<|channel|>commentary to=functions.other<|message|>",
            "<|channel|>commentary to=functions.get_<|message|>",
            "<|return|>",
            "hello",
        ] {
            assert_eq!(walk(&grammar, bad), None, "{bad}");
        }
    }

    #[test]
    fn every_walk_ends_and_parses_without_repairs() {
        let grammar = HeaderGrammar::new(&HeaderChoices::functions(["get_weather", "get", "名前"]));
        // A walk that takes another one of the choices each time, wherever it is.
        for seed in 0..200u64 {
            let (mut state, mut tokens, mut random) = (grammar.start(), Vec::new(), seed + 1);
            while !grammar.is_complete(state) {
                let allowed = grammar.allowed(state);
                assert!(!allowed.is_empty(), "a dead end after {tokens:?}");
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let token = allowed[(random >> 33) as usize % allowed.len()];
                tokens.push(token);
                state = grammar.next(state, token).expect("an allowed token");
            }
            let parsed = parse_lenient(&tokens, Some(Role::Assistant));
            assert!(parsed.repairs.is_empty(), "{tokens:?}: {:?}", parsed.repairs);
        }
    }

    #[test]
    fn the_mask_has_the_allowed_tokens() {
        let grammar = HeaderGrammar::new(&HeaderChoices::functions([]));
        let mut mask = vec![u32::MAX; HeaderGrammar::MASK_WORDS];
        grammar.fill_mask(grammar.start(), &mut mask);
        assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
        assert_eq!(mask[CHANNEL as usize / 32] >> (CHANNEL % 32) & 1, 1);
    }
}
