//! What a model may write next, so that a turn is what was requested: reasoning within a budget, calls of offered functions
//! with valid arguments, a final answer of a given form. Headers follow harmony's [`HeaderGrammar`]; texts follow a
//! [`grammar::Compiled`]; where nothing was requested, nothing is masked. Masking starts with the message that it is for:
//! a schema binds the final channel only, never the reasoning before it.

pub(crate) mod bits;
mod cache;
pub(crate) mod compiler;
pub(crate) mod constraint;
mod fair_queue;
mod fuzzing;
pub(crate) mod grammar;
mod helper;
mod hostile;
mod limits;
mod mask_clock;
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

#[doc(hidden)]
pub use fuzzing::GrammarFuzzer;
use grammar::Compiled;
pub use grammar::MaskError;
pub use helper::{GrammarHelper, grammar_helper};
#[doc(hidden)]
pub use hostile::hostile_request;

/// A function that may be called.
#[derive(Clone, Debug)]
pub(crate) struct CallRule {
    /// Its full name: `functions.f`.
    pub(crate) recipient: String,
    /// The form of its arguments; none leaves them free.
    pub(crate) arguments: Option<Arc<Compiled>>,
    /// The model knows it from its training, and calls it in its reasoning.
    pub(crate) built_in: bool,
}

/// What a turn may be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Most tokens of reasoning; none leaves it free.
    pub(crate) thinking: Option<usize>,
    /// Functions on offer.
    pub(crate) calls: Vec<CallRule>,
    /// The turn has to end with a call.
    pub(crate) must_call: bool,
    /// Another call may follow one.
    pub(crate) several_calls: bool,
    /// The form of the final answer.
    pub(crate) answer: Option<Arc<Compiled>>,
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
    pub(crate) fn new(rules: Arc<Rules>, prefill: &[u32]) -> Guide {
        let headers = Arc::new(headers(&rules));
        let budget = rules.thinking;
        let stage = if budget == Some(0) { Stage::Closing } else { Stage::Open };
        let state = State::Header { stage, at: headers.at(stage).start() };
        let parser = StreamParser::new(Some(Role::Assistant), LenientOptions::default());
        let mut guide = Guide { rules, headers, parser, state, budget };
        prefill.iter().for_each(|&token| guide.accept(token));
        guide
    }

    /// A guide for a text that is no turn at all: it has this form from its first token to its end.
    pub(crate) fn of_text(text: &Compiled) -> Guide {
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

/// A message that has prefill.
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
pub(crate) fn begin_channel(channel: &str) -> Vec<u32> {
    let mut tokens = vec![special::CHANNEL];
    tokens.extend(encode(channel));
    tokens.push(special::MESSAGE);
    tokens
}

/// Tokens with which a turn begins as a call of the function of this full name.
pub(crate) fn begin_call(recipient: &str) -> Vec<u32> {
    let mut tokens = encode(&format!(" to={recipient}"));
    tokens.extend([special::CHANNEL]);
    tokens.extend(encode("commentary "));
    tokens.push(special::CONSTRAIN);
    tokens.extend(encode("json"));
    tokens.push(special::MESSAGE);
    tokens
}
