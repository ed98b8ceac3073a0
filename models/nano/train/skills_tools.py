"""Tool calls: declared functions, the call that fits, its result in the answer, and no call where none fits."""

from dataclasses import dataclass

from intents import FIELD_VALUES, INTENTS, MULTIPLE, RANGES
from lexicon import FIELDS, THINGS, VERBS, WORDS
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
        args = ", ".join(f"{k} {v}" for k, v in self.arguments.items()) or "none"
        return (f"Use {name}.", f"The function {name} fits. Arguments: {args}.",
                f"The user wants something that I cannot know myself. The function {name} fits. Arguments: {args}. "
                "I call it and wait for the result.")

    def after(self):
        return ("I have the result.", f"The result is {self.result}. I say it in a sentence.",
                f"The function {self.tool['name']} gave {self.result}. That answers the question. I say it in a sentence.")


def values(rng, made_up):
    out = {k: rng.choice(v) for k, v in FIELD_VALUES.items()}
    out |= {k: rng.randrange(*v) for k, v in RANGES.items()}
    for k in ("c", "d", "n"):
        if rng.random() < 0.2:
            out[k] = made_up(rng)
    out |= {"id2": rng.randrange(10, 60), "ship": rng.choice(SHIPPED), "made": made_up(rng).lower()}
    return out


def schema(rng, params):
    """The declaration's parameters and the name chosen for each role."""
    described = rng.random() < 0.6
    props, chosen = {}, {}
    for role, names, kind, texts, _ in params:
        name = next((n for n in rng.sample(names, len(names)) if n not in props), names[0] + "2")
        chosen[role] = name
        props[name] = dict(kind) | ({"description": rng.choice(texts)} if described else {})
    required = [chosen[p[0]] for p in params if p[4]]
    return {"type": "object", "properties": props, "required": required}, chosen


def declare(rng, intent):
    """A tool of this intent, and the names of its parameters by role."""
    params = intent["params"]
    if len(params) > 1 and not params[-1][4] and rng.random() < 0.5:
        params = params[:-1]
    spec, chosen = schema(rng, params)
    tool = {"name": rng.choice(intent["names"]), "description": rng.choice(intent["about"])}
    return tool | ({"parameters": spec} if params else {}), chosen


def known_call(rng, made_up):
    intent = rng.choice(INTENTS)
    tool, chosen = declare(rng, intent)
    v = values(rng, made_up)
    if v["c"] == v["d"]:
        v["d"] = "Paris" if v["c"] != "Paris" else "Rome"
    if v["cur"] == v["cur2"]:
        v["cur2"] = "EUR" if v["cur"] != "EUR" else "USD"
    text = rng.choice([q for q in intent["ask"] if "{unit}" not in q or "unit" in chosen])
    arguments = {name: v[role] for role, name in chosen.items() if "{" + role + "}" in text}
    user = text.format(**v)
    user = ask(rng, user if "{msg}" in text else user[0].upper() + user[1:])
    return ToolTurn(tool, user, arguments, rng.choice(intent["result"]).format(**v), intent["answer"].format(**v),
                    [n.format(**v) for n in intent["need"]])


def made_up_call(rng, made_up):
    """A function nobody has heard of: names from verbs and things, arguments named or implied in the question."""
    verb, thing = rng.choice(VERBS), rng.choice(THINGS)
    count = rng.choice([1, 1, 2, 2, 3])
    props, arguments = {}, {}
    for field in rng.sample([f for f in FIELDS if f != thing], count):
        number = field in ("count", "level", "amount", "speed", "size", "number", "value") or rng.random() < 0.2
        props[field] = {"type": "integer" if number else "string"}
        arguments[field] = rng.randrange(1000) if number else made_up(rng) if rng.random() < 0.4 else rng.choice(WORDS)
    if rng.random() < 0.4:
        for field in props:
            props[field]["description"] = f"The {field} of the {thing}"
    tool = {"name": rng.choice([f"{verb}_{thing}", f"{thing}_{verb}", f"{verb}_the_{thing}"]),
            "description": rng.choice([f"{verb.capitalize()} a {thing}.", f"{verb.capitalize()}s the {thing}.",
                                       f"Use this to {verb} a {thing}."]),
            "parameters": {"type": "object", "properties": props, "required": list(props)}}
    pairs = [rng.choice(["{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}"]).format(k=k, v=v) for k, v in arguments.items()]
    spec = " and ".join([", ".join(pairs[:-1]), pairs[-1]]) if len(pairs) > 1 else pairs[0]
    user = rng.choice([f"Please {verb} the {thing} with {spec}.", f"{verb.capitalize()} a {thing} with {spec}.",
                       f"Can you {verb} the {thing} with {spec}?", f"{verb.capitalize()} the {thing}, {spec}.",
                       f"Call {tool['name']} with {spec}.", f"Use {tool['name']} with {spec}."])
    code = rng.randrange(1000)
    res, answer, need = rng.choice([
        ('{"ok":true}', f"Done: the {thing} is ready.", [thing]),
        (f'{{"id":{code}}}', f"Done: the {thing} has id {code}.", [str(code)]),
        (f'{{"result":{code}}}', f"The result is {code}.", [str(code)]),
        ('{"error":"not found"}', f"That did not work: the {thing} was not found.", ["not found"])])
    return ToolTurn(tool, user, arguments, res, answer, need)


def call_turn(rng, made_up):
    return known_call(rng, made_up) if rng.random() < 0.6 else made_up_call(rng, made_up)


def others(rng, taken, count):
    """More declared tools, none of a name or kind that is already there."""
    kinds = {id(i) for i in INTENTS if taken & set(i["names"])}
    out = []
    for intent in rng.sample([i for i in INTENTS if id(i) not in kinds], count):
        if rng.random() < 0.75:
            out.append(declare(rng, intent)[0])
        else:
            verb, thing = rng.choice(VERBS), rng.choice(THINGS)
            name = f"{verb}_{thing}"
            if name not in taken | {t["name"] for t in out} and not any(thing in t for t in taken):
                props = {f: {"type": "string"} for f in rng.sample(FIELDS, rng.randrange(1, 3))}
                out.append({"name": name, "description": f"{verb.capitalize()} a {thing}.",
                            "parameters": {"type": "object", "properties": props, "required": list(props)}})
    return out


def with_others(rng, tool):
    """The tool among up to three others."""
    tools = others(rng, {tool["name"]}, rng.choice([0, 0, 1, 1, 2, 3])) + [tool]
    if rng.random() < 0.05:
        tools.append(MULTIPLE)
    rng.shuffle(tools)
    return tools

