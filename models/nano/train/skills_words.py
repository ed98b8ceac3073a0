"""Words: comparing, sorting, reversing, counting, picking, spelling."""

from lexicon import WORDS
from tokens import BREAK
from turn import Turn, ask, draw, listed

ORDINALS = ["first", "second", "third", "fourth", "fifth"]


def pick(rng, test, lo, hi, pool=WORDS):
    """Different words in random order."""
    return draw(rng, test, lambda: rng.sample(pool, rng.randrange(lo, hi + 1)))


def as_list(rng, words):
    """A list as people write it."""
    if rng.random() < 0.6:
        return listed(words)
    return rng.choice([" ".join(words), ", ".join(words[:-1]) + " and " + words[-1], ",".join(words)])


def spelled(word):
    """`c a t`, one token a letter."""
    return " ".join(word)


def selection(items, best, show, pick):
    """Sorting by taking the next one out of what is left: `c a cat, a p ape, b e bee: ape; c a cat, b e bee: bee; c a cat`."""
    left, steps = list(items), []
    while len(left) > 1:
        one = best(left)
        steps.append(f"{listed(map(show, left))}: {pick(one)}")
        left.remove(one)
    return "; ".join([*steps, show(left[0])])


def compare(rng, test):
    kind = rng.randrange(3)
    while True:
        a, b = pick(rng, test, 2, 2)
        if len(a) != len(b) and a[0] != b[0]:
            break
    if kind == 0:
        n = max(a, b, key=len) if (long := rng.random() < 0.65) else min(a, b, key=len)
        adj = "longer" if long else "shorter"
        q = rng.choice([f"Which word is {adj}, {a} or {b}?", f"Which is {adj}, {a} or {b}?",
                        f"Is {a} or {b} the {adj} word?", f"What is the {adj} word: {a} or {b}?",
                        f"Compare {a} and {b}: which is {adj}?"])
        work = f"{a} has {len(a)} letters. {b} has {len(b)} letters."
        answer = f"The {adj} word is {n}."
    else:
        first = kind == 1 or rng.random() < 0.5
        n = min(a, b) if first else max(a, b)
        adj = "first" if first else "last"
        q = rng.choice([f"Which comes {adj} in the alphabet, {a} or {b}?",
                        f"Which word comes {adj} in alphabetical order, {a} or {b}?",
                        f"Alphabetically, which comes {adj}: {a} or {b}?"])
        lo, hi = sorted([a, b])
        work = f"{a} starts with {a[0]}. {b} starts with {b[0]}. {lo[0]} is before {hi[0]}."
        answer = f"{n} comes {adj}."
    return Turn("compare", ask(rng, q), (work, f"{work} So it is {n}.",
                f"The user wants me to compare {a} and {b}. {work} So the answer is {n}."), answer, n,
                f"I am the {adj} one of two, and my first letter is {n[0]}. What word am I?", {"contains": [n]}, [adj])


def sort_words(rng, test):
    while True:
        words = pick(rng, test, 3, 6)
        if len({w[0] for w in words}) >= len(words) - 1 and len({w[:2] for w in words}) == len(words):
            break
    down = rng.random() < 0.15
    out = sorted(words, reverse=down)
    how = "in reverse alphabetical order" if down else rng.choice(["alphabetically", "in alphabetical order", "from A to Z"])
    text = as_list(rng, words)
    q = rng.choice([f"Sort these words {how}: {text}", f"Sort {how}: {text}", f"Put these words {how}: {text}",
                    f"Can you sort these words {how}: {text}?", f"Order these words {how}: {text}",
                    f"Sort the words {text} {how}."] + ([] if down else [f"Sort these words: {text}", f"Sort: {text}",
                    f"Please sort these words: {text}"]))

    def marked(w):
        return f"{spelled(w[:2])} {w}"
    steps = selection(words, max if down else min, marked, str)
    answer = listed(out)
    return Turn("sort", ask(rng, q), (f"{steps}.", f"First letters, {'last' if down else 'first'} one out: {steps}.",
                f"The user wants these {len(words)} words in order. I always take the {'last' if down else 'first'} one out: "
                f"{steps}. That is {answer}."), answer, None, None, {"equals": [answer]})


