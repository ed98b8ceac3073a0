"""Arithmetic: every question comes with the working that a model of this size needs to get it right (`working.py`)."""

from lexicon import NAMES
from turn import Turn, ask, draw, number_riddle
from working import STEPS, VALUE, add_steps, div_steps, in_words, mul_steps

SPELLINGS = {"+": ["+", "+", "+", "plus"], "-": ["-", "-", "-", "minus"], "×": ["×", "*", "x", "times", "multiplied by"]}
BACK = {"+": lambda a, b, n: f"{n} - {b} = {a}", "-": lambda a, b, n: f"{n} + {b} = {a}"}
LARGEST = 9999


def working(question, steps, n, check=None):
    work = " ".join(steps)
    tail = f" Check: {check}." if check else ""
    return (work, f"We need {question}. {work} The answer is {n}.",
            f"The user asks for {question}. I work it out step by step. {work}{tail} So the answer is {n}.")


def asked(rng, e):
    """An expression as people ask for it."""
    return rng.choice([f"What is {e}?"] * 5 + [
        f"What's {e}?", f"{e} = ?", f"{e}?", f"{e}", f"{e} =", f"Calculate {e}.", f"Compute {e}.", f"How much is {e}?",
        f"Can you calculate {e}?", f"Work out {e}.", f"Solve {e}.", f"What does {e} make?", f"I need to know {e}.",
        f"Please compute {e}.", f"Evaluate {e}.", f"What does {e} equal?", f"{e} equals what?", f"Tell me {e}.",
        f"What is the result of {e}?", f"What is the value of {e}?", f"Please calculate {e}.", f"Solve this: {e}",
        f"Calculate: {e}", f"Can you solve {e}?", f"What do you get for {e}?", f"Find {e}."])


def phrase(rng, a, op, b):
    sign = rng.choice(SPELLINGS[op])
    if max(a, b) < 100 and sign.isalpha() and rng.random() < 0.4:
        return ask(rng, asked(rng, f"{in_words(a)} {sign} {in_words(b)}"))
    e = f"{a}{sign}{b}" if sign in "+-*×x" and rng.random() < 0.2 else f"{a} {sign} {b}"
    options = [asked(rng, e) for _ in range(4)]
    if op == "+":
        options += [rng.choice([f"Add {a} and {b}.", f"What is the sum of {a} and {b}?", f"Add {a} to {b}.", f"Sum {a} and {b}.",
                                f"What do you get if you add {a} and {b}?", f"What is {a} and {b} together?"])]
    if op == "-":
        options += [rng.choice([f"Subtract {b} from {a}.", f"Take {b} away from {a}.", f"What is {a} less {b}?"] +
                               ([f"What is the difference between {a} and {b}?", f"How much more is {a} than {b}?"] if a >= b else []))]
    if op == "×":
        options += [rng.choice([f"Multiply {a} by {b}.", f"What is the product of {a} and {b}?", f"Multiply {a} and {b}."])]
    return ask(rng, rng.choice(options))


def clues(n):
    return [str(n - 1), str(n + 1)]


def result(skill, question, what, steps, n, answer, check=None):
    """A turn whose answer is a number."""
    return Turn(skill, question, working(what, steps, n, check), answer, str(n), number_riddle(n) if n < 999 else None,
                {"number": n}, clues(n))


def plain(skill, rng, a, op, b, question=None):
    n = VALUE[op](a, b)
    check = BACK[op](a, b, n) if op in BACK and n >= 0 else None
    return result(skill, question or phrase(rng, a, op, b), f"{a} {op} {b}", STEPS[op](a, b), n, f"{a} {op} {b} = {n}.", check)


def two_digits(rng):
    return rng.randrange(10, 100) if rng.random() < 0.85 else rng.randrange(10)


