"""What one knows about numbers: comparing, neighbours, counting, rows, parity, halves, percents, means, powers, primes, divisors."""

from skills_math import added_up, asked, clues, result, working
from turn import Turn, ask, draw, listed, number_riddle
from working import STEPS, VALUE, add_steps, digits, div_steps, in_words, mul_steps


def up_to(rng):
    """How large the numbers of a question are."""
    return rng.choice([10, 100, 100, 1000])


def shown(numbers):
    """Numbers of three digits, digit by digit: `345 is 3 4 5.`"""
    return "".join(f"{n} is {digits(n)}. " for n in numbers if n > 99)


def compare(rng, test):
    top = up_to(rng)
    a, b = draw(rng, test, lambda: rng.sample(range(top), 2))
    if top == 1000 and rng.random() < 0.4:
        b = int("".join(rng.sample(str(a), len(str(a)))))
        b = b if b != a else (a + 9) % 1000
    high, low = max(a, b), min(a, b)
    rel = f"{shown((a, b))}{high} is more than {low}."
    roll = rng.random()
    if roll < 0.25:
        q = rng.choice([f"Compare {a} and {b}.", f"Compare {a} with {b}.", f"Compare the numbers {a} and {b}.", f"Compare {a} to {b}."])
        return Turn("numbers", ask(rng, q), working(f"to compare {a} and {b}", [rel], high), f"{high} is greater than {low}.", str(high),
                    number_riddle(high), {"equals": [f"{high} is greater than {low}."]}, clues(high))
    if roll < 0.55:
        more = rng.random() < 0.6
        adj = rng.choice(["bigger", "larger", "greater", "more", "higher"] if more else ["smaller", "less", "lower"])
        word = "Yes" if (a > b) == more else "No"
        q = rng.choice([f"Is {a} {adj} than {b}?", f"Is it true that {a} is {adj} than {b}?", f"Would you say {a} is {adj} than {b}?"])
        found, sought = "more" if a > b else "less", "more" if more else "less"
        answer = f"{word}, {a} is {found} than {b}."
        steps = [f"{shown((a, b))}{a} is {found} than {b}.", f"Asked for {sought}: {word.lower()}."]
        return Turn("numbers", ask(rng, q), working(f"whether {a} is {adj} than {b}", steps, word.lower()), answer, word.lower(), None,
                    {"contains": [f"{word}, "]})
    big = rng.random() < 0.6
    n = high if big else low
    adj = rng.choice(["bigger", "larger", "greater", "higher"] if big else ["smaller", "less", "lower"])
    q = rng.choice([f"Which is {adj}, {a} or {b}?", f"Which number is {adj}, {a} or {b}?", f"Is {a} or {b} {adj}?",
                    f"What is {adj}: {a} or {b}?", f"{a} or {b}: which is {adj}?", f"{a} or {b}, which is {adj}?",
                    f"Which one is {adj}: {a} or {b}?", f"Which of {a} and {b} is {adj}?", f"What is {adj}, {a} or {b}?",
                    f"Compare {a} and {b}: which is {adj}?", f"Tell me which is {adj}, {a} or {b}.", f"Which number is {adj}: {a} or {b}?"])
    return Turn("numbers", ask(rng, q), working(f"the {adj} of {a} and {b}", [rel], n), f"{n} is {adj}.",
                str(n), number_riddle(n), {"equals": [f"{n} is {adj}."]}, clues(n))


def extreme(rng, test):
    """The largest or the smallest of a list."""
    top = up_to(rng)
    nums = draw(rng, test, lambda: rng.sample(range(top), rng.randrange(3, 7)))
    big = rng.random() < 0.6
    which = rng.choice(["largest", "biggest", "greatest", "highest"] if big else ["smallest", "lowest"])
    text = rng.choice([listed(nums), " ".join(map(str, nums)), listed(nums[:-1]) + f" and {nums[-1]}", listed(nums[:-1]) + f" or {nums[-1]}"])
    q = rng.choice([f"What is the {which} of {text}?", f"Which is the {which}: {text}?", f"Which number is the {which}: {text}?",
                    f"What is the {which} number of {text}?", f"Find the {which} number: {text}", f"Which of {text} is the {which}?",
                    f"What is the {which} number in {text}?", f"{which} of {text}", f"{which}: {text}", f"Tell me the {which} of these numbers: {text}"]
                   + ([f"What is the maximum of {text}?", f"max of {text}"] if big else [f"What is the minimum of {text}?", f"min of {text}"]))
    if q.startswith(("max", "min", "What is the max", "What is the min")):
        which = "largest" if big else "smallest"
    best, steps = nums[0], [f"{nums[0]}."]
    for n in nums[1:]:
        best = max(best, n) if big else min(best, n)
        steps.append(f"{n}: {best}.")
    return Turn("numbers", ask(rng, q), working(f"the {which} of {len(nums)} numbers", steps, best), f"The {which} is {best}.", str(best),
                number_riddle(best), {"number": best}, clues(best))


