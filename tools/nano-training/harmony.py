"""Harmony text: renders a conversation to pieces, as the reference renderer does, with a loss flag a piece.

Not a parser (see `score.py` for what a completion must look like) and no tokenizer (`tokens.py`). A piece is
`(text, special, loss)`: pieces are encoded one by one, so no merge crosses a border between them.
"""

import json

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
TOOL_CHANNEL = "Calls to these tools must go to the commentary channel: 'functions'."


def system_text(effort, date, tools):
    head = [IDENTITY, "Knowledge cutoff: 2024-06"] + ([f"Current date: {date}"] if date else [])
    tail = CHANNELS + ("\n" + TOOL_CHANNEL if tools else "")
    return "\n\n".join(["\n".join(head), f"Reasoning: {effort}", tail])


def type_of(schema, indent=""):
    """A JSON schema as the reference renders it; the subset that `declare.py` makes (no `oneOf`)."""
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join("number" if k == "integer" else k for k in kind)
    if kind == "object":
        lines = [f"{indent}// {schema['description']}"] if "description" in schema else []
        lines.append("{")
        for name, prop in schema.get("properties", {}).items():
            if "title" in prop:
                lines += [f"{indent}// {prop['title']}", f"{indent}//"]
            if "description" in prop:
                lines.append(f"{indent}// {prop['description']}")
            mark = "" if name in schema.get("required", []) else "?"
            default = f" // default: {default_text(prop)}" if "default" in prop else ""
            lines.append(f"{indent}{name}{mark}: {type_of(prop, indent + '    ')},{default}")
        return "\n".join(lines + [indent + "}"])
    if kind == "string" and schema.get("enum"):
        return " | ".join(f'"{v}"' for v in schema["enum"])
    if kind == "array":
        return type_of(schema["items"], indent) + "[]"
    return {"string": "string", "integer": "number", "number": "number", "boolean": "boolean"}.get(kind, "any")


def default_text(prop):
    """Strings stand bare where the schema lists its values."""
    value = prop["default"]
    return value if isinstance(value, str) and prop.get("enum") else json.dumps(value, ensure_ascii=False)


def developer_text(instructions, tools):
    blocks = [f"# Instructions\n\n{instructions}"] if instructions is not None else []
    if tools:
        lines = ["## functions", "", "namespace functions {", ""]
        for tool in tools:
            lines += [f"// {line}" for line in tool["description"].splitlines()]
            params = tool.get("parameters")
            head = f"(_: {type_of(params)})" if params else "()"
            lines += [f"type {tool['name']} = {head} => any;", ""]
        blocks += ["# Tools", "\n".join(lines + ["} // namespace functions"])]
    return "\n\n".join(blocks)


def prompt_messages(case):
    """System, developer and the turns of a case: `effort`, `date`, `developer`, `tools`, `messages`."""
    out = [{"role": "system", "content": system_text(case["effort"], case.get("date"), case.get("tools"))}]
    if case.get("developer") is not None or case.get("tools"):
        out.append({"role": "developer", "content": developer_text(case.get("developer"), case.get("tools"))})
    return out + case["messages"]


def header_pieces(message):
    """What stands between `<|start|>` and `<|message|>`."""
    role = message["name"] if message["role"] == "tool" else message["role"]
    out = [(role, False)]
    if message.get("recipient"):
        out.append((f" to={message['recipient']}", False))
    if message.get("channel"):
        out += [("<|channel|>", True), (message["channel"], False)]
    if message.get("content_type"):
        out += [(" ", False), *constrained(message)]
    return out


def constrained(message):
    """`<|constrain|>json` as its special token and the rest."""
    return [("<|constrain|>", True), (message["content_type"].removeprefix("<|constrain|>"), False)]


def render(messages):
    """Pieces of messages that are context: no loss."""
    out = []
    for m in messages:
        stop = "<|call|>" if m["role"] == "assistant" and m.get("recipient") else "<|end|>"
        parts = [("<|start|>", True), *header_pieces(m), ("<|message|>", True), (m["content"], False), (stop, True)]
        out += [(text, special, False) for text, special in parts]
    return out


def target_header(message):
    """The header as nano writes it: the recipient stands behind the channel, as gpt-oss itself prefers."""
    out = [("<|channel|>", True)]
    if message.get("recipient"):
        return out + [(f"{message['channel']} to={message['recipient']} ", False), *constrained(message)]
    return out + [(message["channel"], False)]


def render_target(messages):
    """Pieces of one assistant turn (analysis, then a call or a final answer) with loss after the first role."""
    out = [("<|start|>", True, False), ("assistant", False, False)]
    for i, m in enumerate(messages):
        if i:
            out += [("<|start|>", True, True), ("assistant", False, True)]
        last = "<|end|>" if i + 1 < len(messages) else "<|call|>" if m.get("recipient") else "<|return|>"
        body = [*target_header(m), ("<|message|>", True), (m["content"], False), (last, True)]
        out += [(text, special, True) for text, special in body]
    return out


def analysis(text):
    return {"role": "assistant", "channel": "analysis", "content": text}


def final(text):
    return {"role": "assistant", "channel": "final", "content": text}


def user(text):
    return {"role": "user", "content": text}


def call(name, arguments, separators=(",", ":")):
    text = json.dumps(arguments, separators=separators, ensure_ascii=False)
    return {"role": "assistant", "channel": "commentary", "recipient": f"functions.{name}",
            "content_type": "<|constrain|>json", "content": text}


def result(name, text):
    return {"role": "tool", "name": f"functions.{name}", "recipient": "assistant", "channel": "commentary",
            "content": text}
