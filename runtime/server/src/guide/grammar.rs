//! What one message's text must match: a JSON schema, any JSON object, a regex, a choice or a grammar, checked and made
//! ready when the request comes, so that what cannot be enforced is refused and never let through.

use std::fmt;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::vocabulary;
use super::watch::Watch;

/// A constraint on a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constraint {
    /// JSON that is valid against a schema; `lenient` passes over keywords that cannot be enforced.
    Schema { schema: Value, lenient: bool },
    /// A regular expression for the whole text.
    Regex(String),
    /// A grammar in llguidance's form of Lark.
    Grammar(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Bytes of a schema or grammar that are compiled at most.
const MOST_BYTES: usize = 256 << 10;

/// White space that JSON may have between its parts: enough for any indentation, too little to go on for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{0,24}";

/// A constraint that is ready to be followed; a clone starts where the original is.
pub(crate) struct Compiled {
    matcher: Matcher,
    /// Where the text is, if it is JSON.
    watch: Option<Watch>,
    /// Tokens that are kept for bringing a JSON text to its end.
    pub(super) reserve: usize,
}

impl Clone for Compiled {
    fn clone(&self) -> Compiled {
        let Compiled { matcher, watch, reserve } = self;
        Compiled { matcher: matcher.deep_clone(), watch: watch.clone(), reserve: *reserve }
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

impl Constraint {
    /// Any JSON object.
    pub(crate) fn any_object() -> Constraint {
        Constraint::Schema { schema: json!({"type": "object"}), lenient: false }
    }

    /// Makes it ready, or says why it cannot be enforced.
    pub(crate) fn compile(&self) -> Result<Compiled, String> {
        let size = match self {
            Constraint::Schema { schema, .. } => schema.to_string().len(),
            Constraint::Regex(text) | Constraint::Grammar(text) => text.len(),
            Constraint::Choice(choices) => choices.iter().map(String::len).sum(),
        };
        if size > MOST_BYTES {
            return Err(format!("it has {size} bytes; at most {MOST_BYTES} are taken"));
        }
        let factory = vocabulary::factory()?;
        let grammar = match self {
            Constraint::Schema { schema, lenient } => from_schema(schema, *lenient)?,
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Constraint::Grammar(text) => TopLevelGrammar::from_lark(text.clone()),
            Constraint::Choice(choices) => {
                let texts: Vec<String> =
                    choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
        };
        let matcher = start(factory, grammar)?;
        let is_json = matches!(self, Constraint::Schema { .. });
        // Every name in the schema may have to be written; a token has three bytes or more of them.
        let reserve = if is_json { 48 + size / 3 } else { 0 };
        Ok(Compiled { matcher, watch: is_json.then(Watch::default), reserve })
    }
}

fn from_schema(schema: &Value, lenient: bool) -> Result<TopLevelGrammar, String> {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        // `true` allows anything, `false` nothing.
        Value::Bool(true) => json!({}),
        _ => return Err("a schema is an object".to_owned()),
    };
    drop_notes(&mut schema);
    let options =
        json!({"whitespace_pattern": WHITE_SPACE, "whitespace_flexible": true, "lenient": lenient});
    schema["x-guidance"] = options;
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// Formats that can be enforced; JSON Schema has all others be notes for the reader.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

/// Drops formats that are notes from a schema, or a list of schemas, and from all schemas inside.
fn drop_notes(schema: &mut Value) {
    let map = match schema {
        Value::Object(map) => map,
        Value::Array(list) => return list.iter_mut().for_each(drop_notes),
        _ => return,
    };
    let note = |format: &Value| format.as_str().is_some_and(|f| !FORMATS.contains(&f));
    if map.get("format").is_some_and(note) {
        map.remove("format");
    }
    for (keyword, value) in map {
        match (keyword.as_str(), value) {
            ("const" | "enum" | "default" | "examples", _) => {}
            // Their keys are names that the client chose.
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas"
                | "dependencies",
                Value::Object(named),
            ) => named.values_mut().for_each(drop_notes),
            (_, value) => drop_notes(value),
        }
    }
}

fn start(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    let parser = factory.create_parser(grammar).map_err(|why| first_line(&why.to_string()))?;
    let mut matcher = Matcher::new(Ok(parser));
    // A grammar that nothing matches shows at its first mask.
    matcher.compute_mask_or_eos().map_err(|why| first_line(&why.to_string()))?;
    Ok(matcher)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

impl Compiled {
    /// Writes which tokens may come; `ends` may where the text may end. With `hurry` the first of them has to.
    pub(crate) fn mask(&mut self, ends: &[u32], hurry: bool, mask: &mut [u32]) {
        let end = ends.first().copied().unwrap_or(ossmith_harmony::special::RETURN);
        match self.matcher.compute_mask_or_eos() {
            Ok(allowed) => {
                let words = allowed.as_slice();
                let count = mask.len().min(words.len());
                mask[..count].copy_from_slice(&words[..count]);
                mask[count..].fill(0);
                let eos = ossmith_harmony::special::RETURN;
                if super::bits::get(mask, eos) {
                    super::bits::clear(mask, eos);
                    ends.iter().for_each(|&end| super::bits::set(mask, end));
                }
            }
            // A limit of llguidance was reached in the middle of a text: it may only end here.
            Err(_) => super::bits::only(mask, end),
        }
        match &self.watch {
            Some(watch) if hurry => watch.close_text(end, mask),
            Some(watch) if watch.loops() => Watch::close_string(mask),
            _ => {}
        }
    }

    /// Takes the token that was drawn.
    pub(crate) fn accept(&mut self, token: u32) {
        // A token that does not fit puts the matcher into its error state, which `mask` answers.
        let _ = self.matcher.consume_token(token);
        if let Some(watch) = &mut self.watch {
            watch.accept(token);
        }
    }
}