def sort_numbers(rng, test):
    top = 1000 if rng.random() < 0.25 else 100
    nums = draw(rng, test, lambda: rng.sample(range(top), rng.randrange(3, 7)))
    down = rng.random() < 0.25
    out = sorted(nums, reverse=down)
    how = rng.choice(["from large to small", "in descending order"] if down else
                     ["from small to large", "in ascending order", "from smallest to largest"])
    text = listed(nums)
    q = rng.choice([f"Sort these numbers {how}: {text}", f"Sort {how}: {text}", f"Put these numbers {how}: {text}"]
                   + ([] if down else [f"Sort these numbers: {text}", f"Sort: {text}", f"Sort {text}"]))
    answer = listed(out)
    steps = selection(nums, max if down else min, str, str)
    which = "largest" if down else "smallest"
    return Turn("sort", ask(rng, q), (f"{steps}.", f"The {which} one out: {steps}.",
                f"The user wants {len(nums)} numbers {how}. I always take the {which} one out: {steps}. That is {answer}."),
                answer, None, None, {"equals": [answer]})


def reverse(rng, test, pool=WORDS):
    words = pick(rng, test, 3, 7, pool)
    text = as_list(rng, words)
    q = rng.choice([f"Reverse the order of these words: {text}", f"Reverse this list: {text}", f"Reverse: {text}",
                    f"Say these words backwards: {text}", f"Put these words in reverse order: {text}",
                    f"Can you reverse this list: {text}?", f"Write these words in reverse order: {text}",
                    f"Reverse these words: {text}"])
    answer = listed(words[::-1])
    marks = [f"{i + 1} {w}" for i, w in enumerate(words)]
    return Turn("reverse", ask(rng, q), (f"{listed(marks)}.", f"I number them: {listed(marks)}. Backwards: {listed(marks[::-1])}.",
                f"The user wants {len(words)} words from last to first. I number them: {listed(marks)}. "
                f"From last to first: {listed(marks[::-1])}."), answer, None, None, {"equals": [answer]})


def count_words(rng, test, pool=WORDS):
    words = draw(rng, test, lambda: [rng.choice(pool) for _ in range(rng.randrange(2, 11))])
    text, n = as_list(rng, words), len(words)
    q = rng.choice([f"How many words are in this list: {text}?", f"Count the words: {text}", f"How many words: {text}?",
                    f"How many words are there: {text}?", f"Count these words: {text}",
                    f"How many words does this list have: {text}"])
    marks = ", ".join(f"{i + 1} {w}" for i, w in enumerate(words))
    answer = f"There are {n} words."
    return Turn("count", ask(rng, q), (f"{marks}.", f"I count: {marks}. That makes {n}.",
                f"The user wants to know how many words there are. I count one by one: {marks}. That makes {n} words."),
                answer, str(n), f"I come right after {n - 1} and right before {n + 1}. What number am I?",
                {"number": n}, [str(n - 1), str(n + 1)])


def choose(rng, test):
    words = pick(rng, test, 3, 6)
    text = as_list(rng, words)
    if rng.random() < 0.4 and len({len(w) for w in words}) == len(words):
        long = rng.random() < 0.6
        n = max(words, key=len) if long else min(words, key=len)
        which = "longest" if long else "shortest"
        work = ", ".join(f"{w} {len(w)}" for w in words) + "."
    else:
        i = rng.randrange(min(len(words), 5)) if rng.random() < 0.75 else -1
        n, which = words[i], ORDINALS[i] if i >= 0 else "last"
        upto = words[:i + 1] if i >= 0 else words
        work = ", ".join(f"{k + 1} {w}" for k, w in enumerate(upto)) + "."
    q = rng.choice([f"What is the {which} word in this list: {text}?", f"What is the {which} word of: {text}",
                    f"Which word is the {which}: {text}?", f"Tell me the {which} word: {text}"])
    return Turn("choose", ask(rng, q), (work, f"{work} The {which} is {n}.",
                f"The user wants the {which} word. I go through the list: {work} So the {which} word is {n}."),
                f"The {which} word is {n}.", n, f"I am the {which} in your list, and I start with {n[0]}. What word am I?",
                {"contains": [f"is {n}."]}, [which])


