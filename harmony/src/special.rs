//! The special tokens of `o200k_harmony`: ids 199998 to 201088.
//!
//! Eight of them structure a conversation; all others are reserved and carry their id in their name.

use std::borrow::Cow;

/// A token's id.
pub type Token = u32;

/// `<|startoftext|>`
pub const START_OF_TEXT: Token = 199_998;
/// `<|endoftext|>`: ends a turn as well, though a harmony conversation has no use for it.
pub const END_OF_TEXT: Token = 199_999;
/// `<|return|>`: the model has finished its answer.
pub const RETURN: Token = 200_002;
/// `<|constrain|>`: what follows is the format that the content keeps to.
pub const CONSTRAIN: Token = 200_003;
/// `<|channel|>`: the channel's name follows.
pub const CHANNEL: Token = 200_005;
/// `<|start|>`: a message's header follows.
pub const START: Token = 200_006;
/// `<|end|>`: the message ends.
pub const END: Token = 200_007;
/// `<|message|>`: the header is over and the content follows.
pub const MESSAGE: Token = 200_008;
/// `<|call|>`: the message ends and is a call that its recipient has to answer.
pub const CALL: Token = 200_012;

/// Number of ids in the vocabulary, special tokens included.
pub const VOCABULARY_SIZE: u32 = 201_089;

const NAMED: [(Token, &str); 9] = [
    (START_OF_TEXT, "<|startoftext|>"),
    (END_OF_TEXT, "<|endoftext|>"),
    (RETURN, "<|return|>"),
    (CONSTRAIN, "<|constrain|>"),
    (CHANNEL, "<|channel|>"),
    (START, "<|start|>"),
    (END, "<|end|>"),
    (MESSAGE, "<|message|>"),
    (CALL, "<|call|>"),
];

/// Tokens at which a message ends.
///
/// ```
/// assert_eq!(ossmith_harmony::special::stop_tokens(), [200_002, 200_007, 200_012]);
/// ```
pub fn stop_tokens() -> [Token; 3] {
    [RETURN, END, CALL]
}

/// Tokens at which sampling for an assistant stops: the answer is complete or a tool has to be called.
pub fn stop_tokens_for_assistant_actions() -> [Token; 2] {
    [RETURN, CALL]
}

/// Whether the id is a special token's.
pub fn is_special(token: Token) -> bool {
    (START_OF_TEXT..VOCABULARY_SIZE).contains(&token)
}

/// A special token's name; none for ordinary tokens and ids outside the vocabulary.
///
/// ```
/// use ossmith_harmony::special;
/// assert_eq!(special::name(200_006).as_deref(), Some("<|start|>"));
/// assert_eq!(special::name(200_014).as_deref(), Some("<|reserved_200014|>"));
/// assert_eq!(special::name(7), None);
/// ```
pub fn name(token: Token) -> Option<Cow<'static, str>> {
    if !is_special(token) {
        return None;
    }
    Some(match NAMED.iter().find(|(id, _)| *id == token) {
        Some((_, name)) => Cow::Borrowed(name),
        None => Cow::Owned(format!("<|reserved_{token}|>")),
    })
}

/// The special token of this name.
pub fn by_name(name: &str) -> Option<Token> {
    if let Some((id, _)) = NAMED.iter().find(|(_, n)| *n == name) {
        return Some(*id);
    }
    let digits = name.strip_prefix("<|reserved_")?.strip_suffix("|>")?;
    let id: Token = digits.parse().ok()?;
    (self::name(id)?.as_ref() == name).then_some(id)
}

/// The first special token written out in `text`, at or after `from`: where it starts, where it ends, its id.
pub(crate) fn find(text: &str, from: usize) -> Option<(usize, usize, Token)> {
    /// `<|reserved_201088|>`
    const LONGEST: usize = 19;
    let mut at = from;
    while let Some(offset) = text.get(at..)?.find("<|") {
        let start = at + offset;
        let rest = &text.as_bytes()[start..text.len().min(start + LONGEST)];
        if let Some(close) = rest.windows(2).position(|w| w == b"|>").filter(|&close| close >= 2) {
            let end = start + close + 2;
            if let Some(id) = text.get(start..end).and_then(by_name) {
                return Some((start, end, id));
            }
        }
        at = start + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_ids() {
        for id in START_OF_TEXT..VOCABULARY_SIZE {
            assert_eq!(by_name(&name(id).expect("a special token has a name")), Some(id));
        }
        for not_a_name in
            ["<|reserved_200002|>", "<|reserved_0200014|>", "<|reserved_201089|>", "<|Start|>", ""]
        {
            assert_eq!(by_name(not_a_name), None, "{not_a_name}");
        }
    }

    #[test]
    fn finds_names_in_text() {
        assert_eq!(find("a<|<|start|>b", 0), Some((3, 12, START)));
        assert_eq!(find("<|start|>", 1), None);
        assert_eq!(find("<|é|> <|reserved_201088|>", 0), Some((7, 26, 201_088)));
        assert_eq!(find("<|", 0), None);
        assert_eq!(find("<|>", 0), None);
    }
}
