"""Tool calls of known kinds: declared functions, the call that fits, its result in the answer, and tools that do not fit.

Functions that nobody has heard of: `skills_made.py`. How declarations are written: `declare.py`.
"""

import json
from dataclasses import dataclass

from declare import Param, identifier, parameters, style
from intents import FIELD_VALUES, INTENTS, MULTIPLE, RANGES, REGIONS
from turn import ask

SHIPPED = ["shipped", "late", "delivered", "lost", "ready", "open", "closed"]


@dataclass
class ToolTurn:
    """A question that needs one call."""
    tool: dict
    user: str
    arguments: dict
    result: str
    answer: str
    need: list

    def think(self):
        name = self.tool["name"]
        given = " and ".join(plain(v) for v in self.arguments.values() if v is not None)
        takes = f"It gets {given}." if given else "It needs nothing."
        return (f"Use {name}.", f"The function {name} fits. {takes}",
                f"The user wants something that I cannot know myself. The function {name} fits. {takes} "
                "I call it and wait for the result.")

    def after(self):
        known = f"The result is {self.result}" if len(self.result) < 60 else "I have the result"
        return ("I have the result.", f"{known}. I say it in a sentence.",
                f"{known}. It comes from the function {self.tool['name']}. That answers the question. I say it in a sentence.")


def plain(value):
    """A value as a sentence shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, list) else str(value)


def spaced(rng, text):
    """JSON results come with and without spaces."""
    return json.dumps(json.loads(text), ensure_ascii=False) if text.startswith("{") and rng.random() < 0.6 else text


def values(rng, words):
    out = {k: rng.choice(v) for k, v in FIELD_VALUES.items()}
    out |= {k: rng.randrange(*v) for k, v in RANGES.items()}
    for k in ("c", "d", "n"):
        if rng.random() < 0.2:
            out[k] = words.title(rng)
    if rng.random() < 0.08:
        out["c"] = f"{out['c']}, {rng.choice(REGIONS)}"
    if rng.random() < 0.5:
        out["w"] = words.value(rng)
    if rng.random() < 0.15:
        out["t"] = float(f"{rng.randrange(-10, 40)}.{rng.randrange(1, 10)}")
    if rng.random() < 0.2:
        out["msg"] = " ".join(words.value(rng) for _ in range(rng.randrange(1, 5)))
    out |= {"id2": rng.randrange(10, 60), "ship": rng.choice(SHIPPED), "made": words.value(rng)}
    return out


def names_of(rng, words, params):
    """A name for each role: one that says what it is, or any name at all."""
    out, strange = [], rng.random() < 0.4
    for _, names, *_ in params:
        fresh = [n for n in names if n not in out]
        name = identifier(rng, words) if strange or not fresh else rng.choice(fresh)
        while name in out:
            name = identifier(rng, words)
        out.append(name)
    return out


def declare(rng, words, intent, given=None):
    """(A tool of this intent, the arguments for the values given by role)."""
    params, given = list(intent["params"]), given or {}
    if len(params) > 1 and not params[-1][4] and params[-1][0] not in given and rng.random() < 0.5:
        params.pop()
    how = style(rng)
    own, how.described = how.described, False
    out = []
    for name, (role, _, kind, texts, required) in zip(names_of(rng, words, params), params, strict=True):
        schema = dict(kind) | ({"description": rng.choice(texts)} if own else {})
        out.append(Param(name, schema, given.get(role), required))
    spec, arguments = parameters(rng, words, how, out, intent["names"][0])
    name = identifier(rng, words, 3) if rng.random() < 0.12 else rng.choice(intent["names"])
    tool = {"name": name, "description": rng.choice(intent["about"])}
    return tool | ({"parameters": spec} if params or how.strict else {}), arguments


def known_call(rng, words):
    intent = rng.choice([INTENTS[0], *INTENTS, *INTENTS])
    v = values(rng, words)
    if v["c"] == v["d"]:
        v["d"] = "Paris" if v["c"] != "Paris" else "Rome"
    if v["cur"] == v["cur2"]:
        v["cur2"] = "EUR" if v["cur"] != "EUR" else "USD"
    text = rng.choice(intent["ask"])
    tool, arguments = declare(rng, words, intent, {p[0]: v[p[0]] for p in intent["params"] if "{" + p[0] + "}" in text})
    user = text.format(**v)
    user = ask(rng, user if "{msg}" in text else user[0].upper() + user[1:])
    result, answer, need = rng.choice([(r, intent["answer"], intent["need"]) for r in intent["result"]] + intent.get("more", []))
    return ToolTurn(tool, user, arguments, spaced(rng, result.format(**v)), answer.format(**v), [n.format(**v) for n in need])


def others(rng, words, taken, count, made):
    """More declared tools, none of a name or kind that is already there; `made` gives tools of no known kind."""
    kinds = {id(i) for i in INTENTS if taken & set(i["names"])}
    used, out = " ".join(taken), []
    for intent in rng.sample([i for i in INTENTS if id(i) not in kinds], count):
        tool = declare(rng, words, intent)[0] if rng.random() < 0.6 else made(rng, words).tool
        # A part of a name that two tools share could make both fit.
        if not any(part in used for part in tool["name"].split("_") if len(part) > 2):
            used += " " + tool["name"]
            out.append(tool)
    return out


def with_others(rng, words, tool, made):
    """The tool among up to four others."""
    tools = others(rng, words, {tool["name"]}, rng.choice([0, 0, 1, 1, 2, 3, 4]), made) + [tool]
    if rng.random() < 0.04 and "weather" not in tool["name"]:
        tools.append(MULTIPLE)
    rng.shuffle(tools)
    return tools
