//! GGUF files: the model that their metadata describes, their weights, and whether their tokenizer is the one that Ossmith
//! has.

use std::path::Path;

use anyhow::Context;
use ossmith::{Checkpoint, Gguf, GgufTokenizer};
use ossmith_harmony::{special, token_bytes};
use ossmith_plan::Model;

use crate::failure::fail;

/// Opens a file (or all parts of one) and checks that its tokenizer is ours.
pub(crate) fn open(file: &Path) -> anyhow::Result<(&'static Model, Checkpoint)> {
    let gguf = Gguf::open(file)?;
    let model = model(&gguf, file)?;
    match gguf.tokenizer()? {
        Some(tokenizer) => check_tokenizer(&tokenizer, model.spec.vocab).map_err(|problem| {
            fail(
                format!("{}: its tokenizer is not o200k_harmony: {problem}", file.display()),
                "Ossmith reads and writes text by the tokenizer of gpt-oss alone; convert the model with its published tokenizer",
            )
        })?,
        None => tracing::info!(file = %file.display(), "no tokenizer in the file to compare with"),
    }
    Ok((model, Checkpoint::from_gguf(gguf, model)?))
}

/// The model that a file's metadata describes.
pub(crate) fn model(gguf: &Gguf, file: &Path) -> anyhow::Result<&'static Model> {
    let config = gguf.config()?;
    ossmith_models::from_text(&gguf.name(), file, &config, None).with_context(|| {
        format!("{}: its metadata, spelled as config.json, is refused", file.display())
    })
}

/// Compares the tokens of a file with ours. Reserved ids may have any name: llama.cpp's converter makes some up.
fn check_tokenizer(tokenizer: &GgufTokenizer<'_>, vocab: usize) -> Result<(), String> {
    let GgufTokenizer { model, pre, tokens } = tokenizer;
    if *model != "gpt2" {
        return Err(format!("tokenizer.ggml.model is {model:?}, expected \"gpt2\""));
    }
    if *pre != "gpt-4o" {
        return Err(format!("tokenizer.ggml.pre is {pre:?}, expected \"gpt-4o\""));
    }
    if tokens.len() != vocab {
        return Err(format!("{} tokens for a vocabulary of {vocab}", tokens.len()));
    }
    let spelling = byte_spelling();
    for (id, &found) in (0_u32..).zip(tokens) {
        let expected = match (token_bytes(id), special::name(id)) {
            (Some(bytes), _) => bytes.iter().map(|&byte| spelling[usize::from(byte)]).collect(),
            (None, Some(name)) if !name.starts_with("<|reserved_") => name.into_owned(),
            _ => continue,
        };
        if found != expected.as_bytes() {
            let found = String::from_utf8_lossy(found);
            return Err(format!("token {id} is {found:?}, expected {expected:?}"));
        }
    }
    Ok(())
}

/// GPT-2's character for each byte: printable Latin-1 characters stand for themselves, and the other bytes, in order, for
/// the characters from U+0100 on.
fn byte_spelling() -> [char; 256] {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: usize = 201_088;

    /// The tokens as llama.cpp's converter writes them.
    fn tokens() -> Vec<String> {
        let spelling = byte_spelling();
        let text = |id: u32| match (token_bytes(id), special::name(id)) {
            (Some(bytes), _) => bytes.iter().map(|&byte| spelling[usize::from(byte)]).collect(),
            (None, Some(name)) if id < 200_019 => name.into_owned(),
            _ => format!("[PAD{id}]"),
        };
        (0..VOCAB as u32).map(text).collect()
    }

    fn check(tokens: &[String], model: &str, pre: &str) -> Result<(), String> {
        let tokens = tokens.iter().map(String::as_bytes).collect();
        check_tokenizer(&GgufTokenizer { model, pre, tokens }, VOCAB)
    }

    #[test]
    fn a_tokenizer_is_compared_token_by_token() {
        let ours = tokens();
        assert_eq!(ours[220], "Ġ", "GPT-2's spelling of a space");
        assert_eq!(check(&ours, "gpt2", "gpt-4o"), Ok(()));
        let refused = |change: &dyn Fn(&mut Vec<String>), expected: &str| {
            let mut theirs = ours.clone();
            change(&mut theirs);
            let problem = check(&theirs, "gpt2", "gpt-4o").expect_err("another tokenizer");
            assert!(problem.contains(expected), "{problem}");
        };
        refused(&|t| t[24_912] = "hallo".into(), "token 24912 is \"hallo\", expected \"hello\"");
        refused(&|t| t[200_012] = "<|tool|>".into(), "expected \"<|call|>\"");
        refused(&|t| t.truncate(200_000), "200000 tokens for a vocabulary of 201088");
        assert!(check(&ours, "llama", "gpt-4o").is_err() && check(&ours, "gpt2", "qwen2").is_err());
    }
}
