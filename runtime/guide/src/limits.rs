//! What a schema, regular expression, grammar or list of choices may be before anything is compiled. The checks are
//! iterative, look at each byte a bounded number of times, and bound every recursion of llguidance, so that
//! [`super::grammar`] can size its stack for them. docs/SERVER.md lists the limits.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::constraint::{Constraint, closes_arguments};

/// Bytes of a JSON schema.
pub const MAX_SCHEMA_BYTES: usize = 256 << 10;
/// Bytes of a regular expression or a Lark grammar.
pub const MAX_GRAMMAR_BYTES: usize = 64 << 10;
/// Levels of a schema, with the levels of everything that it refers to: no path through it can be longer.
pub const MAX_SCHEMA_DEPTH: usize = 4096;
/// Objects, arrays and values of a schema.
pub const MAX_SCHEMA_NODES: usize = 50_000;
/// Names of one object, in `properties` and `required`.
pub const MAX_PROPERTIES: usize = 5000;
/// Rules and terminals of a Lark grammar, counted by its colons: no chain of them can be longer.
pub const MAX_RULES: usize = 2048;
/// Texts of a choice.
pub const MAX_CHOICES: usize = 20_000;
/// Digits of `multipleOf` read as one number, without its point: the automaton has a state for each remainder.
pub const MAX_MULTIPLE_OF: f64 = 10_000.0;
/// Digits of `multipleOf` after its point.
pub const MAX_MULTIPLE_OF_DECIMALS: usize = 6;

/// Parts of a plain schema, those that it refers to included.
const MAX_PLAIN_PARTS: usize = 4000;
/// Bytes of a plain choice.
const MAX_PLAIN_CHOICE_BYTES: usize = 16 << 10;
/// Names of a plain object that forbids no others, each of which is excluded from the others.
const MAX_PLAIN_EXCLUDED: usize = 64;
/// Names of any other plain object.
const MAX_PLAIN_NAMES: usize = 256;

/// How a text within the limits is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Nothing in it multiplies: compiling takes time and memory in proportion to its size.
    Plain,
    /// Some of it may: intersections, automata with counters, and whatever a regular expression or a grammar says.
    Involved,
}

/// Refuses what is over a limit, and names the limit and the value.
///
/// # Errors
/// The limit and the value.
pub fn check(constraint: &Constraint) -> Result<Effort, String> {
    match constraint {
        Constraint::Schema { schema, .. } => check_schema(schema, false),
        Constraint::Arguments { schema, .. } => {
            check_schema(schema, schema.as_object().is_some_and(closes_arguments))
        }
        Constraint::Regex(text) => {
            at_most("bytes", text.len(), MAX_GRAMMAR_BYTES).map(|()| Effort::Involved)
        }
        Constraint::Grammar(text) | Constraint::Input(text) => {
            check_lark(text).map(|()| Effort::Involved)
        }
        Constraint::Choice(choices) => {
            let bytes = choices.iter().map(String::len).sum();
            if choices.is_empty() {
                return Err("it has no choices".to_owned());
            }
            at_most("choices", choices.len(), MAX_CHOICES)?;
            at_most("bytes", bytes, MAX_SCHEMA_BYTES)?;
            let plain = bytes <= MAX_PLAIN_CHOICE_BYTES;
            Ok(if plain { Effort::Plain } else { Effort::Involved })
        }
    }
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), String> {
    if count > limit {
        return Err(format!("it has {count} {what}; at most {limit} are taken"));
    }
    Ok(())
}

fn check_lark(text: &str) -> Result<(), String> {
    at_most("bytes", text.len(), MAX_GRAMMAR_BYTES)?;
    at_most("rules and terminals", text.matches(':').count(), MAX_RULES)?;
    // A schema within a grammar is held to the limits of schemas. What is no JSON is refused by the compiler.
    for (at, directive) in text.match_indices("%json") {
        let rest = &text[at + directive.len()..];
        if let Some(Ok(schema)) =
            serde_json::Deserializer::from_str(rest).into_iter::<Value>().next()
        {
            check_schema(&schema, false).map(drop)?;
        }
    }
    Ok(())
}

/// A part of a schema that is still to be looked at.
struct Part<'a> {
    value: &'a Value,
    depth: usize,
}

