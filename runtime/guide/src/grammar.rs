//! What one message's text must match: a JSON schema, any JSON object, a regex, a choice or a grammar, checked and made
//! ready when the request comes, so that what cannot be enforced is refused and never let through.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use llguidance::api::TopLevelGrammar;
use llguidance::{CancellationHandle, Cancelled, Matcher, ParserFactory};
use serde_json::{Map, Value, json};

use super::constraint::{Constraint, close_arguments};
use super::quoted::Quoted;
use super::{limits, mask_clock, vocabulary};

/// Stack of a thread that compiles. llguidance recurses over rules, references and properties; what [`limits`] lets through
/// needs less than this even without optimisation, and only what is used of it takes memory.
pub const STACK_BYTES: usize = 256 << 20;

/// White space between the parts of an answer in JSON: a model that may write more of it may never stop.
const ANSWER_SPACE: &str = r"\x20?";
/// White space between the parts of a call's arguments: enough for any indentation, too little to go on for ever.
const ARGUMENTS_SPACE: &str = r"[\x20\x0A\x0D\x09]{0,24}";

/// A constraint that is ready to be followed; a clone starts where the original is, and shares nothing with it.
pub struct Compiled {
    text: Text,
    memory: Memory,
}

/// What follows a text.
enum Text {
    Plain(Box<Matcher>),
    /// The text is the input of a free-form tool, in JSON.
    Quoted(Box<Quoted>),
}

/// Memory of all grammars and copies above which no more are made of what is not small.
pub const MAX_IN_USE_BYTES: u64 = 1 << 30;
/// Memory of a small grammar.
const SMALL_BYTES: u64 = 8 << 20;

/// Memory of all grammars and copies that there are.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// How much they take, as far as it is known.
#[must_use]
pub fn bytes_in_use() -> u64 {
    IN_USE.load(Ordering::Relaxed)
}

/// Why nothing more can be said about what may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// The form that the request gave, for this reason.
    Form(String),
    /// The grammars that are in use take too much memory.
    NoMemory,
}

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaskError::Form(why) => f.write_str(why),
            MaskError::NoMemory => {
                f.write_str("the grammars in use take too much memory; try again later")
            }
        }
    }
}

impl std::error::Error for MaskError {}

/// Memory that a grammar takes, which counts as long as it is there.
struct Memory(u64);

