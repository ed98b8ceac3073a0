//! JSON schema as a TypeScript-like type that keeps everything in the schema: the style [`super::SchemaStyle::Full`].
//!
//! The layout is the reference's (see `schema`), so that models find what they know: comments above a property, its default behind
//! it. Where the reference shows `any` or something ambiguous, this shows the type.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::json::compact;

/// References are resolved at most this often in one schema; further ones show the definition's name. Definitions may refer to
/// each other, so without a limit a small schema could make a huge or endless type.
const MAX_REFERENCES: usize = 64;

/// The type of a tool's parameters.
pub(super) fn parameters_type(schema: &Value) -> String {
    let mut writer = Writer { root: schema, open: Vec::new(), resolved: 0 };
    let mut text = String::new();
    if let Some(description) = string_at(schema, "description") {
        comment(&mut text, "", description);
    }
    text.push_str(&writer.type_of(schema, ""));
    text
}

struct Writer<'a> {
    /// The whole schema, where references lead to.
    root: &'a Value,
    /// References being resolved.
    open: Vec<&'a str>,
    resolved: usize,
}

impl<'a> Writer<'a> {
    fn type_of(&mut self, schema: &'a Value, indent: &str) -> String {
        let mut typed = self.plain_type(schema, indent);
        if schema.get("nullable").and_then(Value::as_bool) == Some(true)
            && !typed.split(" | ").any(|t| t == "null")
        {
            typed.push_str(" | null");
        }
        typed
    }

    fn plain_type(&mut self, schema: &'a Value, indent: &str) -> String {
        let Some(fields) = schema.as_object() else {
            return if schema == &Value::Bool(false) { "never" } else { "any" }.to_owned();
        };
        if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
            return self.reference(reference, indent);
        }
        if let Some(value) = fields.get("const") {
            return compact(value);
        }
        if let Some(values) =
            fields.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty())
        {
            return values.iter().map(compact).collect::<Vec<_>>().join(" | ");
        }
        for (key, joint) in [("oneOf", " | "), ("anyOf", " | "), ("allOf", " & ")] {
            if let Some(parts) =
                fields.get(key).and_then(Value::as_array).filter(|parts| !parts.is_empty())
            {
                let mut parts: Vec<String> =
                    parts.iter().map(|part| self.type_of(part, indent)).collect();
                if fields.contains_key("properties") {
                    parts.insert(0, self.object(fields, indent));
                }
                if joint == " & " {
                    parts.iter_mut().for_each(|part| *part = in_brackets(part));
                }
                parts.dedup();
                return parts.join(joint);
            }
        }
        match fields.get("type") {
            Some(Value::String(name)) => self.named_type(name, fields, indent),
            Some(Value::Array(names)) => {
                let mut types: Vec<String> = Vec::new();
                // A name that comes again would be written again, and so would all below it.
                let mut seen = HashSet::new();
                for name in names.iter().filter_map(Value::as_str).filter(|name| seen.insert(*name))
                {
                    let typed = self.named_type(name, fields, indent);
                    if !types.contains(&typed) {
                        types.push(typed);
                    }
                }
                if types.is_empty() { "any".to_owned() } else { types.join(" | ") }
            }
            _ if fields.contains_key("properties") => self.object(fields, indent),
            _ => "any".to_owned(),
        }
    }

    fn named_type(&mut self, name: &str, fields: &'a Map<String, Value>, indent: &str) -> String {
        match name {
            "object" => self.object(fields, indent),
            "array" => self.array(fields, indent),
            "integer" | "number" => "number".to_owned(),
            "string" | "boolean" | "null" => name.to_owned(),
            _ => "any".to_owned(),
        }
    }

    fn array(&mut self, fields: &'a Map<String, Value>, indent: &str) -> String {
        if let Some(places) = fields.get("prefixItems").and_then(Value::as_array) {
            let places: Vec<String> =
                places.iter().map(|place| self.type_of(place, indent)).collect();
            return format!("[{}]", places.join(", "));
        }
        match fields.get("items") {
            Some(items) => format!("{}[]", in_brackets(&self.type_of(items, indent))),
            None => "any[]".to_owned(),
        }
    }

    fn object(&mut self, fields: &'a Map<String, Value>, indent: &str) -> String {
        let required: HashSet<&str> = fields
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut text = "{\n".to_owned();
        for (name, property) in
            fields.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            let mark = if required.contains(name.as_str()) { "" } else { "?" };
            comments(&mut text, indent, property);
            let typed = self.type_of(property, &format!("{indent}    "));
            text.push_str(&format!("{indent}{}{mark}: {typed},", property_name(name)));
            if let Some(default) = property.get("default") {
                text.push_str(&format!(" // default: {}", compact(default)));
            }
            text.push('\n');
        }
        if let Some(others) = fields.get("additionalProperties").filter(|others| others.is_object())
        {
            let typed = self.type_of(others, &format!("{indent}    "));
            text.push_str(&format!("{indent}[key: string]: {typed},\n"));
        }
        text.push_str(indent);
        text.push('}');
        text
    }

    /// What a reference within the schema leads to; its name where it leads nowhere or back into itself.
    fn reference(&mut self, reference: &'a str, indent: &str) -> String {
        let name = reference
            .rsplit('/')
            .next()
            .filter(|name| !name.is_empty() && *name != "#")
            .unwrap_or("any");
        let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        match target {
            Some(target) if !self.open.contains(&reference) && self.resolved < MAX_REFERENCES => {
                self.resolved += 1;
                self.open.push(reference);
                let typed = self.type_of(target, indent);
                self.open.pop();
                typed
            }
            _ => name.to_owned(),
        }
    }
}

