"""Declarations of functions as people and libraries write them: types, descriptions, titles, optional and nullable parameters.

A `Param` carries a value for the question at hand; `Style` is how one library writes all its schemas.
"""

from dataclasses import dataclass

from lexicon import CITIES, COLOURS, DAYS, NAMES

ABOUT = ["The {n}", "The {n} of the {t}", "The {n} to use", "{c} of the {t}", "{c}", "Which {n}", "The {n}, e.g. {v}", "The {n} as text",
         "What the {n} is", "Optional {n}", "The {n} that the user wants", "{c} (required)"]


@dataclass
class Param:
    """A parameter: its schema, and its value, or None where the question does not give it."""
    name: str
    schema: dict
    value: object = None
    required: bool = True


@dataclass
class Style:
    """One way of writing schemas."""
    described: bool
    titles: bool
    strict: bool
    noise: bool


def style(rng):
    return Style(rng.random() < 0.5, rng.random() < 0.2, rng.random() < 0.15, rng.random() < 0.2)


def spoken(name):
    """`max_size` and `maxSize` as words."""
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).replace("_", " ").strip()


def identifier(rng, words, most=2):
    """A name such as `size`, `max_size`, or (rarely) `maxSize`."""
    parts = [words.part(rng) for _ in range(rng.choices(range(1, most + 1), [6, 5, 2][:most])[0])]
    if len(parts) == 2 and rng.random() < 0.06:
        return parts[0] + parts[1].capitalize()
    return "_".join(parts)


def text_value(rng, words):
    """What a string parameter may be given."""
    roll = rng.random()
    if roll < 0.5:
        return words.value(rng)
    if roll < 0.62:
        return rng.choice(CITIES)
    if roll < 0.72:
        return rng.choice(NAMES)
    if roll < 0.8:
        return words.title(rng)
    if roll < 0.88:
        return words.values(rng, rng.choice([2, 2, 3]))
    if roll < 0.92:
        return f"{rng.randrange(2024, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    if roll < 0.95:
        return f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    return rng.choice([rng.choice("ABCDEFGHKLMPRSTX") + str(rng.randrange(10, 1000)), rng.choice(COLOURS), rng.choice(DAYS)])


def whole(rng):
    return rng.randrange(10 ** rng.choice([1, 2, 2, 3, 3, 4, 5]))


def typed(rng, words):
    """A schema and a value for it."""
    roll = rng.random()
    if roll < 0.5:
        return {"type": "string"}, text_value(rng, words)
    if roll < 0.72:
        return {"type": "integer"}, whole(rng)
    if roll < 0.8:
        value = whole(rng) if rng.random() < 0.5 else float(f"{rng.randrange(200)}.{rng.randrange(1, 10)}")
        return {"type": "number"}, value
    if roll < 0.88:
        return {"type": "boolean"}, rng.random() < 0.5
    if roll < 0.97:
        options = sorted(dict.fromkeys(words.value(rng) for _ in range(rng.randrange(2, 5))), key=lambda _: rng.random())
        return {"type": "string", "enum": options}, rng.choice(options)
    items = [words.value(rng) for _ in range(rng.randrange(1, 4))]
    return {"type": "array", "items": {"type": "string"}}, items


def describe(rng, words, style, name, schema, thing):
    """The schema with what the style adds to it."""
    out = {}
    if style.titles:
        out["title"] = " ".join(w.capitalize() for w in spoken(name).split())
    out |= schema
    if style.described and rng.random() < 0.85:
        text = rng.choice(ABOUT).format(n=spoken(name), c=spoken(name).capitalize(), t=thing, v=words.value(rng))
        if style.noise:
            text = " ".join(words.value(rng) for _ in range(rng.randrange(2, 9)))
        out["description"] = text
    return out


def left_out(rng, schema):
    """The schema of a parameter that may be absent, as libraries write it: (schema, whether null stands for absence)."""
    roll = rng.random()
    if roll < 0.6:
        return schema, False
    if roll < 0.75:
        first = schema["enum"][0] if "enum" in schema else {"integer": 0, "number": 1, "boolean": False}.get(schema["type"], "")
        return schema | {"default": first if schema["type"] != "array" else []}, False
    if "enum" in schema or schema["type"] == "array":
        return schema, False
    if roll < 0.88:
        return schema | {"type": [schema["type"], "null"]}, True
    # pydantic's Optional, which the reference shows as `any`.
    return {"anyOf": [schema, {"type": "null"}], "default": None}, True


def parameters(rng, words, style, params, thing):
    """The object schema of params, and the arguments of the call that the question asks for."""
    props, required, arguments = {}, [], {}
    for p in params:
        schema, nullable = (p.schema, False) if p.required else left_out(rng, p.schema)
        props[p.name] = describe(rng, words, style, p.name, schema, thing)
        must = p.required or (style.strict and nullable)
        if must:
            required.append(p.name)
        if p.value is not None:
            arguments[p.name] = p.value
        elif must:
            arguments[p.name] = None
    out = {"type": "object", "properties": props, "required": required}
    return out | ({"additionalProperties": False} if style.strict else {}), arguments
