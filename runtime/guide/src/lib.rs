//! Structured output without a server: what a model may write next, so that a turn is what was requested. Reasoning stays within
//! a budget, calls are of offered functions with valid arguments, a final answer has a given form. Headers follow harmony's
//! [`HeaderGrammar`]; texts follow a [`Compiled`] constraint; where nothing was requested, nothing is masked. Masking starts with
//! the message that it is for: a schema binds the final channel only, never the reasoning before it.
//!
//! [`compile`] makes a [`Constraint`] ready, [`Rules`] say what a turn may be, and [`Guide::into_mask`] gives the engine its masks.
//! There is no HTTP here and no queue. Where many clients share a process, `ossmith-server` compiles their constraints within
//! budgets, out of these parts: [`limits`] measures a constraint, [`helper`] tries it out in a process that can be ended, and
//! [`compile_on_this_thread`] compiles it on a thread of the caller's.

#![forbid(unsafe_code)]

pub mod ageing;
pub mod bits;
mod constraint;
mod embed;
mod grammar;
pub mod helper;
pub mod limits;
pub mod mask_clock;
mod quoted;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turn_tests;
mod vocabulary;

use std::collections::VecDeque;
use std::sync::Arc;

use ossmith_harmony::{
    CallChoice, Event, Header, HeaderChoices, HeaderGrammar, HeaderState, LenientOptions, Role,
    Route, StreamParser, encode, special,
};

pub use constraint::Constraint;
pub use embed::{Unenforceable, compile};
pub use grammar::{
    Compiled, MAX_IN_USE_BYTES, MaskError, STACK_BYTES, bytes_in_use, compile_on_this_thread,
    warm_up,
};
pub use helper::{GrammarHelper, grammar_helper};
pub use vocabulary::VOCABULARY;

/// A function that may be called.
#[derive(Clone, Debug)]
pub struct CallRule {
    /// Its full name: `functions.f`.
    pub recipient: String,
    /// The form of its arguments; none leaves them free.
    pub arguments: Option<Arc<Compiled>>,
    /// The model knows it from its training, and calls it in its reasoning.
    pub built_in: bool,
}

/// What a turn may be.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Most tokens of reasoning; none leaves it free.
    pub thinking: Option<usize>,
    /// Functions on offer.
    pub calls: Vec<CallRule>,
    /// The turn has to end with a call.
    pub must_call: bool,
    /// Another call may follow one.
    pub several_calls: bool,
    /// The form of the final answer.
    pub answer: Option<Arc<Compiled>>,
}

/// The headers that may be written, by what is still allowed.
#[derive(Debug)]
struct Headers {
    open: HeaderGrammar,
    closing: HeaderGrammar,
    calls: HeaderGrammar,
}

/// How far a turn is, which says what its next message may be.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Anything, reasoning and preambles too.
    Open,
    /// The budget for reasoning is used up.
    Closing,
    /// A call went before: another call.
    Calls,
}

impl Headers {
    fn at(&self, stage: Stage) -> &HeaderGrammar {
        match stage {
            Stage::Open => &self.open,
            Stage::Closing => &self.closing,
            Stage::Calls => &self.calls,
        }
    }
}

/// What may end a message. Harmony ends the turn with `<|call|>`, and a
/// message of a turn that goes on with `<|end|>`.
type Ends = &'static [u32];
const ANSWER: Ends = &[special::RETURN];
const LAST_CALL: Ends = &[special::CALL];
const ANY_CALL: Ends = &[special::CALL, special::END];

/// Follows one turn and says what may come next.
#[derive(Clone, Debug)]
pub struct Guide {
    rules: Arc<Rules>,
    headers: Arc<Headers>,
    parser: StreamParser,
    state: State,
    /// Tokens left for reasoning.
    budget: Option<usize>,
    /// Tokens of [`Guide::follow`] that were accepted.
    followed: usize,
}

