"""Arithmetic as a model of this size can do it: the steps that lead to a result, each a fact that it can know."""

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(n):
    """42 -> `forty-two`; n below 100."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")


def tens(n):
    return n // 10 % 10 * 10


def digits(n, width=0):
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
    n = int("".join(map(str, ([1] if op == "+" and carry else []) + kept[::-1])))
    return [*out, f"So {digits(n)}: {n}."]


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


def times_small(a, b):
    """A number of several digits by one of one digit, from the right: `84 is 8 4. 4 × 6 = 24. 8 × 6 = 48. 48 + 2 = 50. So 5 0 4: 504.`"""
    out, carry = [f"{a} is {digits(a)}."], 0
    for x in map(int, str(a)[::-1]):
        n = x * b
        out.append(f"{x} × {b} = {n}.")
        if carry:
            out.append(f"{n} + {carry} = {n + carry}.")
        carry = (n + carry) // 10
    return [*out, f"So {digits(a * b)}: {a * b}."]


def mul_steps(a, b):
    """The table up to 12 × 12, else digit by digit; two digits by two digits as the sum of two products."""
    if a <= 12 and b <= 12 or min(a, b) < 2:
        return [f"{a} × {b} = {a * b}."]
    if a < b:
        a, b = b, a
    if b < 10:
        return times_small(a, b)
    high, low = a * tens(b), a * (b % 10)
    steps = [*mul_steps(a, b // 10), f"So {a} × {tens(b)} = {high}."]
    return steps if low == 0 else [*steps, *mul_steps(a, b % 10), *add_steps(high, low)]


def div_steps(a, b):
    """Up to 12 long division: `100 is 1 0 0. 1 / 4 is 0, 1 left. 10 / 4 is 2, 2 left. 20 / 4 is 5, 0 left. So 2 5: 25.`; else counting up."""
    q, left = divmod(a, b)
    if b > 12:
        marks = ", ".join(f"{i} {i * b}" for i in range(1, q + 1 + (left > 0)))
        return [f"{marks}, too much.", f"{q} × {b} = {q * b}.", f"{a} - {q * b} = {left}."] if left else [f"{marks}.", f"{q} × {b} = {a}."]
    left, out = 0, [f"{a} is {digits(a)}."]
    for x in map(int, str(a)):
        part = 10 * left + x
        left = part % b
        out.append(f"{part} / {b} is {part // b}, {left} left.")
    return [*out, f"So {digits(q)}: {q}."]


STEPS = {"+": add_steps, "-": sub_steps, "×": mul_steps, "/": div_steps}
VALUE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "×": lambda a, b: a * b, "/": lambda a, b: a // b}