/// A property's title, description and examples, each line marked.
fn comments(text: &mut String, indent: &str, property: &Value) {
    for key in ["title", "description"] {
        if let Some(words) = string_at(property, key) {
            comment(text, indent, words);
        }
    }
    if let Some(examples) =
        property.get("examples").and_then(Value::as_array).filter(|e| !e.is_empty())
    {
        comment(text, indent, "Examples:");
        for example in examples {
            comment(text, indent, &format!("- {}", compact(example)));
        }
    }
}

fn comment(text: &mut String, indent: &str, words: &str) {
    for line in words.lines() {
        text.push_str(format!("{indent}// {line}").trim_end());
        text.push('\n');
    }
}

/// Unions and intersections in brackets, so that what follows applies to all of them.
fn in_brackets(typed: &str) -> String {
    let is_compound = !typed.starts_with('{') && (typed.contains(" | ") || typed.contains(" & "));
    let is_compound =
        is_compound || typed.rfind('}').is_some_and(|end| typed[end..].contains(" | "));
    if is_compound { format!("({typed})") } else { typed.to_owned() }
}

/// A name that is no identifier stands in quotes.
fn property_name(name: &str) -> String {
    let is_identifier = !name.is_empty()
        && !name.starts_with(|c: char| c.is_numeric())
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
    if is_identifier { name.to_owned() } else { compact(&Value::String(name.to_owned())) }
}

fn string_at<'v>(schema: &'v Value, key: &str) -> Option<&'v str> {
    schema.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn properties_keep_their_types() {
        for (property, want) in [
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), "p?: string | null,"),
            (
                json!({"allOf": [{"type": "string"}, {"enum": ["a", "b"]}]}),
                "p?: string & (\"a\" | \"b\"),",
            ),
            (json!({"const": "x"}), "p?: \"x\","),
            (json!({"enum": [1, 2, null]}), "p?: 1 | 2 | null,"),
            (
                json!({"type": "array", "items": {"type": ["string", "null"]}}),
                "p?: (string | null)[],",
            ),
            (
                json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]}),
                "p?: [string, number],",
            ),
            (json!({"$ref": "#/$defs/Color"}), "p?: \"red\" | \"green\","),
            (json!({"$ref": "#/$defs/Nowhere"}), "p?: Nowhere,"),
            (
                json!({"type": "array", "items": {"$ref": "#/$defs/Node"}}),
                "p?: {\n    next?: Node,\n    }[],",
            ),
            (
                json!({"type": "string", "nullable": true, "default": "d"}),
                "p?: string | null, // default: \"d\"",
            ),
            (json!({"type": "string", "description": "one\ntwo"}), "// one\n// two\np?: string,"),
            (
                json!({"type": "object", "additionalProperties": {"type": "integer"}}),
                "p?: {\n    [key: string]: number,\n    },",
            ),
            (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "p?: number,"),
            (json!(true), "p?: any,"),
        ] {
            let schema = json!({
                "type": "object",
                "properties": { "p": property },
                "$defs": {
                    "Color": { "enum": ["red", "green"] },
                    "Node": { "type": "object", "properties": { "next": { "$ref": "#/$defs/Node" } } },
                },
            });
            assert_eq!(parameters_type(&schema), format!("{{\n{want}\n}}"));
        }
    }

    #[test]
    fn references_cannot_explode() {
        let mut defs = Map::new();
        for level in 0..40 {
            let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
            defs.insert(
                format!("d{level}"),
                json!({ "type": "object", "properties": { "a": next, "b": next } }),
            );
        }
        let schema = json!({ "$ref": "#/$defs/d0", "$defs": defs });
        assert!(parameters_type(&schema).len() < 100_000);
    }
}
