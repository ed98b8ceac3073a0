"""Words: comparing, sorting, reversing, counting, picking, spelling."""

from lexicon import SMALL, WORDS
from tokens import BREAK
from turn import Turn, ask, draw, listed

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


def counted(word):
    """`1 c, 2 a, 3 t`"""
    return ", ".join(f"{i + 1} {c}" for i, c in enumerate(word))


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
        work = f"{a}: {counted(a)}. {b}: {counted(b)}."
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
    steps = selection(nums, max if down else min, str, str)
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
    marks = [f"{i + 1} {w}" for i, w in enumerate(words)]
    return Turn("reverse", ask(rng, q), (f"{listed(marks)}.", f"I number them: {listed(marks)}. Backwards: {listed(marks[::-1])}.",
                f"The user wants {len(words)} {things if things != 'list' else 'numbers'} from last to first. I number them: {listed(marks)}. "
                f"From last to first: {listed(marks[::-1])}."), answer, None, None, {"equals": [answer]})


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
    n, marks = len(words), ", ".join(f"{i + 1} {w}" for i, w in enumerate(words))
    answer = f"There are {n} words."
    return Turn("count", ask(rng, q), (f"{marks}.", f"I count: {marks}. That makes {n}.",
                f"The user wants to know how many words there are. I count one by one: {marks}. That makes {n} words."),
                answer, str(n), f"I come right after {n - 1} and right before {n + 1}. What number am I?",
                {"number": n}, [str(n - 1), str(n + 1)])


def choose(rng, test, pool=WORDS):
    words = pick(rng, test, 3, 6, pool)
    text = as_list(rng, words)
    if len(words) < 5 and rng.random() < 0.6 and len({len(w) for w in words}) == len(words):
        long = rng.random() < 0.6
        n = max(words, key=len) if long else min(words, key=len)
        which = "longest" if long else "shortest"
        work = "; ".join(f"{w}: {counted(w)}" for w in words) + "."
    else:
        i = rng.randrange(min(len(words), 5)) if rng.random() < 0.75 else -1
        n, which = words[i], ORDINALS[i] if i >= 0 else "last"
        upto = words[:i + 1] if i >= 0 else words
        work = ", ".join(f"{k + 1} {w}" for k, w in enumerate(upto)) + "."
    q = rng.choice([f"What is the {which} word in this list: {text}?", f"What is the {which} word of: {text}", f"Find the {which} word: {text}",
                    f"Which word is the {which}: {text}?", f"Tell me the {which} word: {text}", f"Which is the {which} word: {text}?",
                    f"What is the {which} word: {text}?", f"Give me the {which} word of this list: {text}"])
    return Turn("choose", ask(rng, q), (work, f"{work} The {which} is {n}.",
                f"The user wants the {which} word. I go through the list: {work} So the {which} word is {n}."),
                f"The {which} word is {n}.", n, f"I am the {which} in your list, and I start with {n[0]}. What word am I?",
                {"contains": [f"is {n}."]}, [which])


