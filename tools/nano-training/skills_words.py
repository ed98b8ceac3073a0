"""Words: comparing, sorting, reversing, counting, picking. (Their letters: `skills_letters.py`.)"""

from lexicon import SMALL, WORDS
from turn import Turn, ask, draw, listed, number_riddle, numbered
from working import digits

ORDINALS = ["first", "second", "third", "fourth", "fifth"]


def pick(rng, test, lo, hi, pool=WORDS):
    """Different words in random order."""
    return draw(rng, test, lambda: rng.sample(pool, rng.randrange(lo, hi + 1)))


def as_list(rng, words):
    """A list as people write it."""
    words = [str(w) for w in words]
    if rng.random() < 0.55:
        return listed(words)
    quoted = [f'"{w}"' for w in words]
    return rng.choice([" ".join(words)] * 3 + [", ".join(words[:-1]) + " and " + words[-1], ",".join(words), "[" + listed(words) + "]",
                      ", ".join(words[:-1]) + ", and " + words[-1], "; ".join(words), "\n" + "\n".join(words), listed(quoted),
                      "[" + listed(quoted) + "]"])


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


def compare(rng, test, pool=WORDS):
    kind = rng.randrange(3)
    while True:
        a, b = pick(rng, test, 2, 2, pool)
        if len(a) != len(b) and not a.startswith(b[:3]) and not b.startswith(a[:3]):
            break
    if kind == 0:
        n = max(a, b, key=len) if (long := rng.random() < 0.65) else min(a, b, key=len)
        adj = "longer" if long else "shorter"
        q = rng.choice([f"Which word is {adj}, {a} or {b}?", f"Which is {adj}, {a} or {b}?", f"{a} or {b}: which is {adj}?",
                        f"Is {a} or {b} the {adj} word?", f"What is the {adj} word: {a} or {b}?", f"Which word has {'more' if long else 'fewer'} "
                        f"letters, {a} or {b}?", f"Compare {a} and {b}: which is {adj}?", f"Compare the words {a} and {b}: which one is {adj}?",
                        f"Which of {a} and {b} is {adj}?", f'Which word is {adj}: "{a}" or "{b}"?'])
        work = f"{a}: {numbered(a)}. {b}: {numbered(b)}."
        answer = f"The {adj} word is {n}."
    else:
        first = kind == 1 or rng.random() < 0.5
        n = min(a, b) if first else max(a, b)
        adj = "first" if first else "last"
        q = rng.choice([f"Which comes {adj} in the alphabet, {a} or {b}?", f"Which comes {adj} alphabetically, {a} or {b}?",
                        f"Which word comes {adj} in alphabetical order, {a} or {b}?", f"{a} or {b}: which comes {adj} in the alphabet?",
                        f"Alphabetically, which comes {adj}: {a} or {b}?", f"Which word is {adj} in the dictionary, {a} or {b}?",
                        f"In alphabetical order, which is {adj}, {a} or {b}?"])
        lo, hi = next(pair for pair in zip(*sorted([a, b])) if pair[0] != pair[1])
        work = f"{a} starts with {spelled(a[:3])}. {b} starts with {spelled(b[:3])}. {lo} is before {hi}."
        answer = f"{n} comes {adj}."
    return Turn("compare", ask(rng, q), (work, f"{work} So it is {n}.",
                f"The user wants me to compare {a} and {b}. {work} So the answer is {n}."), answer, n,
                f"I am the {adj} one of two, and my first letter is {n[0]}. What word am I?", {"contains": [n]}, [adj])


