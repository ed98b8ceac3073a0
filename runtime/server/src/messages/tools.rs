//! `tools` and `tool_choice` of a message: tools with a schema, those that Anthropic defines and the client runs, and those that
//! Anthropic's servers run, which nobody runs here.

use serde_json::{Value, json};

use crate::config::Config;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::options::tools::ToolOptions;

/// Reads `tools` and `tool_choice`.
pub(super) fn read(fields: &Fields<'_>, config: &Config) -> Result<ToolOptions> {
    let tools = fields.objects("tools")?;
    let read: Vec<Value> =
        tools.iter().map(|tool| function(tool, config)).collect::<Result<_>>()?;
    let mut read = json!({"tools": read});
    if let Some(choice) = fields.object("tool_choice")? {
        read["tool_choice"] = match choice.required_string("type")? {
            word @ ("auto" | "none") => word.into(),
            "any" => "required".into(),
            "tool" => json!({"type": "function", "name": choice.required_string("name")?}),
            other => {
                return Err(
                    choice.wrong("type", format!("is `{other}`; use auto, any, tool or none"))
                );
            }
        };
        read["parallel_tool_calls"] = (!choice.bool("disable_parallel_tool_use", false)?).into();
    }
    let only_foreign = read["tool_choice"] != "none" && !tools.is_empty();
    let Value::Object(map) = read else { return Ok(ToolOptions::default()) };
    let mut options = ToolOptions::read(&Fields::new(&map), config)?;
    for function in &mut options.functions {
        let name = Value::from(function.target.name.as_str());
        let named = |tool: &&Fields<'_>| tool.get("name") == Some(&name);
        if let Some(tool) = tools.iter().find(named) {
            function.param = tool.name("input_schema");
        }
    }
    // A request with nothing else is the search or the run itself (Claude Code's `WebSearch` is one), and an answer without it
    // would be made up.
    if let (true, true, [first, ..]) = (only_foreign, options.functions.is_empty(), &*tools) {
        return Err(foreign(first, first.string("type")?.unwrap_or_default()));
    }
    Ok(options)
}

/// What gpt-oss has to read about a tool that Anthropic's models know by heart.
struct ClientTool {
    /// How its type begins.
    prefix: &'static str,
    description: &'static str,
    schema: fn() -> Value,
}

/// The tools that Anthropic defines and clients run.
const CLIENT_TOOLS: [ClientTool; 3] = [
    ClientTool {
        prefix: "bash_",
        description: "Runs a command in a shell that keeps its state.",
        schema: bash,
    },
    ClientTool {
        prefix: "text_editor_",
        description: "Views, creates and edits files.",
        schema: text_editor,
    },
    ClientTool {
        prefix: "memory_",
        description: "Reads and writes the files below /memories, which last.",
        schema: memory,
    },
];

fn bash() -> Value {
    json!({"type": "object", "properties": {
        "command": {"type": "string", "description": "The command. Required unless the shell is restarted."},
        "restart": {"type": "boolean", "description": "Restarts the shell."},
    }})
}

fn text_editor() -> Value {
    editor(&["view", "create", "str_replace", "insert"], json!({}))
}

fn memory() -> Value {
    let more = json!({
        "old_path": {"type": "string", "description": "The path before `rename`."},
        "new_path": {"type": "string", "description": "The path after `rename`."},
    });
    let mut schema = editor(&["view", "create", "str_replace", "insert", "delete", "rename"], more);
    schema["required"] = json!(["command"]);
    schema
}

fn editor(commands: &[&str], more: Value) -> Value {
    let mut properties = json!({
        "command": {"type": "string", "enum": commands},
        "path": {"type": "string", "description": "The absolute path of a file or folder."},
        "view_range": {"type": "array", "items": {"type": "integer"}, "description": "First and last line of `view`; -1 is the end."},
        "file_text": {"type": "string", "description": "The text of the file for `create`."},
        "old_str": {"type": "string", "description": "The text that `str_replace` replaces; it must occur once."},
        "new_str": {"type": "string", "description": "What replaces it."},
        "insert_line": {"type": "integer", "description": "The line after which `insert` puts its text; 0 is the beginning."},
        "insert_text": {"type": "string", "description": "The text of `insert`."},
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut properties, more) {
        all.extend(more);
    }
    json!({"type": "object", "properties": properties, "required": ["command", "path"]})
}

/// A tool as Responses has it. One that is left out keeps its type.
fn function(tool: &Fields<'_>, config: &Config) -> Result<Value> {
    let kind = tool.string("type")?.unwrap_or("custom");
    if let Some(known) = CLIENT_TOOLS.iter().find(|known| kind.starts_with(known.prefix)) {
        return Ok(json!({
            "type": "function",
            "name": tool.required_string("name")?,
            "description": known.description,
            "parameters": (known.schema)(),
        }));
    }
    if kind.starts_with("computer_") {
        let name = tool.name("type");
        let why =
            format!("`{name}` is `{kind}`, whose results are images; gpt-oss reads text only");
        return Err(ApiError::unsupported(name, why));
    }
    if matches!(kind, "function" | "namespace") {
        let why = format!("is `{kind}`, which this API does not have; leave it out");
        return Err(tool.wrong("type", why));
    }
    if kind != "custom" {
        return match config.strict_tools {
            true => Err(foreign(tool, kind)),
            false => Ok(json!({"type": kind})),
        };
    }
    if tool.object("input_schema")?.is_none() {
        return Err(tool.wrong("input_schema", "is missing"));
    }
    Ok(json!({
        "type": "function",
        "name": tool.required_string("name")?,
        "description": tool.string("description")?,
        "parameters": tool.get("input_schema"),
        "strict": tool.bool("strict", false)?,
    }))
}

/// The refusal of a tool that Anthropic's servers run.
fn foreign(tool: &Fields<'_>, kind: &str) -> ApiError {
    let name = tool.name("type");
    let why = format!(
        "`{name}` is `{kind}`, a tool that Anthropic's servers run and this server does not; give a tool with an `input_schema` and run it yourself"
    );
    ApiError::unsupported(name, why)
}
