"""Tool calls of known kinds: declared functions, the call that fits, its result in the answer, and tools that do not fit.

Functions that nobody has heard of: `skills_made.py`. How declarations are written: `declare.py`.
"""

import json
import re
from dataclasses import dataclass

from declare import Param, identifier, parameters, style
from intents import MULTIPLE, RANGES, REGIONS
from intents_more import DEGREES, FIELD_VALUES, FILM_NOUNS, INTENTS, MEASURES, STATES
from lexicon import DAYS, MONTHS, MORE_VERBS, VERBS
from turn import Turn, ask

# Words that functions for quite different things share in their names.
COMMON = {*VERBS, *MORE_VERBS, "current"} - {"search", "play"}
WEATHER, LOCATION = (next(k for k, i in enumerate(INTENTS) if name in i["names"]) for name in ("get_weather", "get_location"))
# Functions for sums; the last takes any of them as a text.
SUMS = [next(k for k, i in enumerate(INTENTS) if name in i["names"]) for name in ("add", "multiply", "square_root", "evaluate")]
EXPRESSIONS = ["{} + {} * {}", "({} + {}) * {}", "{} * {} - {}", "{} + {} + {}", "{} * ({} - {})", "{} / {}", "{} - {}", "{} * {}",
               "{} + {}"]
SHIPPED = ["shipped", "late", "delivered", "lost", "ready", "open", "closed"]


@dataclass
class ToolTurn:
    """A question that needs one call."""
    tool: dict
    user: str
    # What the question is after, in words: "to know the weather".
    want: str
    arguments: dict
    result: str
    answer: str
    need: list

    def think(self):
        """Which function, and each parameter with its value: the call is then a copy of it."""
        name = self.tool["name"]
        given = ", ".join(f"{k}: {plain(v)}" for k, v in self.arguments.items())
        takes = f"It gets {given}." if given else "It needs nothing."
        return (f"Use {name}.", f"The user wants {self.want}. The function {name} fits. {takes}",
                f"The user wants {self.want}. That is nothing I can know or do myself. The function {name} fits. {takes} "
                "I call it and wait for the result.")

    def after(self):
        known = f"The result is {self.result}" if len(self.result) < 60 else "I have the result"
        return ("I have the result.", f"{known}. I say it in a sentence.",
                f"{known}. It comes from the function {self.tool['name']}. That answers the question. I say it in a sentence.")