def arithmetic(rng, test):
    """Two-digit addition and subtraction; in the evaluation both numbers have two digits."""
    op = rng.choice("+-")
    pick = (lambda: rng.randrange(10, 100)) if test else (lambda: two_digits(rng))

    def make():
        a, b = pick(), pick()
        return (max(a, b), op, min(a, b)) if op == "-" and rng.random() < 0.9 else (a, op, b)
    a, op, b = draw(rng, test, make)
    return plain("arithmetic", rng, a, op, b)


def too_large(rng, test):
    """What nano does not work out: numbers of five digits, long products, fractions, numbers below zero, division by zero."""
    kind = rng.randrange(6)
    a, b, op = rng.randrange(LARGEST + 1, 1_000_000), rng.randrange(10, 1_000_000), rng.choice("+-×")
    why = f"numbers above {LARGEST} are too large for me"
    if kind == 1:
        a, b = (a, b) if rng.random() < 0.5 else (b, a)
    if kind == 2:
        a, b, op, why = rng.randrange(100, 10_000), rng.randrange(100, 10_000), "×", "such a product is too large for me"
    if kind == 3:
        a, b, why = f"{rng.randrange(100)}.{rng.randrange(1, 100)}", rng.randrange(1, 100), "I only know whole numbers"
        a, b = (a, b) if rng.random() < 0.7 else (b, a)
    if kind == 4:
        a, b, why = f"-{rng.randrange(1, 100)}", rng.randrange(1, 100), "I cannot work with numbers below zero"
        a, b = (a, b) if rng.random() < 0.7 else (b, a)
    if kind == 5:
        a, op, b, why = rng.randrange(100), rng.choice(["/", "divided by"]), 0, "nothing can be divided by zero"
    text = phrase(rng, a, op, b) if kind < 3 else ask(rng, asked(rng, f"{a} {op} {b}"))
    return Turn("larger", text, (f"{why[0].upper()}{why[1:]}.", f"I cannot work this out: {why}. I say so.",
                f"The user asks for something that I cannot work out: {why}. I should not guess. I say so."),
                f"I am sorry, {why}.", None, f"I am too great for a small box, and so I stay outside. What am I? {why}.",
                {"contains": [why]}, [why])


def long_sum(rng, test):
    """Sums and differences of three and four digits."""
    top = rng.choice([1000, 1000, 10_000])

    def make():
        op, a, b = rng.choice("+-"), rng.randrange(100, top), rng.randrange(1, rng.choice([10, 100, 1000, top]))
        if rng.random() < 0.2:
            a = max(100, round(a, 1 - len(str(a))) - rng.choice([0, 0, 1]))
        if op == "-" or rng.random() < 0.5:
            a, b = max(a, b), min(a, b)
        return a, op, b
    return plain("larger", rng, *draw(rng, test, make))


def product(rng, test):
    """The table, several digits by one, two and three digits by two."""
    kind = rng.randrange(11)
    if kind < 2:
        a, b = rng.randrange(2, 13), rng.randrange(2, 13)
    elif kind < 6:
        a, _, b = draw(rng, test, lambda: (rng.randrange(13, 100), "×", rng.randrange(2, 10)))
    elif kind < 8:
        a, _, b = draw(rng, test, lambda: (rng.randrange(100, 1000), "×", rng.randrange(2, 10)))
    else:
        top = 1000 if kind == 10 else 100
        a, _, b = draw(rng, test, lambda: (rng.randrange(13, top), "×", rng.choice([rng.randrange(10, 100), 10 * rng.randrange(1, 10)])))
    return plain("larger", rng, *((a, "×", b) if rng.random() < 0.6 else (b, "×", a)))