#[derive(Clone, Debug)]
enum State {
    Header {
        stage: Stage,
        at: HeaderState,
    },
    /// Reasoning, or a preamble.
    Reasoning,
    /// A text without a form, and what ends it.
    Free {
        ends: Ends,
    },
    /// A text with one.
    Structured {
        text: Box<Compiled>,
        ends: Ends,
    },
    /// Tokens that have to come, then a header.
    Forced {
        tokens: VecDeque<u32>,
        then: Stage,
    },
    /// Nothing is requested any more: the turn is over, or went where no rule is.
    Over,
}

impl Guide {
    /// A guide for what comes after `<|start|>assistant` and these tokens, which are part of the prompt.
    #[must_use]
    pub fn new(rules: Arc<Rules>, prefill: &[u32]) -> Guide {
        let headers = Arc::new(headers(&rules));
        let budget = rules.thinking;
        let stage = if budget == Some(0) { Stage::Closing } else { Stage::Open };
        let state = State::Header { stage, at: headers.at(stage).start() };
        let parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
        let mut guide = Guide { rules, headers, parser, state, budget, followed: 0 };
        prefill.iter().for_each(|&token| guide.accept(token));
        guide
    }

    /// A guide for a text that is no turn at all: it has this form from its first token to its end.
    #[must_use]
    pub fn of_text(text: &Compiled) -> Guide {
        let mut guide = Guide::new(Arc::new(Rules::default()), &[]);
        guide.state =
            State::Structured { text: Box::new(text.clone()), ends: &[special::END_OF_TEXT] };
        guide
    }