def plain(value):
    """A value as a sentence shows it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
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
        out["msg"] = words.values(rng, rng.randrange(1, 5))
    out |= {"id2": rng.randrange(10, 60), "ship": rng.choice(SHIPPED), "made": words.value(rng)}
    return out | more_values(rng, words, out["w"])


def more_values(rng, words, word):
    """Values that are put together: titles, dates, codes, queries, sums, and those that go in pairs."""
    out = {"title": words.title(rng), "year": rng.randrange(1950, 2027)}
    for names, pair in ((("u", "u2"), rng.sample(rng.choice(MEASURES), 2)), (("g", "g2"), rng.sample(DEGREES, 2)),
                        (("us", "st"), rng.choice(STATES))):
        out |= dict(zip(names, pair, strict=True))
    phrase = rng.choice(FIELD_VALUES["phrase"])
    out["q"] = rng.choice([word, word, phrase, words.values(rng, 2), words.values(rng, rng.choice([3, 4]))])
    noun = rng.choice(FILM_NOUNS)
    out["film"] = rng.choice([out["title"], f"The {noun}", f"The {noun} of {out['title']}"])
    out["date"] = rng.choice([rng.choice(DAYS), f"{rng.choice(MONTHS)} {rng.randrange(1, 29)}",
                              f"{rng.randrange(2024, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"])
    out["clock"] = rng.choice([f"{rng.randrange(24):02}:{rng.randrange(60):02}", f"{rng.randrange(1, 13)} am",
                               f"{rng.randrange(1, 13)} pm", f"{rng.randrange(7, 22)}:00"])
    number, letter = rng.randrange(10, 10 ** rng.choice([3, 4, 5, 6])), rng.choice("ABCDEFGHKLMPRSTX")
    out["code"] = rng.choice(["{n}", "{n}", "{l}{n}", "{l}-{n}"]).format(n=number, l=letter)
    out["expr"] = rng.choice(EXPRESSIONS).format(*(rng.randrange(2, 10 ** rng.choice([1, 2])) for _ in range(3)))
    root, low = rng.randrange(2, 40), rng.choice([0, 1, 1, 1, rng.randrange(2, 50)])
    high = low + rng.choice([5, 9, 10, 99, rng.randrange(2, 1000)])
    return out | {"lo": low, "hi": high, "rnd": rng.randint(low, high), "root": root, "square": root * root}


def names_of(rng, words, params, explained):
    """A name for each role: one that says what it is, or any name at all, where something else says it."""
    out, strange = [], rng.random() < 0.4 and (explained or len(params) < 2)
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
    for name, (role, _, kind, texts, required) in zip(names_of(rng, words, params, own), params, strict=True):
        schema = dict(kind) | ({"description": rng.choice(texts)} if own else {})
        out.append(Param(name, schema, given.get(role), required))
    spec, arguments = parameters(rng, words, how, out, intent["names"][0])
    name = identifier(rng, words, 3) if rng.random() < 0.12 else rng.choice(intent["names"])
    tool = {"name": name, "description": rng.choice(intent["about"])}
    return tool | ({"parameters": spec} if params or how.strict else {}), arguments


def known_call(rng, words, intent=None):
    intent = intent or rng.choice([INTENTS[0], *INTENTS, *INTENTS])
    v = values(rng, words)
    if v["c"] == v["d"]:
        v["d"] = "Paris" if v["c"] != "Paris" else "Rome"
    if v["cur"] == v["cur2"]:
        v["cur2"] = "EUR" if v["cur"] != "EUR" else "USD"
    v |= {"an": "an" if v["sign"][0] == "A" else "a", "prod": v["k"] * v["m"]}
    text = rng.choice(intent["ask"])
    tool, arguments = declare(rng, words, intent, {p[0]: v[p[0]] for p in intent["params"] if "{" + p[0] + "}" in text})
    user = text.format(**v)
    user = ask(rng, user if "{msg}" in text else user[0].upper() + user[1:])
    result, answer, need = rng.choice([(r, intent["answer"], intent["need"]) for r in intent["result"]] + intent.get("more", []))
    return ToolTurn(tool, user, intent["want"], arguments, spaced(rng, result.format(**v)), answer.format(**v), [n.format(**v) for n in need])


def kind(tool):
    """The number of its intent, by name or description; None for a function of no known kind."""
    about = tool.get("description", "")
    return next((k for k, i in enumerate(INTENTS) if tool["name"] in i["names"] or about.startswith(tuple(i["about"]))), None)


def alike(tool, declared):
    """Whether a declared tool could fit as well: it is of the same kind, or their names share a word that is not common."""
    parts = [p for p in tool["name"].split("_") if len(p) > 2 and p not in COMMON]
    return any(same_kind(kind(tool), kind(d)) or any(p in d["name"] for p in parts) for d in declared)


def same_kind(a, b):
    return a is not None and (a == b or SUMS[-1] in (a, b) and a in SUMS and b in SUMS)


def alone(text):
    """Finds a text that is no part of a longer word."""
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


def unread_call(rng, turn, unread):
    """A call's question with a value that nano cannot read, and the answer that admits it; None where it copies no text.

    `unread(rng, title)` draws the word, `title` for one with a capital.
    """
    spec = turn.tool.get("parameters", {}).get("properties", {})
    once = [k for k, v in turn.arguments.items() if isinstance(v, str) and len(alone(v).findall(turn.user)) == 1]
    copied = [k for k in once if "enum" not in spec[k] and re.search(r"[A-Za-z]{2}", turn.arguments[k])]
    if not copied:
        return None
    param = rng.choice(copied)
    value = turn.arguments[param]
    old = rng.choice(re.findall(r"[A-Za-z]{2,}", value)) if rng.random() < 0.5 else value
    strange = value.replace(old, unread(rng, old[0].isupper()), 1)
    user = alone(value).sub(strange, turn.user)
    finding, wants = f"I cannot read the {param}.", f"The user wants {turn.want}."
    fits = f"The function {turn.tool['name']} fits. {finding}"
    return Turn("unread", user, (finding, f"{wants} {fits}",
                f"{wants} That is nothing I can know or do myself. {fits} I should not make it up. I say so."),
                "I am sorry, I cannot read a part of that.", expect={"contains": ["cannot read"]})


def others(rng, words, declared, count, made):
    """Turns of more tools, none like one that is declared; `made` gives tools of no known kind."""
    out, kinds = [], {kind(d) for d in declared}
    for k in rng.sample([k for k in range(len(INTENTS)) if k not in kinds], count):
        turn = known_call(rng, words, INTENTS[k]) if rng.random() < 0.6 else made(rng, words)
        if not alike(turn.tool, [*declared, *(t.tool for t in out)]):
            out.append(turn)
    return out


def with_others(rng, words, tool, made):
    """(The tool among up to four others, the turns of those others)."""
    # Where a question names its place, the user's own place is not wanted.
    near = kind(tool) == WEATHER and rng.random() < 0.2
    turns = [known_call(rng, words, INTENTS[LOCATION])] if near else []
    turns += others(rng, words, [tool, *(t.tool for t in turns)], rng.choice([0, 0, 1, 1, 2, 3, 4]), made)
    declared = [tool, *(t.tool for t in turns)]
    if rng.random() < 0.04 and "weather" not in tool["name"]:
        declared.append(dict(MULTIPLE))
    rng.shuffle(declared)
    return declared, turns
