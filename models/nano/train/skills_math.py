"""Arithmetic: every question comes with the working that a model of this size needs to get it right."""

from lexicon import NAMES
from turn import Turn, ask, draw, listed, number_riddle


def tens(n):
    return n // 10 % 10 * 10


def digits(n, width):
    """345 -> `3 4 5`."""
    return " ".join(str(n).zfill(width))


def by_digits(a, b, op):
    """Sums and differences by digits from the right, with what is carried: `345 is 3 4 5. … 5 + 8 = 13. 4 + 7 + 1 = 12.`"""
    width = len(str(max(a, b)))
    out = [f"{n} is {digits(n, width)}." for n in (a, b)]
    carry, kept = 0, []
    for x, y in zip(digits(a, width).split()[::-1], digits(b, width).split()[::-1], strict=True):
        x, y = int(x), int(y)
        if op == "+":
            n = x + y + carry
            out.append(f"{x} + {y}{' + 1' if carry else ''} = {n}.")
            carry, n = n // 10, n % 10
        else:
            lent = x - carry < y
            n = x - carry - y + 10 * lent
            out.append(f"{'10 + ' if lent else ''}{x}{' - 1' if carry else ''} - {y} = {n}.")
            carry = lent
        kept.append(n)
    text = " ".join(map(str, kept[::-1]))
    return [*out, f"So {text}: {int(text.replace(' ', ''))}."]


def add_steps(a, b):
    """Sums by place: `10 + 20 = 30. 7 + 5 = 12. 30 + 12 = 42.`"""
    if a >= 100 or b >= 100:
        return by_digits(a, b, "+")
    if a < 10 and b < 10:
        return [f"{a} + {b} = {a + b}."]
    t, o = tens(a) + tens(b), a % 10 + b % 10
    return [f"{tens(a)} + {tens(b)} = {t}.", f"{a % 10} + {b % 10} = {o}.", f"{t} + {o} = {t + o}."]


def sub_steps(a, b):
    """Takes the places of b off one by one: `53 - 20 = 33. 33 - 7 = 26.`; a < b turns the two round."""
    if a < b:
        return [f"{b} is more than {a}.", *sub_steps(b, a), f"So {a} - {b} = {a - b}."]
    if a >= 100:
        return by_digits(a, b, "-")
    if b < 10:
        return [f"{a} - {b} = {a - b}."]
    return [f"{a} - {tens(b)} = {a - tens(b)}.", f"{a - tens(b)} - {b % 10} = {a - b}."]


def mul_steps(a, b):
    """The table up to 12 x 12, else by the digits of the larger factor: `84 is 8 4. 4 × 6 = 24. 8 × 6 = 48. 48 + 2 = 50. …`"""
    if a <= 12 and b <= 12:
        return [f"{a} × {b} = {a * b}."]
    if a < b:
        a, b = b, a
    low, high = a % 10 * b, a // 10 * b
    top = high + low // 10
    return [f"{a} is {digits(a, 2)}.", f"{a % 10} × {b} = {low}.", f"{a // 10} × {b} = {high}.", f"{high} + {low // 10} = {top}.",
            f"So {top} {low % 10}: {a * b}."]


STEPS = {"+": add_steps, "-": sub_steps, "×": mul_steps}
VALUE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "×": lambda a, b: a * b}
SPELLINGS = {"+": ["+", "+", "+", "plus"], "-": ["-", "-", "-", "minus"], "×": ["×", "*", "x", "times"]}
BACK = {"+": lambda a, b, n: f"{n} - {b} = {a}", "-": lambda a, b, n: f"{n} + {b} = {a}"}


def working(question, steps, n, check=None):
    work = " ".join(steps)
    tail = f" Check: {check}." if check else ""
    return (work, f"We need {question}. {work} The answer is {n}.",
            f"The user asks for {question}. I work it out step by step. {work}{tail} So the answer is {n}.")