    /// Writes the tokens that may come next into a mask (bit `id % 32` of word `id / 32`); false, with the mask left
    /// alone, if all may.
    ///
    /// # Errors
    /// The text's form has become too large to follow; the text so far is not whole.
    pub fn mask(&mut self, mask: &mut [u32]) -> Result<bool, MaskError> {
        match &mut self.state {
            State::Over => return Ok(false),
            State::Header { stage, at } => self.headers.at(*stage).fill_mask(*at, mask),
            State::Reasoning => match self.budget {
                None => return Ok(false),
                Some(0) => bits::only(mask, special::END),
                Some(_) => bits::text_and(mask, &[special::END]),
            },
            State::Free { ends } => bits::text_and(mask, ends),
            State::Structured { text, ends } => text.mask(ends, mask)?,
            State::Forced { tokens, .. } => match tokens.front() {
                Some(&token) => bits::only(mask, token),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// Accepts what of these tokens is new since the last call, and writes what may come after them, as [`Guide::mask`] does.
    /// They are all that was sampled after the prefill.
    ///
    /// # Errors
    /// Those of [`Guide::mask`].
    pub fn follow(&mut self, sampled: &[u32], mask: &mut [u32]) -> Result<bool, MaskError> {
        sampled.iter().skip(self.followed).for_each(|&token| self.accept(token));
        self.followed = sampled.len();
        self.mask(mask)
    }

    /// Takes the token that was sampled.
    pub fn accept(&mut self, token: u32) {
        let mut route = None;
        let mut ended = false;
        let rules = &self.rules;
        self.parser.push(token, |event| match event {
            Event::MessageStart(header) => route = Some(opened(rules, header)),
            Event::MessageEnd(_) => ended = true,
            _ => {}
        });
        match &mut self.state {
            State::Over => {}
            State::Header { stage, at } => {
                match (self.headers.at(*stage).next(*at, token), route) {
                    (_, Some(route)) => self.state = self.body(route),
                    (Some(next), None) => *at = next,
                    (None, None) => self.state = State::Over,
                }
            }
            State::Reasoning => {
                self.budget = self.budget.map(|left| left.saturating_sub(1));
                if token == special::END {
                    let then = if self.budget == Some(0) { Stage::Closing } else { Stage::Open };
                    self.state = State::Forced { tokens: next_message(), then };
                } else if ended {
                    self.state = State::Over;
                }
            }
            State::Structured { text, ends } if !ends.contains(&token) => text.accept(token),
            State::Free { .. } if !ended => {}
            State::Structured { ends, .. } | State::Free { ends } => {
                let goes_on = token == special::END && ends.contains(&token);
                self.state = match goes_on {
                    true => State::Forced { tokens: next_message(), then: Stage::Calls },
                    false => State::Over,
                };
            }
            State::Forced { tokens, then } => {
                if tokens.pop_front() != Some(token) {
                    self.state = State::Over;
                } else if tokens.is_empty() {
                    let stage = *then;
                    self.state = State::Header { stage, at: self.headers.at(stage).start() };
                }
            }
        }
    }

    fn body(&self, opened: Opened) -> State {
        match opened {
            Opened::Reasoning => State::Reasoning,
            Opened::Final => match &self.rules.answer {
                Some(text) => State::Structured { text: Box::new((**text).clone()), ends: ANSWER },
                None => State::Free { ends: ANSWER },
            },
            Opened::Call(rule) => {
                let ends = if self.rules.several_calls { ANY_CALL } else { LAST_CALL };
                match self.rules.calls[rule].arguments.clone() {
                    Some(text) => State::Structured { text: Box::new((*text).clone()), ends },
                    None => State::Free { ends },
                }
            }
        }
    }
}

/// What a message is, by its header.
enum Opened {
    Reasoning,
    Final,
    /// A call under this rule.
    Call(usize),
}

fn opened(rules: &Rules, header: &Header) -> Opened {
    if let Some(recipient) = &header.recipient {
        let rule = rules.calls.iter().position(|rule| rule.recipient == *recipient);
        return rule.map_or(Opened::Reasoning, Opened::Call);
    }
    match header.route() {
        Route::Final => Opened::Final,
        Route::Reasoning | Route::Preamble | Route::Call(_) => Opened::Reasoning,
    }
}

/// `<|start|>assistant`
fn next_message() -> VecDeque<u32> {
    std::iter::once(special::START).chain(encode(Role::Assistant.as_str())).collect()
}

fn headers(rules: &Rules) -> Headers {
    let call = |rule: &CallRule| -> Vec<CallChoice> {
        let choice = |channel: &str, formats: &[&str]| CallChoice {
            recipient: rule.recipient.clone(),
            channel: channel.to_owned(),
            formats: formats.iter().map(|&format| format.to_owned()).collect(),
        };
        match rule.built_in {
            true => ["analysis", "commentary"].map(|on| choice(on, &["code", "json"])).into(),
            false => vec![choice("commentary", &["json"])],
        }
    };
    let calls = rules.calls.iter().flat_map(call).collect();
    let mut last = Vec::new();
    if !rules.must_call {
        last.push("final".to_owned());
    }
    let mut open = vec!["analysis".to_owned()];
    if !rules.calls.is_empty() {
        open.push("commentary".to_owned());
    }
    open.extend(last.clone());
    let mut choices = HeaderChoices { channels: Vec::new(), calls };
    let mut grammar = |channels| {
        choices.channels = channels;
        HeaderGrammar::new(&choices)
    };
    Headers { open: grammar(open), closing: grammar(last), calls: grammar(Vec::new()) }
}

/// Tokens with which a turn begins on this channel.
#[must_use]
pub fn begin_channel(channel: &str) -> Vec<u32> {
    let mut tokens = vec![special::CHANNEL];
    tokens.extend(encode(channel));
    tokens.push(special::MESSAGE);
    tokens
}

/// Tokens with which a turn begins as a call of the function of this full name.
#[must_use]
pub fn begin_call(recipient: &str) -> Vec<u32> {
    let mut tokens = encode(&format!(" to={recipient}"));
    tokens.extend([special::CHANNEL]);
    tokens.extend(encode("commentary "));
    tokens.push(special::CONSTRAIN);
    tokens.extend(encode("json"));
    tokens.push(special::MESSAGE);
    tokens
}

/// The README's example, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
