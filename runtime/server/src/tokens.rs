//! Tokens to text and back, with special tokens by name.

use ossmith_harmony::{SpecialSet, encode_with_special, special, token_bytes};

/// Text as tokens. Special tokens may be written by name, and no text is refused.
pub(crate) fn encode(text: &str) -> Vec<u32> {
    encode_with_special(text, &SpecialSet::All, &SpecialSet::NONE)
        .unwrap_or_else(|_| ossmith_harmony::encode(text))
}

/// Tokens as text. Bytes that are no UTF-8 become U+FFFD.
pub(crate) fn decode(tokens: &[u32]) -> String {
    ossmith_harmony::decode_lossy(tokens).unwrap_or_default()
}

/// A token's bytes. Those of a special token are its name.
pub(crate) fn bytes_of(token: u32) -> Vec<u8> {
    match (token_bytes(token), special::name(token)) {
        (Some(bytes), _) => bytes.to_vec(),
        (None, Some(name)) => name.as_bytes().to_vec(),
        (None, None) => Vec::new(),
    }
}

/// A token's text as Completions' lists and maps have it: a token that is part of a character is named by its bytes, as in
/// `bytes:\\xf0\\x9f`, so that no two tokens have the same name.
pub(crate) fn unique_text_of(token: u32, as_id: bool) -> String {
    let bytes = bytes_of(token);
    if as_id || std::str::from_utf8(&bytes).is_ok() {
        return text_of(token, as_id);
    }
    bytes.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}"))
}

/// A token's text, which has U+FFFD where the token is part of a character; or `token_id:N`.
pub(crate) fn text_of(token: u32, as_id: bool) -> String {
    if as_id {
        return format!("token_id:{token}");
    }
    String::from_utf8_lossy(&bytes_of(token)).into_owned()
}