/// `is_closed` says that the root allows no names but its own, though it does not state that itself.
fn check_schema(root: &Value, is_closed: bool) -> Result<Effort, String> {
    at_most("bytes", json_bytes(root), MAX_SCHEMA_BYTES)?;
    let mut depths = measure(root, root, is_closed)?;
    let mut plain = depths.plain;
    // A path passes through each target of a reference at most once, so the sum bounds the longest.
    let mut nodes = depths.nodes;
    let mut depth = depths.depth;
    let mut seen = HashSet::new();
    let mut targets = std::mem::take(&mut depths.targets);
    while let Some(target) = targets.pop() {
        if !seen.insert(target) {
            continue;
        }
        let Some(value) = resolve(root, target) else { continue };
        let inner = measure(root, value, is_closed && std::ptr::eq(root, value))?;
        depth += inner.depth + 1;
        nodes += inner.nodes;
        plain &= inner.plain;
        at_most("levels of nesting and references", depth, MAX_SCHEMA_DEPTH)?;
        at_most("parts with those that it refers to", nodes, 4 * MAX_SCHEMA_NODES)?;
        targets.extend(inner.targets);
    }
    at_most("levels of nesting and references", depth, MAX_SCHEMA_DEPTH)?;
    Ok(if plain && nodes <= MAX_PLAIN_PARTS { Effort::Plain } else { Effort::Involved })
}

/// What [`measure`] finds.
struct Measured<'a> {
    depth: usize,
    nodes: usize,
    plain: bool,
    /// Where its references point to.
    targets: Vec<&'a str>,
}

/// Looks at one schema and those written in it, without following references.
fn measure<'a>(
    root: &'a Value,
    schema: &'a Value,
    is_closed: bool,
) -> Result<Measured<'a>, String> {
    let mut found = Measured { depth: 0, nodes: 0, plain: true, targets: Vec::new() };
    let mut parts = vec![Part { value: schema, depth: 1 }];
    while let Some(Part { value, depth }) = parts.pop() {
        found.depth = found.depth.max(depth);
        found.nodes += 1;
        if found.nodes > MAX_SCHEMA_NODES {
            at_most("parts", found.nodes, MAX_SCHEMA_NODES)?;
        }
        let below = depth + 1;
        match value {
            Value::Object(map) => {
                check_keywords(map)?;
                found.plain &= is_plain(map, is_closed && depth == 1);
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.targets.push(target);
                }
                for (key, value) in map {
                    // Definitions count where they are referred to.
                    let aside = std::ptr::eq(value_of(root, key), value);
                    if !(aside && matches!(key.as_str(), "$defs" | "definitions")) {
                        parts.push(Part { value, depth: below });
                    }
                }
            }
            Value::Array(list) => {
                parts.extend(list.iter().map(|value| Part { value, depth: below }));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn value_of<'a>(root: &'a Value, key: &str) -> &'a Value {
    root.get(key).unwrap_or(&Value::Null)
}

/// The part of a schema that a reference points to, as llguidance finds it.
fn resolve<'a>(root: &'a Value, target: &str) -> Option<&'a Value> {
    if target == "#" || target == "#/" {
        return Some(root);
    }
    let mut at = root;
    for segment in target.strip_prefix("#/")?.split('/') {
        at = match at {
            Value::Array(list) => list.get(segment.parse::<usize>().ok()?)?,
            other => other.get(segment)?,
        };
    }
    Some(at)
}

fn check_keywords(map: &Map<String, Value>) -> Result<(), String> {
    let count = |key: &str| match map.get(key) {
        Some(Value::Object(names)) => names.len(),
        Some(Value::Array(names)) => names.len(),
        _ => 0,
    };
    at_most("properties", count("properties"), MAX_PROPERTIES)?;
    at_most("required properties", count("required"), MAX_PROPERTIES)?;
    if let Some(number) = map.get("multipleOf").and_then(Value::as_f64) {
        check_multiple_of(number)?;
    }
    Ok(())
}

/// Bytes of a value as compact JSON.
#[must_use]
pub fn json_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Neither a value nor counting can fail.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// Whether the keywords of one schema (or, read with the same eyes, the names of one `properties`) make llguidance
/// intersect nothing and count nothing. Each key is looked at once.
fn is_plain(map: &Map<String, Value>, is_closed: bool) -> bool {
    let (mut applied, mut contents, mut lengths) = (0, 0, 0);
    let (mut names, mut closed, mut has_format) = (0, is_closed, false);
    for (key, value) in map {
        match key.as_str() {
            "allOf" | "oneOf" | "pattern" | "patternProperties" | "multipleOf"
            | "minProperties" | "maxProperties" | "prefixItems" | "additionalItems" => {
                return false;
            }
            // Keywords that are intersected with all others beside them.
            "$ref" | "anyOf" | "enum" | "const" => applied += 1,
            // Keywords beside which that costs something.
            "properties" => {
                contents += 1;
                names = value.as_object().map_or(0, Map::len);
            }
            "additionalProperties" => {
                contents += 1;
                closed |= *value == Value::Bool(false);
            }
            "items" if value.is_array() => return false,
            "required" | "items" => contents += 1,
            "format" => {
                contents += 1;
                has_format = true;
            }
            "minLength" | "maxLength" => lengths += 1,
            _ => {}
        }
    }
    applied <= 1
        && (applied == 0 || contents == 0)
        && (lengths == 0 || !has_format)
        && names <= if closed { MAX_PLAIN_NAMES } else { MAX_PLAIN_EXCLUDED }
}

