"""Tool calls of functions that nobody has heard of: any name, any parameters, any result.

The question names the arguments, or the function has so few that their types tell them apart.
"""

import json

from declare import Param, identifier, parameters, spoken, style, text_value, typed, whole
from lexicon import MORE_VERBS, VERBS
from skills_tools import ToolTurn, plain, spaced

QUERIES = set("get check find read fetch scan measure calculate compute search lookup show count".split())
# How an argument stands beside its parameter.
MARKS = ["{k} {v}", "{k} {v}", "{k} = {v}", "{k}={v}", "{k}: {v}", "{k} is {v}", "the {k} {v}", "{k} set to {v}", "a {k} of {v}"]
ERRORS = ["not found", "no access", "try again later", "the device is offline", "unknown id"]


def drawn_params(rng, words, avoid):
    """Different names with schemas and values; some optional, and of those some not given."""
    out = []
    for _ in range(rng.choices([0, 1, 2, 3, 4, 5], [4, 40, 33, 17, 5, 1])[0]):
        name = identifier(rng, words)
        while name in avoid or name in [p.name for p in out]:
            name = identifier(rng, words)
        schema, value = typed(rng, words)
        required = rng.random() < 0.75
        out.append(Param(name, schema, value if required or rng.random() < 0.5 else None, required))
    return out


def pairs(rng, params):
    """The given arguments with their names, in one of the ways people write them."""
    mark = rng.choice(MARKS)
    quote = rng.choice(["", "", "", "", "'", '"'])
    exact = "=" in mark or rng.random() < 0.5
    out = []
    for p in params:
        text = " and ".join(p.value) if isinstance(p.value, list) else plain(p.value)
        if quote and isinstance(p.value, str):
            text = quote + text + quote
        out.append(mark.format(k=p.name if exact else spoken(p.name), v=text))
    return out


def joined(rng, parts):
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + rng.choice([" and ", " and ", ", "]) + parts[-1]


def question(rng, verb, noun, name, params):
    """A question that names the given arguments, or shows them where types tell them apart."""
    given = [p for p in params if p.value is not None]
    kinds = [p.schema["type"] for p in given if "enum" not in p.schema]
    bare = len(kinds) == len(given) and sorted(kinds) in (["string"], ["integer"], ["integer", "string"])
    do = f"{verb} the {noun}"
    cap = do[0].upper() + do[1:]
    if not given:
        return rng.choice([f"{cap}.", f"Please {do}.", f"Can you {do}?", f"Call {name}.", f"Use {name}."]
                          + ([f"What is the {noun}?"] if verb in QUERIES else []))
    if bare and rng.random() < 0.6:
        texts = [plain(p.value) for p in sorted(given, key=lambda p: p.schema["type"] == "integer")]
        tail = texts[0] if len(texts) == 1 else rng.choice(["{} and {}", "{} with {}", "{}, {}"]).format(*texts)
        options = [f"{cap} for {tail}.", f"{cap} of {tail}.", f"Please {do} {tail}.", f"Can you {do} for {tail}?",
                   f"{cap} {tail}", f"I want to {do} for {tail}."]
        if verb in QUERIES:
            options += [f"What is the {noun} of {tail}?", f"What is the {noun} for {tail}?", f"{noun} for {tail}?",
                        f"Tell me the {noun} of {tail}."]
        return rng.choice(options)
    shown = given if rng.random() < 0.5 else rng.sample(given, len(given))
    if rng.random() < 0.05:
        return f"Call {name}({', '.join(f'{p.name}={json.dumps(p.value)}' for p in shown)})"
    spec = joined(rng, pairs(rng, shown))
    return rng.choice([f"Please {do} with {spec}.", f"{cap} with {spec}.", f"Can you {do} with {spec}?", f"{cap}, {spec}.",
                       f"{cap}: {spec}", f"Call {name} with {spec}.", f"Use {name} with {spec}.", f"Use the tool {name}: {spec}",
                       f"I need to {do} with {spec}."]
                      + ([f"What is the {noun} with {spec}?"] if verb in QUERIES else []))


def outcome(rng, words, noun):
    """(result, answer, what the answer must hold)."""
    roll = rng.random()
    if roll < 0.2:
        text = rng.choice(['{"ok":true}', '{"status":"ok"}', '{"success":true}', "ok", "done", "OK", '{"status":"done"}',
                           '{"result":"ok"}'])
        return text, f"Done: the {noun} is ready.", [noun]
    if roll < 0.3:
        why = rng.choice([*ERRORS, " ".join(words.value(rng) for _ in range(rng.randrange(1, 4)))])
        text = rng.choice([json.dumps({"error": why}), f"Error: {why}", f"error: {why}"])
        return text, f"That did not work: {why}.", [why]
    if roll < 0.45:
        value = plain(simple_value(rng, words))
        return value, f"The result is {value}.", [value]
    if roll < 0.55:
        value = plain(simple_value(rng, words))
        form = rng.choice(["The {n} of {w} is {v}.", "{w} has {n} {v}.", "The {n} is {v}.", "It is {v}."])
        text = form.format(n=noun, w=words.value(rng), v=value)
        return text, text[0].upper() + text[1:], [value]
    fields = {}
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        fields[identifier(rng, words)] = simple_value(rng, words)
    says = [f"the {spoken(k)} is {plain(v)}" for k, v in fields.items()]
    text = joined_and(says)
    return json.dumps(fields, separators=(",", ":")), text[0].upper() + text[1:] + ".", [plain(v) for v in fields.values()]


def simple_value(rng, words):
    roll = rng.random()
    if roll < 0.5:
        return text_value(rng, words)
    if roll < 0.85:
        return whole(rng)
    return rng.random() < 0.5 if roll < 0.9 else float(f"{rng.randrange(200)}.{rng.randrange(1, 10)}")


def joined_and(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def third_person(verb):
    return verb + ("es" if verb.endswith(("s", "ch", "sh")) else "s")


def made_call(rng, words):
    if rng.random() < 0.8:
        verb, noun = rng.choice(VERBS + MORE_VERBS), spoken(identifier(rng, words))
        parts = noun.split()
        name = "_".join([verb, *parts] if rng.random() < 0.85 else [*parts, verb])
        if rng.random() < 0.06:
            name = verb + "".join(p.capitalize() for p in parts)
    else:
        verb, noun = "use", spoken(name := identifier(rng, words))
    params = drawn_params(rng, words, {noun})
    spec, arguments = parameters(rng, words, style(rng), params, noun)
    do = f"{verb} the {noun}"
    cap = do.capitalize()
    about = rng.choice([f"{cap}.", cap, f"Use this to {do}.", f"A function to {do}.", f"{third_person(verb)} the {noun}.".capitalize(),
                        " ".join(words.value(rng) for _ in range(rng.randrange(2, 10))), f"{cap}.\nReturns the {words.value(rng)}."])
    tool = {"name": name, "description": about} | ({"parameters": spec} if params or rng.random() < 0.5 else {})
    user = question(rng, verb, noun, name, params)
    if rng.random() < 0.12:
        user = user[0].lower() + user[1:]
    result, answer, need = outcome(rng, words, noun)
    return ToolTurn(tool, user, f"to {do}", arguments, spaced(rng, result), answer, need)