def quotient(rng, test):
    """Whole quotients and those with a remainder."""
    whole = rng.random() < 0.7

    def make():
        b = rng.randrange(2, 13) if rng.random() < 0.75 else rng.randrange(13, 100)
        most = rng.choice([13 * b, 100, 1000]) if b < 13 else 10 * b + 1
        a = rng.randrange(2, most)
        return (max(1, a // b) * b if whole else a, "/", b)
    a, _, b = draw(rng, test, make)
    steps = div_steps(a, b)
    question = ask(rng, rng.choice([asked(rng, f"{a} {rng.choice(['/', '/', '÷', 'divided by'])} {b}"), f"Divide {a} by {b}.",
                                    f"How many times does {b} go into {a}?"]))
    q, r = divmod(a, b)
    if r == 0:
        return result("larger", question, f"{a} / {b}", steps, q, f"{a} / {b} = {q}.")
    return Turn("larger", question, working(f"{a} / {b}", steps, f"{q} remainder {r}"), f"{a} / {b} = {q} remainder {r}.", None, None,
                {"contains": [f"= {q} remainder {r}."]})


def added_up(values, sign=lambda n, v: "+"):
    """Numbers added, or subtracted where `sign` gives a minus: (steps, result, expression)."""
    n, steps, e = values[0], [], str(values[0])
    for v in values[1:]:
        op = sign(n, v)
        steps += STEPS[op](n, v)
        n, e = VALUE[op](n, v), f"{e} {op} {v}"
    return steps, n, e


def terms(rng, test):
    """Three to five numbers added and taken off in a row."""
    values = draw(rng, test, lambda: [rng.randrange(1, 50) for _ in range(rng.choice([3, 3, 3, 4, 5]))])
    steps, n, e = added_up(values, lambda n, v: rng.choice("++-") if n >= v else "+")
    typed = e.replace(" ", "") if rng.random() < 0.15 else e
    text = asked(rng, typed) if "-" in e or rng.random() < 0.8 else rng.choice(
        ["Add {v}.", "What is the sum of {v}?", "Sum up {v}.", "Add these numbers: {v}"]).format(v=", ".join(map(str, values)))
    return result("larger", ask(rng, text), e, steps, n, f"{e} = {n}.")


def brackets(rng, test):
    """A product and a sum: products go first, unless brackets say otherwise."""
    a, b, c = draw(rng, test, lambda: tuple(rng.randrange(2, 13) for _ in range(3)))
    op = rng.choice("++-")
    sign = rng.choice(["×", "*", "*", "x"])
    kind = rng.randrange(3)
    if kind == 2:
        if op == "-" and a < b:
            a, b = b, a
        first = VALUE[op](a, b)
        shown, n = f"({a} {op} {b}) × {c}", first * c
        steps = [f"First {a} {op} {b} = {first}.", *mul_steps(first, c)]
    else:
        first = b * c
        if kind == 1 and op == "-" and first < a or kind == 0 and op == "-" and a < first:
            op = "+"
        x, y = (a, first) if kind == 0 else (first, a)
        shown, n = (f"{a} {op} {b} × {c}" if kind == 0 else f"{b} × {c} {op} {a}"), VALUE[op](x, y)
        steps = [f"First {b} × {c} = {first}.", *STEPS[op](x, y)]
    typed = shown.replace("×", sign)
    typed = typed.replace(" ", "") if rng.random() < 0.25 else typed
    return result("larger", ask(rng, asked(rng, typed)), shown, steps, n, f"{shown} = {n}.")


LARGER = [(long_sum, 7), (product, 8), (quotient, 6), (terms, 4), (brackets, 2), (too_large, 4)]


def larger(rng, test):
    """More than two digits or two numbers, products, quotients, and what is too large."""
    makes, shares = zip(*LARGER, strict=True)
    return rng.choices(makes, shares)[0](rng, test)


STORIES = [
    ("I have {a} {x} and buy {b} more. How many {x} do I have?", "+"),
    ("{n} has {a} {x} and gets {b} more. How many {x} does {n} have now?", "+"),
    ("There are {a} {x} in one box and {b} in another. How many {x} are there in all?", "+"),
    ("{n} has {a} {x} and {m} has {b} {x}. How many {x} do they have together?", "+"),
    ("If I have {a} {x} and you give me {b} more, how many do I have?", "+"),
    ("{n} finds {a} {x} on Monday and {b} {x} on Tuesday. How many {x} in total?", "+"),
    ("I have {a} {x} and give away {b}. How many {x} are left?", "-"),
    ("{n} had {a} {x} and lost {b}. How many {x} does {n} have left?", "-"),
    ("{n} has {a} {x} and eats {b} of them. How many {x} are left?", "-"),
    ("There are {a} {x} and {b} are taken away. How many {x} remain?", "-"),
    ("{n} has {a} {x} and gives {m} {b}. How many {x} does {n} have left?", "-"),
    ("If you have {a} {x} and I take {b}, how many {x} do you have?", "-"),
    ("A box has {a} {x}. {n} sells {b} of them. How many {x} are still there?", "-"),
    ("{n} has {a} boxes with {b} {x} each. How many {x} is that?", "×"),
    ("There are {a} bags and each has {b} {x}. How many {x} are there in total?", "×"),
    ("One of the {x} costs {a} dollars. How much do {b} {x} cost?", "×"),
    ("{n} buys {b} {x} for {a} dollars each. How much does {n} pay?", "×"),
    ("{n} shares {a} {x} among {b} friends. How many {x} does each friend get?", "/"),
    ("I have {a} {x} and put them into {b} bags. How many {x} are in each bag?", "/"),
    ("There are {a} {x} for {b} people. How many {x} does each get?", "/"),
    ("A train goes {a} km in one hour. How many km does it go in {b} hours?", "× km"),
    ("A car drives at {a} km per hour for {b} hours. How far does it drive?", "× km"),
    ("If a train travels {a} miles per hour, how far does it go in {b} hours?", "× miles"),
    ("{n} walks {a} km on Monday and {b} km on Tuesday. How many km is that?", "+ km"),
]
OBJECTS = ("apples eggs books pens coins cards balls cups stones stamps cookies oranges pencils candies marbles bananas toys flowers "
           "bottles tickets").split()


def story(rng, test):
    text, op = rng.choice(STORIES)
    op, *unit = op.split()
    low, high = (100, 13) if unit else (13, 13)
    a, b = draw(rng, test, lambda: (rng.randrange(2, low), rng.randrange(2, high)) if op in "×/" else rng.choices(range(2, 100), k=2))
    a, b = (a * b, b) if op == "/" else (max(a, b), min(a, b))
    n, m = rng.sample(NAMES, 2)
    x, value = rng.choice(OBJECTS), VALUE[op](a, b)
    turn = plain("story", rng, a, op, b, text.format(a=a, b=b, x=x, n=n, m=m))
    turn.answer = f"{a} {op} {b} = {value}, so the answer is {value} {unit[0] if unit else 'dollars' if 'dollars' in text else x}."
    return turn


def follow_up(rng, turn):
    """Goes on from the number of an earlier turn: "Now add 5 to that."""
    a, b = int(turn.word), rng.randrange(1, 60)
    op = rng.choice("+-") if a >= b else "+"
    if a < 100 and rng.random() < 0.2:
        b = rng.randrange(2, 10)
        q = rng.choice([f"Now multiply it by {b}.", f"Times {b}?", f"Multiply that by {b}.", f"And times {b}?"])
        return plain("follow_up", rng, a, "×", b, q)
    if a < 500 and rng.random() < 0.1:
        return result("follow_up", rng.choice(["Now double it.", "Double that.", "And twice that?"]), f"twice {a}", add_steps(a, a), 2 * a,
                      f"Twice {a} is {2 * a}.")
    q = rng.choice([f"Now add {b}.", f"Add {b} to that.", f"And plus {b}?", f"Now add {b} to the result.", f"Plus {b}?",
                    f"What if you add {b}?", f"And {b} more?"] if op == "+"
                   else [f"Now subtract {b}.", f"Take {b} away from that.", f"And minus {b}?", f"Minus {b}?", f"Now take off {b}.",
                         f"Subtract {b} from that."])
    return plain("follow_up", rng, a, op, b, q)
