//! The o200k vocabulary as llguidance wants it, made once for the process when the first constrained request comes.

use std::sync::{Arc, OnceLock};

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use ossmith_harmony::{encode, special, token_bytes};

/// Token ids that a model has logits for: the checkpoints leave out the vocabulary's last one.
pub const VOCABULARY: usize = 201_088;

struct Vocabulary {
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        match std::str::from_utf8(bytes) {
            Ok(text) => encode(text),
            Err(_) => self.trie.greedy_tokenize(bytes),
        }
    }
}

/// Makes parsers over the vocabulary; an error if llguidance refuses it, which only a broken build can bring about.
pub(crate) fn factory() -> Result<&'static ParserFactory, String> {
    static FACTORY: OnceLock<Result<ParserFactory, String>> = OnceLock::new();
    FACTORY.get_or_init(make).as_ref().map_err(Clone::clone)
}

fn make() -> Result<ParserFactory, String> {
    let words: Vec<Vec<u8>> = (0..VOCABULARY as u32).map(word).collect();
    let info = TokRxInfo::new(VOCABULARY as u32, special::RETURN);
    let trie = TokTrie::from(&info, &words);
    let environment: TokEnv = Arc::new(Vocabulary { trie });
    let slices = SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
        .map_err(|why| {
        format!("the vocabulary cannot be used for constrained decoding: {why}")
    })?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.verbose_errors = false;
    // llguidance's own hold about 600 optional properties, and fail repeated classes of letters. These count what a mask
    // costs; its time bounds that too, and it delays no step.
    limits.max_items_in_row = 20_000;
    limits.step_max_items = 500_000;
    limits.step_lexer_fuel = 1_000_000;
    // A state takes one or two KiB, and each text that is being written has its own.
    limits.max_lexer_states = 50_000;
    Ok(factory)
}

/// A token's bytes; a special token is marked, so that no grammar over text can match it.
fn word(token: u32) -> Vec<u8> {
    match (token_bytes(token), special::name(token)) {
        (Some(bytes), _) => bytes.to_vec(),
        (None, Some(name)) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
        (None, None) => Vec::new(),
    }
}