def phrase(rng, a, op, b):
    sign = rng.choice(SPELLINGS[op])
    e = f"{a}{sign}{b}" if sign in "+-*×x" and rng.random() < 0.2 else f"{a} {sign} {b}"
    options = [f"What is {e}?"] * 4 + [f"What's {e}?", f"{e} = ?", f"{e}?", f"{e}", f"{e} =", f"Calculate {e}.",
               f"Compute {e}.", f"How much is {e}?", f"Can you calculate {e}?", f"Work out {e}.", f"Solve {e}.",
               f"What does {e} make?", f"I need to know {e}.", f"Please compute {e}."]
    if op == "+":
        options += [f"Add {a} and {b}.", f"What is the sum of {a} and {b}?", f"Add {a} to {b}.",
                    f"What do you get if you add {a} and {b}?"]
    if op == "-":
        options += [f"Subtract {b} from {a}.", f"Take {b} away from {a}.",
                    f"What is the difference between {a} and {b}?" if str(a) >= str(b) else f"What is {a} - {b}?"]
    if op == "×":
        options += [f"Multiply {a} by {b}.", f"What is the product of {a} and {b}?"]
    return ask(rng, rng.choice(options))


def plain(skill, rng, a, op, b, question=None):
    n = VALUE[op](a, b)
    check = BACK[op](a, b, n) if op in BACK and n >= 0 else None
    return Turn(skill, question or phrase(rng, a, op, b), working(f"{a} {op} {b}", STEPS[op](a, b), n, check),
                f"{a} {op} {b} = {n}.", str(n), number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])


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


def too_large(rng):
    """What nano does not work out: results above 999, large products, fractions."""
    kind = rng.randrange(4)
    a, b = rng.randrange(1000, 1_000_000), rng.randrange(10, 1_000_000)
    op, why = rng.choice("+-×"), "numbers above 999 are too large for me"
    if kind == 1:
        a, op = rng.randrange(300, 1000), "+"
        b = rng.randrange(1000 - a, 1000)
    if kind == 2:
        a, op, b = rng.randrange(13, 1000), "×", rng.randrange(13, 1000)
        why = "such products are too large for me"
    if kind == 3:
        a, b = f"{rng.randrange(100)}.{rng.randrange(1, 100)}", rng.randrange(1, 100)
        why = "I only know whole numbers"
    return Turn("larger", phrase(rng, a, op, b) if kind != 3 else ask(rng, f"What is {a} {op} {b}?"),
                (f"{why[0].upper()}{why[1:]}.", f"I cannot work this out: {why}. I say so.",
                 f"The user asks for something that I cannot work out: {why}. I should not guess. I say so."),
                f"I am sorry, {why}.", None, f"I am too great for a small box, and so I stay outside. What am I? {why}.",
                {"contains": [why]}, [why])


def remainder(rng, test):
    a, b = draw(rng, test, lambda: (rng.randrange(5, 100), rng.randrange(2, 13)))
    q, r = divmod(a, b)
    if q > 12 or r == 0:
        return remainder(rng, test)
    marks = listed(f"{i} {i * b}" for i in range(1, q + 2))
    work = f"{marks}, too much. {q} × {b} = {q * b}. {a} - {q * b} = {r}."
    e = rng.choice([f"{a} / {b}", f"{a} divided by {b}"])
    return Turn("larger", ask(rng, rng.choice([f"What is {e}?", f"{e}", f"Divide {a} by {b}."])),
                (work, f"We need {a} / {b}. {work}", f"The user asks for {a} / {b}. I count up by {b}: {work}"),
                f"{a} / {b} = {q} remainder {r}.", None, None, {"contains": [f"= {q} remainder {r}."]})


