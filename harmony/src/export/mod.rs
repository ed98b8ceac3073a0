//! The tokenizer in the files of Hugging Face's libraries: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and
//! the chat template. They are made from the embedded tables, so they give the ids of this crate.
//!
//! Not here: writing to a folder (the command) and serving over HTTP (the server).

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::bpe::{merge_of, token_bytes};
use crate::special::{END_OF_TEXT, RETURN, START_OF_TEXT, VOCABULARY_SIZE, name};

/// The template that makes a prompt of messages and tools, in Jinja as transformers runs it.
pub const CHAT_TEMPLATE: &str = include_str!("chat_template.jinja");

/// Tokens of a prompt and its answer that gpt-oss models were trained for.
pub const MODEL_MAX_LENGTH: usize = 131_072;

/// The pattern by which text is cut into pieces, for an engine with look-ahead.
const PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Writes `tokenizer.json`, which the library `tokenizers` reads (11 MB).
///
/// # Errors
/// `out` cannot be written to.
pub fn write_tokenizer_json(out: &mut impl Write) -> io::Result<()> {
    let added: Vec<Value> = (START_OF_TEXT..VOCABULARY_SIZE)
        .map(|id| with(json!({"id": id, "content": name(id)}), special_flags()))
        .collect();
    let split = json!({
        "type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": false,
    });
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    let parts = [
        ("version", json!("1.0")),
        ("truncation", Value::Null),
        ("padding", Value::Null),
        ("added_tokens", Value::from(added)),
        ("normalizer", Value::Null),
        ("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [split, bytes]})),
        ("post_processor", Value::Null),
        ("decoder", bytes.clone()),
        ("model", model()),
    ];
    let all: Map<String, Value> =
        parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    serde_json::to_writer(&mut *out, &all)?;
    out.write_all(b"\n")
}

fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

fn special_flags() -> Value {
    json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
}

/// Every ordinary token, and the merge that makes it, in the order in which merges are made.
fn model() -> Value {
    let mut vocabulary = Map::new();
    let mut merges = Vec::new();
    for id in 0..START_OF_TEXT {
        let text = written(id);
        let merge = merge_of(id);
        // A single byte is not merged from anything.
        if let Some((left, right)) = merge {
            merges.push(Value::from(format!("{} {}", written(left), written(right))));
        }
        vocabulary.insert(text, id.into());
    }
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocabulary,
        "merges": merges,
    })
}

/// A token's bytes, each written as the printable character that byte-level vocabularies have for it.
fn written(id: u32) -> String {
    token_bytes(id).unwrap_or_default().iter().map(|&byte| character(byte)).collect()
}

/// Printable bytes of Latin-1 stand for themselves, and all others, in their order, for the characters from U+0100 on.
fn character(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
        0..=b' ' => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x100 + 33 + u32::from(byte) - 0x7F,
        0xAD => 0x100 + 67,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The tokens with a role, as `special_tokens_map.json` has them.
#[must_use]
pub fn special_tokens_map() -> Value {
    json!({"bos_token": name(START_OF_TEXT), "eos_token": name(RETURN), "pad_token": name(END_OF_TEXT)})
}

/// `tokenizer_config.json`, for a model with this context.
#[must_use]
pub fn tokenizer_config(max_length: usize) -> Value {
    let decoder: Map<String, Value> = (START_OF_TEXT..VOCABULARY_SIZE)
        .map(|id| (id.to_string(), with(json!({"content": name(id)}), special_flags())))
        .collect();
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": false,
        "added_tokens_decoder": decoder,
    });
    with(config, special_tokens_map())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let characters: HashSet<char> = (0..=255).map(character).collect();
        assert_eq!(characters.len(), 256);
        assert!(characters.iter().all(|one| !one.is_whitespace() && !one.is_control()));
        assert_eq!([character(b' '), character(b'\n'), character(b'a')], ['Ġ', 'Ċ', 'a']);
    }

    #[test]
    fn tokens_are_written_once_and_merged_from_earlier_ones() {
        let model = model();
        let (vocabulary, merges) = (&model["vocab"], &model["merges"]);
        assert_eq!(vocabulary.as_object().map(Map::len), Some(START_OF_TEXT as usize));
        assert_eq!(merges.as_array().map(Vec::len), Some(START_OF_TEXT as usize - 256));
        for (index, merge) in merges.as_array().into_iter().flatten().enumerate() {
            let (left, right) = merge.as_str().and_then(|text| text.split_once(' ')).expect("two");
            let made = vocabulary[format!("{left}{right}")].as_u64();
            assert_eq!(made, Some(index as u64 + 256));
        }
    }
}
