//! The text of system and developer messages: blocks joined by an empty line.

use std::collections::BTreeMap;

use super::SchemaStyle;
use super::schema::parameters_type;
use super::typescript;
use crate::types::{DeveloperContent, SystemContent, Tool, ToolNamespace};

/// A system message's text.
pub(super) fn system_text(
    content: &SystemContent,
    has_function_tools: bool,
    style: SchemaStyle,
) -> String {
    let facts = [
        content.model_identity.clone(),
        content.knowledge_cutoff.as_ref().map(|cutoff| format!("Knowledge cutoff: {cutoff}")),
        content.conversation_start_date.as_ref().map(|date| format!("Current date: {date}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let mut blocks = Vec::new();
    if !facts.is_empty() {
        blocks.push(facts.join("\n"));
    }
    if let Some(effort) = content.reasoning_effort {
        blocks.push(format!("Reasoning: {}", effort.as_str()));
    }
    blocks.extend(content.tools.as_ref().and_then(|tools| tools_text(tools, style)));
    if let Some(channels) = content.channel_config.as_ref().filter(|c| !c.valid_channels.is_empty())
    {
        let mut line = format!("# Valid channels: {}.", channels.valid_channels.join(", "));
        if channels.channel_required {
            line.push_str(" Channel must be included for every message.");
        }
        if has_function_tools {
            line.push_str("\nCalls to these tools must go to the commentary channel: 'functions'.");
        }
        blocks.push(line);
    }
    blocks.join("\n\n")
}

/// A developer message's text.
pub(super) fn developer_text(content: &DeveloperContent, style: SchemaStyle) -> String {
    let mut blocks = Vec::new();
    if let Some(instructions) = &content.instructions {
        blocks.push("# Instructions".to_owned());
        blocks.push(instructions.clone());
    }
    blocks.extend(content.tools.as_ref().and_then(|tools| tools_text(tools, style)));
    blocks.join("\n\n")
}

fn tools_text(tools: &BTreeMap<String, ToolNamespace>, style: SchemaStyle) -> Option<String> {
    if tools.is_empty() {
        return None;
    }
    let mut blocks = vec!["# Tools".to_owned()];
    blocks.extend(tools.values().map(|namespace| namespace_text(namespace, style)));
    Some(blocks.join("\n\n"))
}

fn namespace_text(namespace: &ToolNamespace, style: SchemaStyle) -> String {
    let has_tools = !namespace.tools.is_empty();
    let mut lines = vec![format!("## {}", namespace.name), String::new()];
    for line in namespace.description.as_deref().unwrap_or_default().lines() {
        lines.push(if has_tools { format!("// {line}") } else { line.to_owned() });
    }
    if has_tools {
        lines.push(format!("namespace {} {{\n", namespace.name));
        lines.extend(namespace.tools.iter().map(|tool| tool_text(tool, style)));
        lines.push(format!("}} // namespace {}", namespace.name));
    }
    lines.join("\n")
}

/// A tool's comment and type, and an empty line (the line's end comes from the join).
fn tool_text(tool: &Tool, style: SchemaStyle) -> String {
    let mut text: String = tool.description.lines().map(|line| format!("// {line}\n")).collect();
    let parameters = tool.parameters.as_ref().filter(|p| !p.is_null()).map(|schema| match style {
        SchemaStyle::Reference => parameters_type(schema),
        SchemaStyle::Full => typescript::parameters_type(schema),
    });
    match parameters {
        Some(parameters) => {
            text.push_str(&format!("type {} = (_: {parameters}) => any;\n", tool.name))
        }
        None => text.push_str(&format!("type {} = () => any;\n", tool.name)),
    }
    text
}