def larger(rng, test):
    """Three digits, small products, division, three terms, and what is too large."""
    kind = rng.randrange(7)
    if kind == 5:
        return too_large(rng)
    if kind == 6:
        return remainder(rng, test)
    if kind == 0:
        op = rng.choice("+-")
        a, op, b = draw(rng, test, lambda: (rng.randrange(100, 900), op, rng.randrange(10, 900)))
        if op == "+" and a + b > 999:
            b = rng.randrange(10, 1000 - a) if a < 990 else 5
        if op == "-" and a < b:
            a, b = b, a
        return plain("larger", rng, a, op, b)
    if kind == 1:
        a, b = rng.randrange(2, 13), rng.randrange(2, 13)
        return plain("larger", rng, a, "×", b)
    if kind == 2:
        a, _, b = draw(rng, test, lambda: (rng.randrange(13, 100), "×", rng.randrange(2, 10)))
        return plain("larger", rng, *((a, "×", b) if rng.random() < 0.6 else (b, "×", a)))
    if kind == 3:
        b, q = rng.randrange(2, 13), rng.randrange(1, 13)
        a, sign = b * q, rng.choice(["/", "÷", "divided by"])
        e = f"{a} {sign} {b}"
        question = rng.choice([f"What is {e}?", f"What's {e}?", f"{e}", f"Divide {a} by {b}.", f"How much is {e}?"])
        work = [f"{listed(f'{i} {i * b}' for i in range(1, q + 1))}.", f"{q} × {b} = {a}."]
        return Turn("larger", ask(rng, question), working(f"{a} / {b}", work, q), f"{a} / {b} = {q}.", str(q),
                    number_riddle(q), {"number": q}, [str(q - 1), str(q + 1)])
    a, b, c = draw(rng, test, lambda: tuple(rng.randrange(1, 50) for _ in range(3)))
    op = rng.choice("+-") if a + b >= c else "+"
    n = VALUE[op](a + b, c)
    e = f"{a} + {b} {op} {c}"
    question = rng.choice([f"What is {e}?", f"What's {e}?", f"{e}", f"Calculate {e}."])
    work = add_steps(a, b) + STEPS[op](a + b, c)
    return Turn("larger", ask(rng, question), working(e, work, n), f"{e} = {n}.", str(n), number_riddle(n),
                {"number": n}, [str(n - 1), str(n + 1)])


STORIES = [
    ("I have {a} {x} and buy {b} more. How many {x} do I have?", "+"),
    ("{n} has {a} {x} and gets {b} more. How many {x} does {n} have now?", "+"),
    ("There are {a} {x} in one box and {b} in another. How many {x} are there in all?", "+"),
    ("I have {a} {x} and give away {b}. How many {x} are left?", "-"),
    ("{n} had {a} {x} and lost {b}. How many {x} does {n} have left?", "-"),
    ("{n} has {a} {x} and eats {b} of them. How many {x} are left?", "-"),
    ("There are {a} {x} and {b} are taken away. How many {x} remain?", "-"),
    ("{n} has {a} boxes with {b} {x} each. How many {x} is that?", "×"),
]
OBJECTS = "apples eggs books pens coins cards balls cups stones stamps".split()


def story(rng, test):
    text, op = rng.choice(STORIES)
    top = 13 if op == "×" else 60
    a, b = draw(rng, test, lambda: (rng.randrange(2, top), rng.randrange(2, top)))
    a, b = max(a, b), min(a, b)
    x, n = rng.choice(OBJECTS), VALUE[op](a, b)
    turn = plain("story", rng, a, op, b, text.format(a=a, b=b, x=x, n=rng.choice(NAMES)))
    turn.answer = f"{a} {op} {b} = {n}, so the answer is {n} {x}."
    return turn


