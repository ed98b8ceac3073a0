//! JSON schema as a TypeScript-like type, exactly as the reference library writes it, warts included.
//!
//! Every oddity here is deliberate: models are prompted with these bytes. The readable rendering is in `typescript`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::json::compact;

/// The type of a tool's parameters.
pub(super) fn parameters_type(schema: &Value) -> String {
    type_text(schema, "")
}

fn type_text(schema: &Value, indent: &str) -> String {
    if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
        return variants
            .iter()
            .map(|variant| format!("\n{}", free_variant(variant, indent)))
            .collect();
    }
    match schema.get("type") {
        Some(Value::Array(types)) => {
            let names: Vec<&str> =
                types.iter().filter_map(Value::as_str).map(number_name).collect();
            if names.is_empty() { "any".to_owned() } else { names.join(" | ") }
        }
        Some(Value::String(name)) => match name.as_str() {
            "object" => object(schema, indent),
            "string" => string(schema),
            "number" | "integer" => "number".to_owned(),
            "boolean" => "boolean".to_owned(),
            "array" => match schema.get("items") {
                Some(items) => format!("{}[]", type_text(items, indent)),
                None => "Array<any>".to_owned(),
            },
            _ => "any".to_owned(),
        },
        _ => "any".to_owned(),
    }
}

fn number_name(name: &str) -> &str {
    if name == "integer" { "number" } else { name }
}

fn string(schema: &Value) -> String {
    let quoted: Vec<String> = schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|value| format!("\"{value}\""))
        .collect();
    if quoted.is_empty() { "string".to_owned() } else { quoted.join(" | ") }
}

fn object(schema: &Value, indent: &str) -> String {
    let mut text = String::new();
    if let Some(description) = text_of(schema, "description") {
        text.push_str(&format!("{indent}// {description}\n"));
    }
    text.push_str("{\n");
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let required = required(schema);
        for (name, property) in properties {
            let mark = if required.contains(name.as_str()) { "" } else { "?" };
            property_lines(&format!("{name}{mark}:"), property, indent, &mut text);
        }
    }
    text.push_str(indent);
    text.push('}');
    text
}

fn required(schema: &Value) -> HashSet<&str> {
    schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn property_lines(name: &str, property: &Value, indent: &str, text: &mut String) {
    if let Some(title) = text_of(property, "title") {
        text.push_str(&format!("{indent}// {title}\n{indent}//\n"));
    }
    // A `oneOf` that is no list still hides the description and the default.
    let union = property.get("oneOf");
    if let (None, Some(description)) = (union, text_of(property, "description")) {
        text.push_str(&format!("{indent}// {description}\n"));
    }
    if let Some(examples) =
        property.get("examples").and_then(Value::as_array).filter(|e| !e.is_empty())
    {
        text.push_str(&format!("{indent}// Examples:\n"));
        for example in examples.iter().filter_map(Value::as_str) {
            text.push_str(&format!("{indent}// - \"{example}\"\n"));
        }
    }
    match union.and_then(Value::as_array) {
        Some(variants) => union_lines(name, property, variants, indent, text),
        None => {
            let typed = nullable(property, type_text(property, &format!("{indent}    ")));
            text.push_str(&format!("{indent}{name} {typed},"));
            if let (None, Some(default)) = (union, property.get("default")) {
                text.push_str(&format!(" // default: {}", default_text(default, property)));
            }
            text.push('\n');
        }
    }
}

/// A property with `oneOf`: its comments, its name, a line for each variant.
fn union_lines(name: &str, property: &Value, variants: &[Value], indent: &str, text: &mut String) {
    let description = text_of(property, "description");
    let first = variants.first().and_then(|v| text_of(v, "description"));
    let shown = description.filter(|&d| first != Some(d));
    if let Some(description) = shown {
        text.push_str(&format!("{indent}// {description}\n"));
    }
    if let Some(default) = property.get("default") {
        text.push_str(&format!("{indent}// default: {}\n", default_text(default, property)));
    }
    text.push_str(&format!("{indent}{name}\n"));
    for (index, variant) in variants.iter().enumerate() {
        let typed = nullable(variant, type_text(variant, &format!("{indent}   ")));
        text.push_str(&format!("{indent} | {typed}"));
        let repeated =
            |remark: &str| (index == 0 && shown.is_some()) || description == Some(remark);
        let mut remarks = Vec::new();
        remarks.extend(text_of(variant, "description").filter(|d| !repeated(d)).map(str::to_owned));
        remarks.extend(
            variant.get("default").map(|d| format!("default: {}", default_text(d, variant))),
        );
        if !remarks.is_empty() {
            text.push_str(&format!(" // {}", remarks.join(" ")));
        }
        text.push('\n');
    }
    text.push_str(&format!("{indent},\n"));
}

/// A variant of a `oneOf` that does not belong to a property.
fn free_variant(variant: &Value, indent: &str) -> String {
    let typed = nullable(variant, type_text(variant, &format!("{indent}   ")));
    let mut text = format!("{indent} | {typed}");
    let mut remarks = Vec::new();
    remarks.extend(text_of(variant, "description").map(str::to_owned));
    let quoted = |default: &Value| match default {
        Value::String(text) if !lists_values(variant) => format!("\"{text}\""),
        other => compact(other),
    };
    remarks.extend(variant.get("default").map(|default| format!("default: {}", quoted(default))));
    if !remarks.is_empty() {
        text.push_str(&format!(" // {}", remarks.join(" ")));
    }
    text
}

fn nullable(schema: &Value, typed: String) -> String {
    let marked = schema.get("nullable").and_then(Value::as_bool).unwrap_or(false);
    if marked && !typed.contains("null") { format!("{typed} | null") } else { typed }
}

/// A default as the comment shows it: strings bare where the schema lists its values, else in quotes as they are.
fn default_text(default: &Value, schema: &Value) -> String {
    let listed =
        schema.get("enum").and_then(Value::as_array).is_some_and(|values| !values.is_empty());
    match default {
        Value::String(text) if listed => text.clone(),
        Value::String(text) => format!("\"{text}\""),
        other => compact(other),
    }
}

fn lists_values(schema: &Value) -> bool {
    schema.get("enum").and_then(Value::as_array).is_some_and(|values| !values.is_empty())
}

fn text_of<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema
        .as_object()
        .and_then(|object: &Map<String, Value>| object.get(key))
        .and_then(Value::as_str)
}