def letters(rng, test):
    """Spelling, counting letters, the first and the last letter, reversing a word."""
    kind = rng.randrange(6)
    word = rng.choice(WORDS) if rng.random() < 0.9 else "strawberry"
    shown = rng.choice([word, word, f"'{word}'", f'"{word}"'])
    n, spell = len(word), spelled(word)
    if kind == 0:
        q = rng.choice([f"How many letters are in {shown}?", f"How many letters does {shown} have?",
                        f"How long is the word {shown}?", f"Count the letters in {shown}."])
        marks = ", ".join(f"{i + 1} {c}" for i, c in enumerate(word))
        return Turn("letters", ask(rng, q), (f"{marks}.", f"I count the letters: {marks}. That makes {n}.",
                    f"The user wants the number of letters in {word}. I spell it and count: {marks}. That makes {n}."),
                    f"{word} has {n} letters.", str(n), f"I come right after {n - 1} and right before {n + 1}. "
                    "What number am I?", {"number": n}, [str(n - 1), str(n + 1)])
    if kind == 1:
        c = rng.choice(word) if rng.random() < 0.9 else rng.choice("aeiorst")
        k, seen, marks = word.count(c), 0, []
        for letter in word:
            seen += letter == c
            marks.append(f"{letter} {seen}" if letter == c else letter)
        text = ", ".join(marks)
        q = rng.choice([f"How many {c}'s are in {shown}?", f"How many times does {c} appear in {shown}?",
                        f"How many {c} are in {shown}?", f"How many letters {c} are in {shown}?",
                        f"Count the letter {c} in {shown}."])
        answer = f"The letter {c} appears {k} time{'' if k == 1 else 's'} in {word}."
        return Turn("letters", ask(rng, q), (f"{text}.", f"I spell {word} and count {c}: {text}. That makes {k}.",
                    f"The user wants to know how often {c} appears in {word}. I spell it and count: {text}. "
                    f"That makes {k}."), answer, str(k), None, {"contains": [f"appears {k} time"]})
    if kind == 2:
        q = rng.choice([f"Spell {shown}.", f"How do you spell {shown}?", f"Spell the word {shown}."])
        return Turn("letters", ask(rng, q), (f"{n} letters.", f"{word} has {n} letters.",
                    f"The user wants me to spell {word}. It has {n} letters. I write them one by one."),
                    spell, None, None, {"equals": [spell]})
    if kind == 3:
        back = BREAK.join(word[::-1])
        q = rng.choice([f"Write {shown} backwards.", f"Reverse the word {shown}.", f"Spell {shown} backwards.",
                        f"What is {shown} spelled backwards?", f"Reverse the letters of {shown}."])
        return Turn("letters", ask(rng, q), (f"{spell}. Backwards: {spelled(word[::-1])}.",
                    f"{word} is {spell}. Backwards: {spelled(word[::-1])}.",
                    f"The user wants {word} backwards. The letters are {spell}. From last to first: "
                    f"{spelled(word[::-1])}."), back, back, None, {"equals": [word[::-1]]})
    which, c = rng.choice([("first", word[0]), ("last", word[-1])])
    q = rng.choice([f"What is the {which} letter of {shown}?", f"What letter does {shown} start with?"
                    if which == "first" else f"What letter does {shown} end with?",
                    f"What's the {which} letter in {shown}?"])
    return Turn("letters", ask(rng, q), (f"{spell}.", f"{word} is {spell}. The {which} letter is {c}.",
                f"The user wants the {which} letter of {word}. It is spelled {spell}. So the letter is {c}."),
                f"The {which} letter of {word} is {c}.", c, None, {"contains": [f"is {c}."]})