def neighbour(rng, test):
    a = draw(rng, test, lambda: [rng.randrange(1, up_to(rng) - 1)])[0]
    after = rng.random() < 0.6
    n = a + 1 if after else a - 1
    q = rng.choice([f"What number comes after {a}?", f"What comes after {a}?", f"Which number follows {a}?", f"What is the number after {a}?",
                    f"What is one more than {a}?", f"Which number comes next after {a}?", f"Which number comes after {a}?"] if after else
                   [f"What number comes before {a}?", f"What comes before {a}?", f"What is the number before {a}?",
                    f"What is one less than {a}?", f"Which number comes before {a}?"])
    rel = "after" if after else "before"
    return Turn("numbers", ask(rng, q), working(f"the number {rel} {a}", [f"{a} {'+' if after else '-'} 1 = {n}."], n),
                f"{n} comes {rel} {a}.", str(n), number_riddle(n), {"contains": [f"{n} comes"]}, clues(n))


def parity(rng, test):
    a = draw(rng, test, lambda: [rng.randrange(up_to(rng))])[0]
    word = "odd" if a % 2 else "even"
    q = rng.choice([f"Is {a} even or odd?", f"Is {a} odd or even?", f"Is the number {a} even or odd?", f"Is {a} an even number?",
                    f"Is {a} an odd number?", f"Is {a} even?", f"Is {a} odd?", f"Tell me if {a} is odd or even."])
    return Turn("numbers", ask(rng, q), working(f"whether {a} is even", [f"{a} ends in {a % 10}, which is {word}."], word),
                f"{a} is {word}.", word, None, {"contains": [f"is {word}"]})


def count(rng, test):
    low = rng.choice([1, 1, rng.randrange(0, 90)])
    step = rng.choice([1, 1, 1, 1, 2, 5, 10])
    items = [low + i * step for i in range(rng.randrange(3, 12))][:: -1 if rng.random() < 0.3 else 1]
    first, last = items[0], items[-1]
    down = last < first
    by = f" by {step}" if step > 1 else ""
    s = rng.choice([f"by {step}", f"in steps of {step}"]) if step > 1 else ""
    q = rng.choice([f"Count from {first} to {last} {s}", f"Can you count from {first} to {last} {s}", f"Count {s} from {first} to {last}"]
                   + ([f"List the numbers from {first} to {last}", f"Count down from {first} to {last}" if down else f"Count up from {first} to {last}",
                       f"Write the numbers from {first} to {last}"] + ([f"Count to {last}", f"Can you count to {last}"] if first == 1 else [])
                      if step == 1 else []))
    text = listed(items)
    way = "down" if down else "up"
    return Turn("numbers", ask(rng, " ".join(q.split()) + ("?" if q.startswith("Can") else ".")), (f"Count {way}{by}.",
                f"I count {way}{by} from {first} to {last}.", f"The user wants a count from {first} to {last}. I go {way}"
                f"{by or ' one by one'} and stop at {last}."), text, None, None, {"equals": [text]})


def claim(rng, test):
    """Whether a sum that the user names is right."""
    a, b = draw(rng, test, lambda: (rng.randrange(1, 100), rng.randrange(1, 100)))
    op = rng.choice("+-×" if max(a, b) < 13 else "+-" if a >= b else "+")
    n = VALUE[op](a, b)
    said = n if rng.random() < 0.5 else abs(n + rng.choice([-10, -1, 1, 2, 10]))
    e = f"{a} {op} {b}"
    q = rng.choice([f"Is {e} = {said}?", f"Is {e} equal to {said}?", f"True or false: {e} = {said}", f"Does {e} make {said}?",
                    f"Is it true that {e} = {said}?", f"Is {e} {said}?", f"Is {said} equal to {e}?", f"{e} = {said}, right?"])
    word = "yes" if said == n else "no"
    answer = f"{word.capitalize()}, {e} = {n}."
    return Turn("numbers", ask(rng, q), working(f"to check {e} = {said}", [*STEPS[op](a, b), f"That {'is' if said == n else 'is not'} {said}."],
                                                word), answer, word, None, {"equals": [answer]})


def double(rng, test):
    a = draw(rng, test, lambda: [rng.randrange(1, rng.choice([100, 100, 500]))])[0]
    q = rng.choice([f"What is twice {a}?", f"Double {a}.", f"What is double {a}?", f"What is two times {a}?", f"What's twice {a}?"])
    return result("numbers", ask(rng, q), f"twice {a}", add_steps(a, a), 2 * a, f"Twice {a} is {2 * a}.")