def sort_words(rng, test, pool=WORDS):
    while True:
        words = pick(rng, test, 2 if rng.random() < 0.1 else 3, 6, pool)
        if rng.random() < 0.3:
            like = [w for w in pool if w[0] == words[0][0] and w not in words]
            words[1:2] = rng.sample(like, 1) if like else words[1:2]
        if len({w[:3] for w in words}) == len(words) and len({w[0] for w in words}) >= len(words) - 2:
            break
    down = rng.random() < 0.15
    out = sorted(words, reverse=down)
    how = rng.choice(["in reverse alphabetical order", "from Z to A", "in descending alphabetical order"] if down else
                     ["alphabetically", "in alphabetical order", "from A to Z", "by the alphabet", "in order"])
    text = as_list(rng, words)
    q = rng.choice([f"Sort these words {how}: {text}", f"Sort {how}: {text}", f"Put these words {how}: {text}", f"Sort this list {how}: {text}",
                    f"Can you sort these words {how}: {text}?", f"Order these words {how}: {text}", f"Arrange these words {how}: {text}",
                    f"Sort the words {text} {how}.", f"Sort the following words {how}: {text}", f"List these words {how}: {text}",
                    f"Put {text} {how}.", f"Sort {text} {how}."]
                   + ([] if down else [f"Sort these words: {text}", f"Sort: {text}", f"Please sort these words: {text}", f"Sort {text}",
                      f"Alphabetize: {text}", f"Alphabetize these words: {text}", f"Alphabetize this list: {text}", f"Sort the list: {text}",
                      f"Sort the words: {text}", f"Sort this list: {text}", f"Put these words in order: {text}"]))

    def marked(w):
        return f"{spelled(w[:3])} {w}"
    steps = selection(words, max if down else min, marked, str)
    answer = listed(out)
    which = "last" if down else "first"
    return Turn("sort", ask(rng, q), (f"{steps}.", f"First letters, {which} one out: {steps}.",
                f"The user wants these {len(words)} words in order. I always take the {which} one out: "
                f"{steps}. That is {answer}."), answer, None, None, {"equals": [answer]})


def sort_numbers(rng, test):
    top = rng.choice([10, 100, 100, 1000])
    nums = draw(rng, test, lambda: rng.sample(range(top), rng.randrange(3, 7)))
    down = rng.random() < 0.25
    out = sorted(nums, reverse=down)
    how = rng.choice(["from large to small", "in descending order", "from largest to smallest", "from high to low", "in decreasing order",
                      "from biggest to smallest", "from highest to lowest"] if down else
                     ["from small to large", "in ascending order", "from smallest to largest", "from low to high", "in increasing order",
                      "in order", "from lowest to highest"])
    text = as_list(rng, nums)
    q = rng.choice([f"Sort these numbers {how}: {text}", f"Sort {how}: {text}", f"Put these numbers {how}: {text}",
                    f"Sort {text} {how}.", f"Order these numbers {how}: {text}", f"Arrange these numbers {how}: {text}",
                    f"Sort the numbers {text} {how}.", f"Can you sort these numbers {how}: {text}?", f"Sort this list {how}: {text}"]
                   + ([] if down else [f"Sort these numbers: {text}", f"Sort: {text}", f"Sort {text}", f"Sort the list: {text}",
                      f"Sort the numbers: {text}", f"Please sort {text}", f"Sort this list: {text}"]))
    answer = listed(out)
    width = len(str(max(nums)))
    # Numbers of three digits are compared digit by digit.
    steps = selection(nums, max if down else min, (lambda n: f"{digits(n, width)} {n}") if width > 2 else str, str)
    which = "largest" if down else "smallest"
    return Turn("sort", ask(rng, q), (f"{steps}.", f"The {which} one out: {steps}.",
                f"The user wants {len(nums)} numbers {how}. I always take the {which} one out: {steps}. That is {answer}."),
                answer, None, None, {"equals": [answer]})


def reverse(rng, test, pool=WORDS):
    if rng.random() < 0.15:
        words = [str(n) for n in draw(rng, test, lambda: rng.sample(range(rng.choice([10, 100, 1000])), rng.randrange(3, 8)))]
        things = rng.choice(["numbers", "numbers", "list"])
    else:
        words, things = pick(rng, test, 2, 8, pool), "words"
    text = as_list(rng, words)
    these = "this list" if things == "list" else f"these {things}"
    q = rng.choice([f"Reverse the order of {these}: {text}", f"Reverse this list: {text}", f"Reverse: {text}", f"Reverse the list: {text}",
                    f"Say {these} backwards: {text}", f"Put {these} in reverse order: {text}", f"Reverse the list {text}.",
                    f"Can you reverse this list: {text}?", f"Write {these} in reverse order: {text}", f"Please reverse {these}: {text}",
                    f"Reverse {these}: {text}", f"Reverse the following list: {text}", f"List {these} in reverse: {text}",
                    f"Reverse the order: {text}", f"Turn this list around: {text}"])
    answer = listed(words[::-1])
    marks = numbered(words)
    back = ", ".join(marks.split(", ")[::-1])
    return Turn("reverse", ask(rng, q), (f"{marks}.", f"I number them: {marks}. Backwards: {back}.",
                f"The user wants {len(words)} {things if things != 'list' else 'numbers'} from last to first. I number them: {marks}. "
                f"From last to first: {back}."), answer, None, None, {"equals": [answer]})


