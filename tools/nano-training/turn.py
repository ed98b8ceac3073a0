"""One question and its answer, as every skill makes them; `dialogue.py` sets turns into conversations."""

import zlib
from dataclasses import dataclass, field

EFFORTS = ("low", "medium", "high")


@dataclass
class Turn:
    skill: str
    user: str
    # The analysis at low, medium and high effort.
    think: tuple
    answer: str
    # The bare answer, where there is one: for "answer in one word".
    word: str | None = None
    # A puzzle that leads to the answer: for "always respond in riddles".
    riddle: str | None = None
    # Scoring rule of the plain answer, see `score.py`; none: the answer itself.
    expect: dict | None = None
    # What must stand in the riddle for it to count.
    clues: list = field(default_factory=list)

    def rule(self):
        return self.expect or {"equals": [self.answer]}


def held_out(*key):
    """Whether a question is kept for the evaluation: one in ten, by a hash of its numbers or words."""
    return zlib.crc32(" ".join(map(str, key)).encode()) % 10 == 0


def draw(rng, test, make, *, key=lambda v: v):
    """Draws values until they lie on the wanted side of the split."""
    while True:
        values = make()
        if held_out(*key(values)) == test:
            return values


# How a text begins that one may ask for with "Please" or "Can you".
ORDERS = ("Sort ", "Reverse ", "Count ", "Spell ", "Name ", "List ", "Write ", "Tell ", "Give ", "Put ", "Arrange ", "Order these", "Alphabetize ",
          "Calculate ", "Compute ", "Solve ", "Multiply ", "Divide ", "Add ", "Subtract ", "Compare ", "Find ", "Repeat ", "Say ", "Double ", "Halve ")


def ask(rng, text):
    """A question as people type it: with or without capital, question mark, courtesy."""
    if text.startswith(ORDERS) and rng.random() < 0.12:
        return rng.choice(["Please ", "please ", "Can you ", "Could you ", "Could you please ", "I want you to ", "Hi, please ", "Now "]) + \
            text[0].lower() + text[1:]
    roll = rng.random()
    if roll < 0.12:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.12 and text.endswith(("?", ".")):
        text = text[:-1]
    if rng.random() < 0.1 and text.endswith("?") and text.startswith(("W", "w", "How")):
        low = text[0].lower() + text[1:]
        text = rng.choice([f"Please tell me: {low}", f"Hi, {low}", f"Hello! {text}", f"Can you tell me {low}",
                           f"Quick question: {low}", f"Tell me, {low}", f"Hey, {low}", f"{text} Thanks!", f"Do you know {low}",
                           f"I have a question: {low}", f"So {low}", f"And {low}", f"ok, {low}", f"{text} Please tell me."])
    return text


def listed(items):
    return ", ".join(str(i) for i in items)


def numbered(items):
    """`1 c, 2 a, 3 t`"""
    return listed(f"{i} {item}" for i, item in enumerate(items, 1))


def analysis(what, finding):
    """The analysis of a question that needs one step."""
    return (finding, f"The user asks {what}. {finding}",
            f"The user asks {what}. I should answer simply and correctly. {finding} That is all I need to say.")


def number_riddle(n):
    return f"I come right after {n - 1} and right before {n + 1}. What number am I?"
