//! What holds for any text that a client sends as a schema or grammar: it is refused, or becomes a grammar that can be
//! followed on a small stack. The fuzz target and the tests of hostile shapes share it.

use std::sync::Arc;
use std::time::Duration;

use ossmith_guide::{Compiled, Constraint, GrammarHelper, VOCABULARY, bits, mask_clock};
use ossmith_harmony::special;

use super::compiler::{Compiler, GrammarRequest};
use crate::tenant::Tenant;

/// Tokens that are written under a grammar.
const TOKENS: usize = 24;
/// Stack of the thread that writes them; those of the engine have more.
const SMALL_STACK: usize = 512 << 10;

/// Compiles and follows what a fuzzer makes up.
pub struct GrammarFuzzer {
    compiler: Compiler,
    runtime: tokio::runtime::Runtime,
}

impl GrammarFuzzer {
    /// A fuzzer that tries grammars out with this helper.
    ///
    /// # Panics
    /// There is no runtime.
    #[must_use]
    pub fn new(helper: GrammarHelper) -> GrammarFuzzer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.unwrap_or_else(|why| panic!("no runtime: {why}"));
        GrammarFuzzer { compiler: Compiler::new(Some(helper)), runtime }
    }

    /// The first byte is the kind, the rest the text. It has to end in a grammar or in a refusal.
    ///
    /// # Panics
    /// A refusal is no refusal, or a grammar cannot be followed.
    pub fn run(&self, data: &[u8]) {
        let Some((kind, text)) = data.split_first() else { return };
        let text = String::from_utf8_lossy(text).into_owned();
        let constraint = match kind % 4 {
            0 => match serde_json::from_str(&text) {
                Ok(schema) => Constraint::Schema { schema, lenient: kind & 4 == 0 },
                Err(_) => return,
            },
            1 => Constraint::Regex(text),
            2 if kind & 4 == 0 => Constraint::Grammar(text),
            2 => Constraint::Input(text),
            _ => Constraint::Choice(text.lines().map(str::to_owned).collect()),
        };
        let request = GrammarRequest::new(constraint, "x", "`x`".to_owned());
        let outcome = request.and_then(|request| {
            self.runtime
                .block_on(self.compiler.compile(Tenant::ONLY, std::slice::from_ref(&request)))
        });
        match outcome {
            Ok(grammars) => {
                for grammar in &grammars {
                    let _longest = follow(grammar, u64::from(*kind));
                }
            }
            Err(refused) => assert_eq!(refused.status.as_u16(), 400, "{refused:?}"),
        }
    }
}

impl std::fmt::Debug for GrammarFuzzer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GrammarFuzzer")
    }
}

/// Writes some tokens under a grammar, on a stack as small as any thread has. Returns the processor
/// time of the longest mask, where the system says.
pub(super) fn follow(grammar: &Arc<Compiled>, seed: u64) -> Duration {
    let grammar = Arc::clone(grammar);
    let write = move || {
        let mut text = (*grammar).clone();
        let mut mask = vec![0; VOCABULARY.div_ceil(32)];
        let (mut random, mut longest) = (seed, Duration::ZERO);
        for _ in 0..TOKENS {
            let begin = mask_clock::time_of_this_thread().unwrap_or_default();
            let followed = text.mask(&[special::RETURN], &mut mask);
            let end = mask_clock::time_of_this_thread().unwrap_or_default();
            longest = longest.max(end.saturating_sub(begin));
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let first = (random >> 33) as u32 % VOCABULARY as u32;
            let all = (first..VOCABULARY as u32).chain(0..first);
            match (followed, all.into_iter().find(|&token| bits::get(&mask, token))) {
                (Ok(()), Some(token)) if token != special::RETURN => text.accept(token),
                _ => break,
            }
        }
        longest
    };
    let thread = std::thread::Builder::new().stack_size(SMALL_STACK).spawn(write);
    let longest = thread.map(std::thread::JoinHandle::join);
    match longest {
        Ok(Ok(longest)) => longest,
        other => panic!("a grammar cannot be followed: {other:?}"),
    }
}