def number_sense(rng, test):
    """Comparing, neighbours, parity, counting, doubling."""
    kind = rng.randrange(6)
    a, b = draw(rng, test, lambda: (rng.randrange(100), rng.randrange(100)))
    if a == b:
        b = (a + 3) % 100
    if kind == 0:
        big = rng.random() < 0.6
        n = max(a, b) if big else min(a, b)
        adj = rng.choice(["bigger", "larger", "greater"] if big else ["smaller", "less"])
        q = rng.choice([f"Which is {adj}, {a} or {b}?", f"Which number is {adj}, {a} or {b}?",
                        f"Is {a} or {b} {adj}?", f"What is {adj}: {a} or {b}?"])
        rel = f"{max(a, b)} is more than {min(a, b)}."
        return Turn("numbers", ask(rng, q), working(f"the {adj} of {a} and {b}", [rel], n), f"{n} is {adj}.",
                    str(n), number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])
    if kind == 1:
        after = rng.random() < 0.6
        n = a + 1 if after else a + 9
        a = a if after else a + 10
        q = rng.choice([f"What number comes after {a}?", f"What comes after {a}?", f"Which number follows {a}?"] if after
                       else [f"What number comes before {a}?", f"What comes before {a}?"])
        return Turn("numbers", ask(rng, q), working(f"the number {'after' if after else 'before'} {a}",
                    [f"{a} + 1 = {n}." if after else f"{a} - 1 = {n}."], n),
                    f"{n} comes {'after' if after else 'before'} {a}.", str(n), number_riddle(n),
                    {"contains": [f"{n} comes"]}, [str(n - 1), str(n + 1)])
    if kind == 2:
        word = "odd" if a % 2 else "even"
        q = rng.choice([f"Is {a} even or odd?", f"Is {a} odd or even?", f"Is the number {a} even or odd?"])
        return Turn("numbers", ask(rng, q), working(f"whether {a} is even", [f"{a} ends in {a % 10}, which is {word}."],
                    word), f"{a} is {word}.", word, None, {"contains": [f"is {word}"]})
    if kind == 3:
        lo = rng.randrange(0, 20)
        hi = lo + rng.randrange(2, 9)
        down = rng.random() < 0.3
        items = list(range(lo, hi + 1))[:: -1 if down else 1]
        q = rng.choice([f"Count from {items[0]} to {items[-1]}.", f"Can you count from {items[0]} to {items[-1]}?",
                        f"List the numbers from {items[0]} to {items[-1]}."])
        text = ", ".join(map(str, items))
        step = "down" if down else "up"
        return Turn("numbers", ask(rng, q), (f"Count {step}.", f"I count {step} from {items[0]} to {items[-1]}.",
                    f"The user wants a count from {items[0]} to {items[-1]}. I go {step} one by one and stop at {items[-1]}."),
                    text, None, None, {"equals": [text]})
    if kind == 4:
        n = 2 * a
        q = rng.choice([f"What is twice {a}?", f"Double {a}.", f"What is double {a}?", f"What is two times {a}?"])
        return Turn("numbers", ask(rng, q), working(f"twice {a}", add_steps(a, a), n), f"Twice {a} is {n}.", str(n),
                    number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])
    n, a = a, 2 * a
    q = rng.choice([f"What is half of {a}?", f"What's half of {a}?", f"Halve {a}."])
    low = a % 10
    steps = [f"Half of {a - low} is {n - low // 2}.", f"Half of {low} is {low // 2}.", f"{n - low // 2} + {low // 2} = {n}."]
    return Turn("numbers", ask(rng, q), working(f"half of {a}", steps, n), f"Half of {a} is {n}.", str(n),
                number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])


def follow_up(rng, turn):
    """Goes on from the number of an earlier turn: "Now add 5 to that."""
    a, b = int(turn.word), rng.randrange(1, 60)
    op = rng.choice("+-") if a >= b else "+"
    q = rng.choice([f"Now add {b}.", f"Add {b} to that.", f"And plus {b}?", f"Now add {b} to the result."] if op == "+"
                   else [f"Now subtract {b}.", f"Take {b} away from that.", f"And minus {b}?"])
    return plain("follow_up", rng, a, op, b, q)