def letters(rng, test, pool=WORDS):
    """Spelling, counting letters, the first and the last letter, reversing a word; of words of the wide pool, one in ten is kept back."""
    kind = rng.choice([0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5])
    word = draw(rng, test, lambda: [rng.choice(pool)])[0] if pool is not WORDS else "strawberry" if rng.random() < 0.08 else rng.choice(WORDS)
    shown = rng.choice([word, word, word, f"'{word}'", f'"{word}"'])
    n, spell = len(word), spelled(word)
    if kind == 0:
        q = rng.choice([f"How many letters are in {shown}?", f"How many letters does {shown} have?",
                        f"How long is the word {shown}?", f"Count the letters in {shown}.", f"How many letters has {shown}?",
                        f"How many letters are in the word {shown}?", f"How many letters are there in {shown}?",
                        f"What is the length of {shown}?", f"How many characters are in {shown}?", f"Count the letters of {shown}."])
        marks = counted(word)
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
                        f"How many {c} are in {shown}?", f"How many letters {c} are in {shown}?", f"How many {c}s are in {shown}?",
                        f"Count the letter {c} in {shown}.", f"How many {c}'s are there in {shown}?", f"How many {c}s in {shown}?",
                        f"How often does {c} appear in {shown}?", f"How many times does the letter {c} appear in {shown}?",
                        f"Count the {c}'s in {shown}.", f"How many {c}'s are in the word {shown}?"])
        answer = f"The letter {c} appears {k} time{'' if k == 1 else 's'} in {word}."
        return Turn("letters", ask(rng, q), (f"{text}.", f"I spell {word} and count {c}: {text}. That makes {k}.",
                    f"The user wants to know how often {c} appears in {word}. I spell it and count: {text}. "
                    f"That makes {k}."), answer, str(k), None, {"contains": [f"appears {k} time"]})
    if kind == 2:
        q = rng.choice([f"Spell {shown}.", f"How do you spell {shown}?", f"Spell the word {shown}.", f"Can you spell {shown}?",
                        f"How is {shown} spelled?", f"Spell: {shown}", f"What are the letters of {shown}?", f"Spell out {shown}."])
        return Turn("letters", ask(rng, q), (f"{n} letters.", f"{word} has {n} letters.",
                    f"The user wants me to spell {word}. It has {n} letters. I write them one by one."),
                    spell, None, None, {"equals": [spell]})
    if kind == 3:
        back = BREAK.join(word[::-1])
        q = rng.choice([f"Write {shown} backwards.", f"Reverse the word {shown}.", f"Spell {shown} backwards.",
                        f"What is {shown} spelled backwards?", f"Reverse the letters of {shown}.", f"Reverse {shown}.",
                        f"What is {shown} backwards?", f"Write the word {shown} backwards.", f"Say {shown} backwards.",
                        f"Reverse the string {shown}.", f"Reverse this word: {shown}", f"How do you spell {shown} backwards?",
                        f"Reverse the letters in {shown}.", f"Can you reverse the word {shown}?", f"Spell the word {shown} backwards.",
                        f"What is {shown} in reverse?", f"{shown} backwards"])
        return Turn("letters", ask(rng, q), (f"{spell}. Backwards: {spelled(word[::-1])}.",
                    f"{word} is {spell}. Backwards: {spelled(word[::-1])}.",
                    f"The user wants {word} backwards. The letters are {spell}. From last to first: "
                    f"{spelled(word[::-1])}."), back, back, None, {"equals": [word[::-1]]})
    if kind == 5:
        seen, marks = 0, []
        for letter in word:
            seen += letter.lower() in "aeiou"
            marks.append(f"{letter} {seen}" if letter.lower() in "aeiou" else letter)
        text = ", ".join(marks)
        q = rng.choice([f"How many vowels are in {shown}?", f"How many vowels does {shown} have?", f"Count the vowels in {shown}.",
                        f"How many vowels are there in the word {shown}?"])
        return Turn("letters", ask(rng, q), (f"{text}.", f"I spell {word} and count vowels: {text}. That makes {seen}.",
                    f"The user wants the number of vowels in {word}. I spell it and count: {text}. That makes {seen}."),
                    f"{word} has {seen} vowel{'' if seen == 1 else 's'}.", str(seen), None, {"contains": [f"has {seen} vowel"]})
    which, c = rng.choice([("first", word[0]), ("last", word[-1])])
    q = rng.choice([f"What is the {which} letter of {shown}?", f"What letter does {shown} start with?"
                    if which == "first" else f"What letter does {shown} end with?",
                    f"What's the {which} letter in {shown}?", f"Which letter is the {which} in {shown}?", f"{which} letter of {shown}?",
                    f"Which letter does {shown} {'start' if which == 'first' else 'end'} with?", f"What is the {which} letter of the word {shown}?"])
    return Turn("letters", ask(rng, q), (f"{spell}.", f"{word} is {spell}. The {which} letter is {c}.",
                f"The user wants the {which} letter of {word}. It is spelled {spell}. So the letter is {c}."),
                f"The {which} letter of {word} is {c}.", c, None, {"contains": [f"is {c}."]})
