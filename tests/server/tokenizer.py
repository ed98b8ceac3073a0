"""The exported tokenizer in transformers and tokenizers: the ids of the server and of the command.

    python tokenizer.py OSSMITH BASE_URL DATE

Prints a line per check; exits with 1 if one failed.
"""

import json
import random
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

CASES = Path(__file__).parents[2] / "harmony/tests/data/cases.jsonl"
STRINGS = 10_000
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Its name."}}, "required": ["city"]}
EVERYTHING = {
    "type": "object",
    "description": "All kinds.",
    "properties": {
        "text": {"type": "string", "title": "A text", "examples": ["one", "two"], "default": "one"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "count": {"type": "integer", "default": 3},
        "flag": {"type": "boolean", "nullable": True},
        "either": {"type": ["string", "null"], "description": "Or nothing."},
        "list": {"type": "array", "items": {"type": "number"}, "default": [1, 2]},
        "deep": {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "array"}}, "required": ["x"]},
        "one": {"description": "One of.", "oneOf": [{"type": "string", "description": "A name.", "default": "a"},
                                                    {"type": "integer", "description": "A number.", "nullable": True}]},
        "any": {},
    },
    "required": ["text", "deep"],
}


def tool(name, description="", parameters=None):
    function = {"name": name, "description": description}
    return {"type": "function", "function": function if parameters is None else {**function, "parameters": parameters}}


def call(call_id, name, arguments):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = tool("get_weather", "The weather.\nIn a city.", CITY)
ROUND = [USER, {"role": "assistant", "reasoning": "I ask.", "content": "Just a moment.",
                "tool_calls": [call("call_1", "get_weather", '{"city": "Paris"}'), call("call_2", "now", "{}")]},
         {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
         {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "noon"}]}]
# Messages, tools, and further fields.
CHATS = [
    ([USER], None, {}),
    ([{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "In verse."}, USER], None, {"reasoning_effort": "high"}),
    ([USER, {"role": "assistant", "reasoning": "Hm.", "content": "Sunny."}, {"role": "user", "content": "And now?"},
      {"role": "developer", "content": "Use a tool."}], None, {"reasoning_effort": "low"}),
    ([{"role": "system", "content": "Be brief."}, USER], [WEATHER, tool("now"), tool("all", "Everything.", EVERYTHING)], {}),
    (ROUND, [WEATHER, tool("now")], {}),
    ([*ROUND, {"role": "assistant", "reasoning_content": "Done.", "content": "Sunny, at noon."}, USER], [WEATHER, tool("now")], {}),
    ([{"role": "user", "content": [{"type": "text", "text": "Grüß "}, {"type": "text", "text": "Gott 🙂"}]}], None, {}),
]


def texts(seed):
    """Strings of all of Unicode that is assigned, and of what tokenizers find hard."""
    import unicodedata

    of = random.Random(seed)
    hard = [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'ſ", "1", "23", "é", "中", "Ж", "A", "b", "\u0301", "\u00a0", "🙂", "/", "_", "<|", "|>"]
    for _ in range(STRINGS):
        kind, length = of.randrange(4), of.randrange(1, 40)
        if kind == 0:
            yield "".join(of.choice(hard) for _ in range(length))
        elif kind == 1:
            yield "".join(chr(of.randrange(32, 127)) for _ in range(length))
        else:
            top = 0x3000 if kind == 2 else 0x110000
            found = (chr(of.randrange(top)) for _ in range(length))
            yield "".join(c for c in found if unicodedata.category(c) not in ("Cn", "Cs"))


def lines_of(path):
    """The texts of the format's own cases."""
    for line in path.read_text("utf-8").splitlines():
        request = json.loads(line)["request"]
        if request["op"] == "encode":
            yield request["text"]
        for message in request.get("conversation", {}).get("messages", []):
            content = message.get("content") or []
            yield from [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def encoded(ossmith, strings):
    requests = "".join(json.dumps({"id": i, "op": "encode", "text": text, "allowed_special": "all"}) + "\n" for i, text in enumerate(strings))
    done = subprocess.run([ossmith, "harmony"], input=requests.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line)["tokens"] for line in done.stdout.decode().splitlines()]


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def check_ids(name, encode, strings, ours):
    wrong = [(text, ids, theirs) for text, ids in zip(strings, ours, strict=True) if (theirs := encode(text)) != ids]
    assert not wrong, f"{name}: {len(wrong)} of {len(strings)} differ: {wrong[:3]}"
    print(f"ok {name}: {len(strings)} texts, {sum(map(len, ours))} ids", flush=True)


def main() -> int:
    ossmith, url, date = sys.argv[1:]
    import tokenizers
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([ossmith, "tokenizer", "export", folder], stdout=subprocess.DEVNULL, check=True)
        fast = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        auto = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    seed = random.randrange(1 << 32)
    for name, strings in [("the format's cases", list(lines_of(CASES))), (f"random strings, seed {seed}", list(texts(seed)))]:
        ours = encoded(ossmith, strings)
        check_ids(f"tokenizers, {name}", lambda text: fast.encode(text, add_special_tokens=False).ids, strings, ours)
        check_ids(f"transformers, {name}", lambda text: auto(text)["input_ids"], strings, ours)
        back = [text for text, ids in zip(strings, ours, strict=True) if fast.decode(ids, skip_special_tokens=False) != text]
        assert not back, f"decoded differently: {back[:3]}"
    special = "<|start|>user<|message|>Hi<|end|><|reserved_200014|>"
    assert auto(special)["input_ids"] == post(f"{url}/tokenize", {"prompt": special})["tokens"]
    assert (auto.eos_token_id, auto.bos_token_id, auto.pad_token_id) == (200002, 199998, 199999)

    with urllib.request.urlopen(f"{url}/tokenizer_info", timeout=60) as answer:
        info = json.load(answer)
    for messages, tools, more in CHATS:
        for prompt in (True, False):
            body = {"messages": messages, "tools": tools, "add_generation_prompt": prompt, **more}
            want = post(f"{url}/tokenize", body)["tokens"]
            for template, extra in [(None, {"conversation_start_date": date}), (info["chat_template"], {})]:
                text = auto.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False,
                                                chat_template=template, **more, **extra)
                assert auto(text)["input_ids"] == want, f"{text}\n---\n{auto.decode(want)}"
    print(f"ok the chat template: {len(CHATS)} conversations", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