def half(rng, test):
    n = draw(rng, test, lambda: [rng.randrange(1, rng.choice([100, 100, 500]))])[0]
    a = 2 * n
    q = rng.choice([f"What is half of {a}?", f"What's half of {a}?", f"Halve {a}.", f"How much is half of {a}?", f"Half of {a}?"])
    return result("numbers", ask(rng, q), f"half of {a}", div_steps(a, 2), n, f"Half of {a} is {n}.")


PARTS = {10: 10, 20: 5, 25: 4, 50: 2}


def percent_steps(p, n):
    """By hundreds, by tens, or as a whole part; none where that does not give a whole number."""
    if n % 100 == 0:
        return [f"{n} is {n // 100} × 100.", *mul_steps(p, n // 100)]
    if p in PARTS and n % PARTS[p] == 0:
        return [f"That is {n} / {PARTS[p]}.", *div_steps(n, PARTS[p])]
    if p % 10 == 0 and n % 10 == 0:
        return [f"10% of {n} is {n // 10}.", *mul_steps(p // 10, n // 10)]
    return None


def percent(rng, test):
    """Percentages that are easy; others are declined."""
    p = rng.choice([*PARTS, *PARTS, 5, 15, 30, 40, 60, 75, 80, 90, rng.randrange(1, 100)])
    written = rng.choice([f"{p}%", f"{p}%", f"{p} percent"])
    n = draw(rng, test, lambda: [rng.choice([100 * rng.randrange(1, 10), 10 * rng.randrange(1, 100), 4 * rng.randrange(1, 100), rng.randrange(1000)])])[0]
    q = ask(rng, asked(rng, f"{written} of {n}"))
    steps = percent_steps(p, n)
    if steps is None:
        why = "such percentages are too hard for me"
        return Turn("numbers", q, (f"{why[0].upper()}{why[1:]}.", f"I cannot work this out: {why}. I say so.",
                    f"The user asks for something that I cannot work out: {why}. I should not guess. I say so."), f"I am sorry, {why}.",
                    None, None, {"contains": [why]})
    v = p * n // 100
    return result("numbers", q, f"{p}% of {n}", steps, v, f"{p}% of {n} is {v}.")


def square(rng, test):
    n = rng.randrange(2, 100) if rng.random() < 0.4 else rng.randrange(2, 13)
    e = rng.choice([f"{n} squared", f"the square of {n}", f"{n}^2", f"{n} to the power of 2", f"{n}²"])
    return result("numbers", ask(rng, asked(rng, e)), f"{n} × {n}", mul_steps(n, n), n * n, f"{n} × {n} = {n * n}.")


def power(rng, test):
    """Powers and factorials up to 1024, one factor after the other: `2 × 2 = 4. 4 × 2 = 8.`"""
    if rng.random() < 0.3:
        factors = range(rng.randrange(3, 7), 1, -1)
        e = f"{factors[0]}!"
        asks = [e, f"the factorial of {factors[0]}", f"{factors[0]} factorial"]
    else:
        a = rng.randrange(2, 11)
        b = rng.choice([b for b in range(3, 11) if a ** b <= 1024])
        factors, e = [a] * b, f"{a}^{b}"
        asks = [e, f"{a} to the power of {b}", f"{a}**{b}", f"{a} to the power {b}"] + [f"{a} cubed"] * 2 * (b == 3)
    n, steps = factors[0], []
    for f in factors[1:]:
        steps += mul_steps(n, f)
        n *= f
    product = " × ".join(map(str, factors))
    return result("numbers", ask(rng, asked(rng, rng.choice(asks))), e, [f"{e} is {product}.", *steps], n, f"{e} = {n}.")


def average(rng, test):
    """The mean of some numbers, where it is whole."""
    def make():
        nums = [rng.randrange(1, rng.choice([20, 100])) for _ in range(rng.choice([2, 3, 3, 4, 5]))]
        return [*nums[:-1], nums[-1] + -sum(nums) % len(nums)]
    nums = draw(rng, test, make)
    total, count = sum(nums), len(nums)
    text = rng.choice([listed(nums), " ".join(map(str, nums)), listed(nums[:-1]) + f" and {nums[-1]}"])
    word = rng.choice(["average", "average", "mean"])
    q = rng.choice([f"What is the {word} of {text}?", f"Calculate the {word} of {text}.", f"Find the {word} of {text}.", f"{word} of {text}"])
    steps = [*added_up(nums)[0], f"{count} numbers.", *div_steps(total, count)]
    return result("numbers", ask(rng, q), f"the {word} of {listed(nums)}", steps, total // count, f"The {word} is {total // count}.")


def sequence(rng, test):
    """The next number of a row with equal steps."""
    step = rng.choice([1, 2, 2, 3, 4, 5, 5, 10, 10, rng.randrange(1, 30)])
    first = draw(rng, test, lambda: [rng.choice([step, rng.randrange(1, 60)]), step])[0]
    row = [first + i * step for i in range(rng.randrange(3, 6))]
    row = row[::-1] if rng.random() < 0.15 and first > step else row
    text, op, (a, b) = listed(row), "+" if row[0] < row[1] else "-", row[-2:]
    n = VALUE[op](b, step)
    q = rng.choice([f"What comes next: {text}?", f"What is the next number: {text}?", f"Continue: {text}", f"What number comes next: {text}, ...?",
                    f"Continue the sequence: {text}", f"What comes next in the sequence {text}?", f"{text}, ?", f"Which number comes next: {text}"])
    steps = [f"{max(a, b)} - {min(a, b)} = {step}.", *STEPS[op](b, step)]
    return result("numbers", ask(rng, q), f"the number after {text}", steps, n, f"The next number is {n}.")


def root(rng, test):
    n = rng.randrange(1, 13)
    whole = rng.random() < 0.7
    square = n * n if whole else rng.choice([v for v in range(2, 144) if round(v ** 0.5) ** 2 != v])
    q = ask(rng, rng.choice([f"What is the square root of {square}?", f"Square root of {square}?", f"sqrt({square})", f"What is √{square}?",
                             f"Calculate the square root of {square}.", f"What's the square root of {square}?"]))
    if whole:
        return result("numbers", q, f"the square root of {square}", [f"{n} × {n} = {square}."], n, f"The square root of {square} is {n}.")
    why = "I only know whole numbers"
    return Turn("numbers", q, (f"No whole number times itself is {square}.", f"No whole number times itself is {square}. I say so.",
                f"The user asks for a square root. No whole number times itself is {square}. I should not guess. I say so."),
                f"I am sorry, {why}.", None, None, {"contains": [why]})


def prime(rng, test):
    n = rng.randrange(2, 100)
    d = next((d for d in range(2, n) if n % d == 0), None)
    q = ask(rng, rng.choice([f"Is {n} a prime number?", f"Is {n} prime?", f"Is {n} a prime?", f"Is the number {n} prime?",
                             f"Tell me if {n} is a prime number."]))
    step, word = (f"{n} is {d} × {n // d}.", "no") if d else (f"Only 1 and {n} divide {n}.", "yes")
    answer = f"No, {n} is {d} × {n // d}." if d else f"Yes, {n} is a prime number."
    return Turn("numbers", q, working(f"whether {n} is prime", [step], word), answer, word, None, {"contains": [answer[:answer.index(",")] + ","]})


def divisible(rng, test):
    def make():
        b = rng.randrange(2, 13)
        return [rng.randrange(2, 20) * b + (rng.randrange(1, b) if rng.random() < 0.5 else 0), b]
    a, b = draw(rng, test, make)
    q = ask(rng, rng.choice([f"Is {a} divisible by {b}?", f"Can {a} be divided by {b}?", f"Is {a} a multiple of {b}?", f"Does {b} divide {a}?"]))
    word, is_it = ("Yes", "is") if a % b == 0 else ("No", "is not")
    steps = div_steps(a, b)[:-1 if b <= 12 else None]
    return Turn("numbers", q, working(f"whether {b} divides {a}", steps, word.lower()), f"{word}, {a} {is_it} divisible by {b}.",
                word.lower(), None, {"contains": [f"{word}, "]})


def spelled_out(rng, test):
    """Numbers as words, and words as numbers."""
    n = rng.randrange(100)
    word = in_words(n)
    if rng.random() < 0.5:
        q = rng.choice([f"Write {n} in words.", f"Write {n} as a word.", f"How do you write {n} in words?", f"Spell out the number {n}.",
                        f"What is {n} in words?"])
        return Turn("numbers", ask(rng, q), working(f"{n} in words", [f"{n} is {word}."], word), f"{n} is {word}.", word, None,
                    {"equals": [f"{n} is {word}."]})
    q = rng.choice([f"Write {word} as a number.", f"What number is {word}?", f"Write {word} in digits.", f"What is {word} as a number?"])
    return Turn("numbers", ask(rng, q), working(f"{word} as a number", [f"{word} is {n}."], n), f"{word} is {n}.", str(n), number_riddle(n),
                {"number": n}, clues(n))


KINDS = [(compare, 9), (extreme, 4), (neighbour, 4), (parity, 3), (count, 4), (claim, 3), (double, 2), (half, 2), (percent, 6), (square, 2),
         (root, 2), (power, 3), (average, 3), (sequence, 3), (prime, 2), (divisible, 2), (spelled_out, 1)]


def number_sense(rng, test):
    makes, shares = zip(*KINDS, strict=True)
    return rng.choices(makes, shares)[0](rng, test)