def sentence(rng, pool):
    """Words as in a sentence: (text, words)."""
    words = [rng.choice(SMALL if rng.random() < 0.4 else pool) for _ in range(rng.randrange(2, 13))]
    if rng.random() < 0.6:
        words[0] = rng.choice(["The", "A", "I", "My", "We", "They", "This", "It", "He"])
    return " ".join(words) + rng.choice(["", "", "."]), words


def count_words(rng, test, pool=WORDS):
    whole = rng.random() < 0.5
    if whole:
        text, words = draw(rng, test, lambda: sentence(rng, pool), key=lambda v: v[1])
        shown = rng.choice([text, f'"{text}"', f"'{text}'"])
        q = rng.choice([f"How many words are in this sentence: {shown}", f"How many words are in the sentence {shown}?",
                        f"Count the words in: {shown}", f"Count the words in this sentence: {shown}", f"How many words are in: {shown}",
                        f"How many words does this sentence have: {shown}", f"How many words are there in {shown}?",
                        f"Count the words: {shown}", f"How many words are in {shown}?", f"Count the words in the sentence {shown}",
                        f"How many words: {shown}", f"Word count of: {shown}"])
    else:
        words = draw(rng, test, lambda: [rng.choice(pool) for _ in range(rng.randrange(2, 11))])
        text = as_list(rng, words)
        q = rng.choice([f"How many words are in this list: {text}?", f"Count the words: {text}", f"How many words: {text}?",
                        f"How many words are there: {text}?", f"Count these words: {text}", f"Count the words in this list: {text}",
                        f"How many words does this list have: {text}", f"How many items are in this list: {text}?",
                        f"How many words do you see: {text}"])
    n, marks = len(words), numbered(words)
    answer = f"There are {n} words."
    return Turn("count", ask(rng, q), (f"{marks}.", f"I count: {marks}. That makes {n}.",
                f"The user wants to know how many words there are. I count one by one: {marks}. That makes {n} words."),
                answer, str(n), number_riddle(n),
                {"number": n}, [str(n - 1), str(n + 1)])


def choose(rng, test, pool=WORDS):
    words = pick(rng, test, 3, 6, pool)
    text = as_list(rng, words)
    if len(words) < 5 and rng.random() < 0.6 and len({len(w) for w in words}) == len(words):
        long = rng.random() < 0.6
        n = max(words, key=len) if long else min(words, key=len)
        which = "longest" if long else "shortest"
        work = "; ".join(f"{w}: {numbered(w)}" for w in words) + "."
    else:
        i = rng.randrange(min(len(words), 5)) if rng.random() < 0.75 else -1
        n, which = words[i], ORDINALS[i] if i >= 0 else "last"
        upto = words[:i + 1] if i >= 0 else words
        work = f"{numbered(upto)}."
    q = rng.choice([f"What is the {which} word in this list: {text}?", f"What is the {which} word of: {text}", f"Find the {which} word: {text}",
                    f"Which word is the {which}: {text}?", f"Tell me the {which} word: {text}", f"Which is the {which} word: {text}?",
                    f"What is the {which} word: {text}?", f"Give me the {which} word of this list: {text}"])
    return Turn("choose", ask(rng, q), (work, f"{work} The {which} is {n}.",
                f"The user wants the {which} word. I go through the list: {work} So the {which} word is {n}."),
                f"The {which} word is {n}.", n, f"I am the {which} in your list, and I start with {n[0]}. What word am I?",
                {"contains": [f"is {n}."]}, [which])