fn check_multiple_of(number: f64) -> Result<(), String> {
    // The shortest decimal form, as llguidance takes it apart.
    let text = number.abs().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let digits = format!("{whole}{fraction}").parse::<f64>().unwrap_or(f64::INFINITY);
    if digits > MAX_MULTIPLE_OF || fraction.len() > MAX_MULTIPLE_OF_DECIMALS {
        return Err(format!(
            "`multipleOf` is {number}; at most {MAX_MULTIPLE_OF} without its decimal point, and \
             {MAX_MULTIPLE_OF_DECIMALS} digits after it, can be enforced"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(constraint: &Constraint) -> String {
        check(constraint).expect_err("a refusal")
    }

    fn schema(schema: Value) -> Constraint {
        Constraint::Schema { schema, lenient: false }
    }

    /// A chain of this many definitions, each of which refers to the next.
    fn chain(length: usize) -> Value {
        let mut defs: Map<String, Value> = (0..length)
            .map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)})))
            .collect();
        defs.insert(format!("d{length}"), json!({"type": "null"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    }

    #[test]
    fn a_refusal_names_the_limit_and_the_value() {
        let names = |count: usize| -> Value {
            (0..count).map(|n| (format!("p{n}"), json!(true))).collect::<Map<_, _>>().into()
        };
        let rules: String = (0..3000).map(|n| format!("a{n}: a{}\n", n + 1)).collect();
        for (constraint, wants) in [
            (Constraint::Regex("a".repeat(70_000)), ["70000 bytes", "65536"]),
            (Constraint::Grammar("a".repeat(70_000)), ["70000 bytes", "65536"]),
            (Constraint::Grammar(rules), ["3000 rules", "2048"]),
            (Constraint::Choice(vec![String::new(); 20_001]), ["20001 choices", "20000"]),
            (schema(json!({"title": "x".repeat(300_000)})), ["bytes", "262144"]),
            (schema(json!({"properties": names(5001)})), ["5001 properties", "5000"]),
            (schema(json!({"enum": vec![0; 60_000]})), ["parts", "50000"]),
            (schema(chain(1500)), ["levels", "4096"]),
            (schema(json!({"type": "integer", "multipleOf": 1_000_003})), ["1000003", "10000"]),
            (schema(json!({"multipleOf": 1e-7})), ["multipleOf", "6 digits"]),
            (
                Constraint::Grammar("start: %json {\"multipleOf\": 99991}".to_owned()),
                ["99991", "10000"],
            ),
        ] {
            let why = refusal(&constraint);
            for want in wants {
                assert!(why.contains(want), "`{why}` does not say `{want}`");
            }
        }
    }

    #[test]
    fn ordinary_schemas_are_within_the_limits() {
        for fine in [
            json!({"type": "object", "properties": {"n": {"type": "number", "multipleOf": 0.01}}}),
            json!({"$ref": "#"}),
            json!({"$ref": "#/$defs/nowhere"}),
            json!({"$defs": {"n": {"properties": {"c": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}),
            chain(300),
        ] {
            assert!(check(&schema(fine.clone())).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_reference_in_a_definition_that_nobody_refers_to_does_not_count() {
        let mut unused = chain(1500);
        unused["$ref"] = json!("#/$defs/d1500");
        assert_eq!(check(&schema(unused)), Ok(Effort::Plain));
    }

    #[test]
    fn what_multiplies_is_not_plain() {
        let plain = |value: Value| check(&schema(value)) == Ok(Effort::Plain);
        let tool = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where.", "maxLength": 80},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
                "stops": {"type": "array", "items": {"$ref": "#/$defs/stop"}}
            },
            "required": ["city"],
            "$defs": {"stop": {"type": "object", "properties": {"at": {"format": "date-time"}}}}
        });
        assert!(plain(tool));
        for involved in [
            json!({"allOf": [{"type": "object"}]}),
            json!({"type": "string", "pattern": "a*"}),
            json!({"type": "integer", "multipleOf": 7}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"multipleOf": 7}}}),
            json!({"$ref": "#/$defs/a", "required": ["b"], "$defs": {"a": {}}}),
            json!({"anyOf": [{"required": ["a"]}], "properties": {"a": {}}}),
            json!({"properties": {"a": {"format": "email", "minLength": 9}}}),
            json!({"enum": vec![0; 5000]}),
        ] {
            assert!(!plain(involved.clone()), "{involved}");
        }
        // Their automata may be large however short they are, so all are tried out.
        for text in [Constraint::Regex("a".into()), Constraint::Grammar("start: \"a\"".into())] {
            assert_eq!(check(&text), Ok(Effort::Involved));
        }
    }
}
