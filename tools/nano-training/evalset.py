"""Writes the evaluation (`python evalset.py > ../../models/nano/eval.jsonl`): prompts from another seed, with questions kept from training.

A line: `id`, `skill`, `effort`, `date` (or null), `developer` (instructions), `tools`, `messages`, `expect` (see `score.py`).
"""

import json
import os
import random
import sys

from data import Gibberish, encode
from dialogue import SKILLS, Maker
from harmony import render
from invent import Words
from tokens import BREAK, HERE, Tokens

# The committed evaluation, which `ossmith eval nano` embeds.
COMMITTED = os.path.join(HERE, "../../models/nano/eval.jsonl")
SEED = "nano evaluation 1"


def cases(tokens, seed=SEED, scale=1.0):
    """The cases, each skill in its share; no prompt twice."""
    rng = random.Random(seed)
    maker = Maker(rng, Words(tokens, test=True), test=True, gibberish=Gibberish(tokens))
    seen, out = set(), []
    for skill, (_, count) in SKILLS.items():
        left = max(1, round(count * scale))
        while left:
            sample = maker.sample(skill)
            case = sample[0]
            key = json.dumps([case.get("developer"), case.get("tools"), case["messages"]])
            # No answer may hold an id that nano cannot write: training leaves those out as well.
            if key in seen or not readable(tokens, case) or encode(tokens, sample) is None:
                continue
            seen.add(key)
            left -= 1
            out.append({"id": f"{skill}-{left}"} | without_breaks(case))
    return out


def without_breaks(value):
    """The same value with texts as they read once decoded."""
    return json.loads(json.dumps(value).replace(json.dumps(BREAK)[1:-1], ""))


def readable(tokens, case):
    """Only in descriptions, instructions and questions of the skill `unknown` may there be words that nano cannot read."""
    ids, _ = tokens.pieces(render(case["messages"]))
    return case["skill"] == "unknown" or all(tokens.compact[i] for i in ids)


def load(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


if __name__ == "__main__":
    for case in cases(Tokens()):
        sys.stdout.write(json.dumps(case, separators=(",", ":"), ensure_ascii=False) + "\n")