impl Memory {
    fn new(bytes: u64) -> Memory {
        IN_USE.fetch_add(bytes, Ordering::Relaxed);
        Memory(bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        IN_USE.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Clone for Compiled {
    fn clone(&self) -> Compiled {
        let text = match &self.text {
            Text::Plain(matcher) => Text::Plain(Box::new(matcher.deep_clone())),
            Text::Quoted(quoted) => Text::Quoted(Box::new(quoted.deep_clone())),
        };
        Compiled { text, memory: Memory::new(self.memory.0) }
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

/// Makes a constraint ready, or says why it cannot be enforced. This is the only way from a client's text to llguidance; it
/// needs a stack of [`STACK_BYTES`], and takes as long as it takes.
///
/// # Errors
/// The limit that the constraint is over, or what in it cannot be enforced.
pub fn compile_on_this_thread(constraint: &Constraint) -> Result<Compiled, String> {
    limits::check(constraint)?;
    let factory = vocabulary::factory()?;
    let grammar = match constraint {
        Constraint::Schema { schema, lenient } => {
            from_schema(object(schema)?, *lenient, ANSWER_SPACE)?
        }
        Constraint::Arguments { schema, lenient } => {
            let mut schema = object(schema)?;
            close_arguments(&mut schema);
            from_schema(schema, *lenient, ARGUMENTS_SPACE)?
        }
        Constraint::Regex(regex) => {
            // `\d` and `\w` are ASCII, as in the patterns of schemas.
            TopLevelGrammar::from_lark(format!(
                "start: /{}/",
                llguidance::regex_to_lark(regex, "dw")
            ))
        }
        Constraint::Grammar(text) => TopLevelGrammar::from_lark(text.clone()),
        Constraint::Input(text) => {
            let quoted = Quoted::new(factory, text).map_err(|why| first_line(&why))?;
            return Ok(Compiled { text: Text::Quoted(Box::new(quoted)), memory: Memory::new(0) });
        }
        Constraint::Choice(choices) => {
            let texts: Vec<String> =
                choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
            // One terminal for all of them: as rules, each would be followed on its own.
            TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", texts.join(" | ")))
        }
    };
    Ok(Compiled { text: Text::Plain(Box::new(start(factory, grammar)?)), memory: Memory::new(0) })
}

/// Gets ready to compile, so that the first constraint need not wait for it: makes the vocabulary, which takes a second or two
/// of one processor, and compiles a constraint of each kind, so that the program's code for it is in memory.
///
/// # Errors
/// llguidance refuses the vocabulary, which only a broken build can bring about.
pub fn warm_up() -> Result<(), String> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 9, "pattern": "^a+$"},
            "kind": {"enum": ["b", "c"]},
            "count": {"type": "integer", "minimum": 1, "multipleOf": 2},
            "parts": {"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    for constraint in [
        Constraint::Arguments { schema: schema.into(), lenient: false },
        Constraint::Regex("[a-z]+(b|c){2,5}".to_owned()),
        Constraint::Grammar("start: \"a\" b*\nb: /[0-9]+/ | start".to_owned()),
        Constraint::Choice(vec!["a".to_owned(), "b".to_owned()]),
    ] {
        compile_on_this_thread(&constraint)?;
    }
    Ok(())
}

/// A schema as an object of keywords.
fn object(schema: &Value) -> Result<Map<String, Value>, String> {
    match schema {
        Value::Object(map) => Ok(map.clone()),
        // `true` allows anything, `false` nothing.
        Value::Bool(true) => Ok(Map::new()),
        _ => Err("a schema is an object".to_owned()),
    }
}

fn from_schema(
    mut schema: Map<String, Value>,
    lenient: bool,
    space: &str,
) -> Result<TopLevelGrammar, String> {
    prepare_object(&mut schema, lenient)?;
    allow_null(&mut schema);
    let options =
        json!({"whitespace_pattern": space, "whitespace_flexible": true, "lenient": lenient});
    schema.insert("x-guidance".to_owned(), options);
    Ok(TopLevelGrammar::from_json_schema(Value::Object(schema)))
}

/// Formats that can be enforced; JSON Schema has all others be notes for the reader.
const FORMATS: [&str; 10] =
    ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"];

/// Makes a schema and those in it ready: drops formats that are notes, and refuses what llguidance takes but does not enforce.
fn prepare(schema: &mut Value, lenient: bool) -> Result<(), String> {
    match schema {
        Value::Object(map) => {
            prepare_object(map, lenient)?;
            allow_null(map);
            Ok(())
        }
        Value::Array(list) => list.iter_mut().try_for_each(|schema| prepare(schema, lenient)),
        _ => Ok(()),
    }
}

fn prepare_object(map: &mut Map<String, Value>, lenient: bool) -> Result<(), String> {
    let note = |format: &Value| format.as_str().is_some_and(|f| !FORMATS.contains(&f));
    if map.get("format").is_some_and(note) {
        map.remove("format");
    }
    // Of names that are not listed only the first is sure to be new: llguidance lets a name come again.
    let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    let least = map.get("minProperties").and_then(Value::as_u64);
    if !lenient && least.is_some_and(|least| least > required + 1) {
        return Err(
            "`minProperties` above the number of required properties + 1 cannot be enforced"
                .to_owned(),
        );
    }
    exact_numbers(map, lenient)?;
    map.iter_mut().try_for_each(|(key, value)| match (key.as_str(), value) {
        ("const" | "enum" | "default" | "examples", _) => Ok(()),
        (
            // Their keys are names that the client chose.
            "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas"
            | "dependencies",
            Value::Object(named),
        ) => named.values_mut().try_for_each(|schema| prepare(schema, lenient)),
        (_, value) => prepare(value, lenient),
    })
}

/// The largest number up to which every whole number is a float of its own, which is what llguidance computes with.
const MAX_EXACT: u64 = 1 << 53;

/// Refuses numbers that would be enforced as others; where nothing has to be enforced, their keywords are left out.
fn exact_numbers(map: &mut Map<String, Value>, lenient: bool) -> Result<(), String> {
    fn inexact(value: &Value) -> Option<&Value> {
        match value {
            Value::Number(number) => {
                let whole = number.as_u64().or(number.as_i64().map(i64::unsigned_abs));
                let exact = match whole {
                    Some(whole) => whole <= MAX_EXACT,
                    None => number.as_f64().is_some_and(|float| float.abs() <= MAX_EXACT as f64),
                };
                (!exact).then_some(value)
            }
            Value::Array(list) => list.iter().find_map(inexact),
            Value::Object(map) => map.values().find_map(inexact),
            _ => None,
        }
    }
    const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    for key in BOUNDS.into_iter().chain(["const", "enum"]) {
        let Some(number) = map.get(key).and_then(inexact) else { continue };
        if !lenient {
            return Err(format!(
                "`{key}` has {number}, and numbers beyond 2^53 cannot be enforced"
            ));
        }
        map.shift_remove(key);
    }
    Ok(())
}

/// OpenAPI's `nullable: true`, which the prompt shows as `| null`.
fn allow_null(map: &mut Map<String, Value>) {
    if map.shift_remove("nullable") != Some(Value::Bool(true)) {
        return;
    }
    let null_type = Value::from("null");
    let narrowed = ["enum", "const", "$ref", "anyOf", "oneOf", "allOf"];
    let is_narrowed = narrowed.iter().any(|key| map.contains_key(*key));
    match map.get_mut("type") {
        // Without a type, null is allowed anyway.
        None if !is_narrowed => {}
        Some(kind @ Value::String(_)) if !is_narrowed => {
            if *kind != null_type {
                *kind = json!([kind, null_type]);
            }
        }
        Some(Value::Array(kinds)) if !is_narrowed => {
            if !kinds.contains(&null_type) {
                kinds.push(null_type);
            }
        }
        _ => {
            // References point to definitions at the root, so these stay where they are.
            let kept: Map<String, Value> = ["$defs", "definitions"]
                .into_iter()
                .filter_map(|key| Some((key.to_owned(), map.shift_remove(key)?)))
                .collect();
            let narrow = std::mem::replace(map, kept);
            map.insert("anyOf".to_owned(), json!([narrow, {"type": "null"}]));
        }
    }
}

fn start(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    let parser = factory.create_parser(grammar).map_err(|why| first_line(&why.to_string()))?;
    let mut matcher = Matcher::new(Ok(parser)).into_cancellable();
    // A grammar that nothing matches shows at its first mask.
    matcher.compute_mask_or_eos().map_err(|why| first_line(&why.to_string()))?;
    Ok(matcher)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

impl Compiled {
    /// The same, which is known to take this much memory.
    #[must_use]
    pub fn taking(self, bytes: u64) -> Compiled {
        Compiled { memory: Memory::new(bytes), ..self }
    }

    /// Writes which tokens may come; `ends` may where the text may end. An error is a limit of llguidance, reached in the
    /// middle of a text.
    ///
    /// # Errors
    /// Why the text cannot be followed any further.
    pub fn mask(&mut self, ends: &[u32], mask: &mut [u32]) -> Result<(), MaskError> {
        if self.memory.0 > SMALL_BYTES && bytes_in_use() > MAX_IN_USE_BYTES {
            return Err(MaskError::NoMemory);
        }
        let watched = self.cancellation_handle().map(mask_clock::watch);
        let allowed = match &mut self.text {
            Text::Plain(matcher) => matcher
                .compute_mask_or_eos()
                .map_err(|why| (why.is::<Cancelled>(), why.to_string())),
            Text::Quoted(quoted) => {
                let written = quoted.mask(ends, mask);
                return written.map_err(|why| unfollowable(quoted.is_cancelled(), &why));
            }
        };
        drop(watched);
        let allowed = allowed.map_err(|(cancelled, why)| unfollowable(cancelled, &why))?;
        let words = allowed.as_slice();
        let count = mask.len().min(words.len());
        mask[..count].copy_from_slice(&words[..count]);
        mask[count..].fill(0);
        let eos = ossmith_harmony::special::RETURN;
        if super::bits::get(mask, eos) {
            super::bits::clear(mask, eos);
            ends.iter().for_each(|&end| super::bits::set(mask, end));
        }
        Ok(())
    }

    /// Takes the token that was sampled.
    pub fn accept(&mut self, token: u32) {
        let _watched = self.cancellation_handle().map(mask_clock::watch);
        match &mut self.text {
            // A token that does not fit puts the matcher into its error state, which `mask` answers.
            Text::Plain(matcher) => drop(matcher.consume_token(token)),
            Text::Quoted(quoted) => quoted.accept(token),
        }
    }

    fn cancellation_handle(&self) -> Option<CancellationHandle> {
        match &self.text {
            Text::Plain(matcher) => matcher.cancellation_handle(),
            Text::Quoted(quoted) => quoted.cancellation_handle(),
        }
    }
}

/// Why a mask could not be worked out.
fn unfollowable(cancelled: bool, why: &str) -> MaskError {
    MaskError::Form(match cancelled {
        true => format!(
            "the grammar takes more than {} ms to say what may come next",
            mask_clock::MASK_CPU.as_millis()
        ),
        false => format!("the form cannot be followed further: {}", first_line(why)),
    })
}
