//! Text to tokens and tokens to text, special tokens included.
//!
//! The vocabulary is `o200k_harmony`, embedded: nothing is loaded and nothing can fail to load. Decoding token by token, as a
//! stream needs it, is in [`crate::utf8`].

use crate::bpe;
use crate::special::{self, Token};

/// Which special tokens a text may hold, or must not hold, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecialSet {
    /// All of them. As the disallowed set: all that are not allowed.
    All,
    /// Those with these names. Names that no special token has are allowed without effect; as disallowed they are looked for too.
    Named(Vec<String>),
}

impl SpecialSet {
    /// No special token.
    pub const NONE: Self = Self::Named(Vec::new());

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|n| n == name),
        }
    }
}

/// Why a text was not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the text holds the special token {name:?}, which is disallowed here: allow it, or take it off the disallowed ones to encode it as ordinary text"
)]
pub struct EncodeError {
    /// The token's name as it stands in the text.
    pub name: String,
}

/// Why tokens were not decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The id belongs to no token.
    #[error("token {token} at position {position} is not in the vocabulary (ids go up to 201088)")]
    UnknownToken {
        /// The id.
        token: Token,
        /// Its index.
        position: usize,
    },
    /// The tokens' bytes are not UTF-8, as happens when a stream is cut inside a character.
    #[error(
        "the tokens' bytes are not UTF-8 after byte {valid_bytes}: decode with replacement, or wait for the next token"
    )]
    NotUtf8 {
        /// Number of bytes before the first invalid one.
        valid_bytes: usize,
    },
}

/// Encodes text as ordinary text: what looks like a special token does not become one.
///
/// ```
/// assert_eq!(ossmith_harmony::encode("hello world"), [24912, 2375]);
/// assert_eq!(ossmith_harmony::encode("<|end|>").len(), 5);
/// ```
pub fn encode(text: &str) -> Vec<Token> {
    let mut tokens = Vec::with_capacity(text.len() / 3 + 1);
    encode_into(text, &mut tokens);
    tokens
}

/// [`encode`], appending to `tokens`.
pub fn encode_into(text: &str, tokens: &mut Vec<Token>) {
    bpe::encode_ordinary(text, tokens);
}

/// Encodes text in which allowed special tokens, written by name, become special tokens; a disallowed one is an error.
///
/// ```
/// use ossmith_harmony::{SpecialSet, encode_with_special, special};
/// let tokens = encode_with_special("<|start|>user", &SpecialSet::All, &SpecialSet::All)?;
/// assert_eq!(tokens, [special::START, 1428]);
/// assert!(encode_with_special("<|start|>user", &SpecialSet::NONE, &SpecialSet::All).is_err());
/// # Ok::<(), ossmith_harmony::EncodeError>(())
/// ```
pub fn encode_with_special(
    text: &str,
    allowed: &SpecialSet,
    disallowed: &SpecialSet,
) -> Result<Vec<Token>, EncodeError> {
    refuse_disallowed(text, allowed, disallowed)?;
    let mut tokens = Vec::with_capacity(text.len() / 3 + 1);
    let mut ordinary_from = 0;
    let mut search_from = 0;
    while let Some((start, end, token)) = special::find(text, search_from) {
        if allowed.has(&text[start..end]) {
            encode_into(&text[ordinary_from..start], &mut tokens);
            tokens.push(token);
            ordinary_from = end;
        }
        search_from = end;
    }
    encode_into(&text[ordinary_from..], &mut tokens);
    Ok(tokens)
}

fn refuse_disallowed(
    text: &str,
    allowed: &SpecialSet,
    disallowed: &SpecialSet,
) -> Result<(), EncodeError> {
    match disallowed {
        SpecialSet::All => {
            let mut from = 0;
            while let Some((start, end, _)) = special::find(text, from) {
                if !allowed.has(&text[start..end]) {
                    return Err(EncodeError { name: text[start..end].to_owned() });
                }
                from = end;
            }
            Ok(())
        }
        SpecialSet::Named(names) => match names.iter().find(|name| text.contains(name.as_str())) {
            Some(name) => Err(EncodeError { name: name.clone() }),
            None => Ok(()),
        },
    }
}

/// Appends a token's bytes, a special token's being its name; false, and nothing appended, for an id outside the vocabulary.
pub(crate) fn push_token_bytes(token: Token, bytes: &mut Vec<u8>) -> bool {
    if let Some(text) = bpe::token_bytes(token) {
        bytes.extend_from_slice(text);
        return true;
    }
    match special::name(token) {
        Some(name) => {
            bytes.extend_from_slice(name.as_bytes());
            true
        }
        None => false,
    }
}

/// The bytes of an ordinary token (they need not be whole characters); none for special tokens and unknown ids.
///
/// ```
/// assert_eq!(ossmith_harmony::token_bytes(24912), Some(&b"hello"[..]));
/// assert_eq!(ossmith_harmony::token_bytes(200_006), None);
/// ```
pub fn token_bytes(token: Token) -> Option<&'static [u8]> {
    bpe::token_bytes(token)
}

/// The bytes of all tokens, special tokens by name.
pub fn decode_bytes(tokens: &[Token]) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::with_capacity(tokens.len() * 4);
    for (position, &token) in tokens.iter().enumerate() {
        if !push_token_bytes(token, &mut bytes) {
            return Err(DecodeError::UnknownToken { token, position });
        }
    }
    Ok(bytes)
}

/// The text of the tokens, which has to be whole UTF-8.
///
/// ```
/// use ossmith_harmony::{decode, encode};
/// assert_eq!(decode(&encode("naïve 🙂"))?, "naïve 🙂");
/// # Ok::<(), ossmith_harmony::DecodeError>(())
/// ```
pub fn decode(tokens: &[Token]) -> Result<String, DecodeError> {
    String::from_utf8(decode_bytes(tokens)?)
        .map_err(|e| DecodeError::NotUtf8 { valid_bytes: e.utf8_error().valid_up_to() })
}

/// The text of the tokens, with U+FFFD for each invalid sequence. Ids outside the vocabulary are still an error.
pub fn decode_lossy(tokens: &[Token]) -> Result<String, DecodeError> {
    Ok(match String::from_utf8(decode_bytes(tokens)?) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}
