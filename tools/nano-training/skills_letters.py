"""The letters of a word: spelling, counting, the first and the last, backwards, in capitals.

Every analysis writes the letters with their numbers, `1 c, 2 a, 3 t`: so no letter is left out or said twice.
"""

from lexicon import PALINDROMES, WORDS
from tokens import BREAK
from turn import Turn, ask, draw, number_riddle, numbered

VOWELS = "aeiouAEIOU"


def written(rng, word):
    return rng.choice([word, word, word, f"'{word}'", f'"{word}"'])


def length(rng, word):
    """How many letters there are."""
    shown, n, marks = written(rng, word), len(word), numbered(word)
    q = rng.choice([f"How many letters are in {shown}?", f"How many letters does {shown} have?", f"How long is the word {shown}?",
                    f"Count the letters in {shown}.", f"How many letters has {shown}?", f"How many letters are in the word {shown}?",
                    f"How many letters are there in {shown}?", f"What is the length of {shown}?", f"How many characters are in {shown}?",
                    f"Count the letters of {shown}.", f"How many letters does the word {shown} have?", f"length of {shown}"])
    return Turn("letters", ask(rng, q), (f"{marks}.", f"I count the letters: {marks}. That makes {n}.",
                f"The user wants the number of letters in {word}. I spell it and count: {marks}. That makes {n}."),
                f"{word} has {n} letters.", str(n), number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])


def marked(word, wanted):
    """The letters with their numbers, the wanted ones with their count behind: (`1 s, 2 t, 3 r 1`, how many)."""
    seen, marks = 0, []
    for i, letter in enumerate(word, 1):
        seen += letter in wanted
        marks.append(f"{i} {letter} {seen}" if letter in wanted else f"{i} {letter}")
    return ", ".join(marks), seen


def occurrences(rng, word):
    """How often one letter stands in it."""
    shown, c = written(rng, word), rng.choice(word) if rng.random() < 0.9 else rng.choice("aeiorst")
    marks, k = marked(word, c)
    q = rng.choice([f"How many {c}'s are in {shown}?", f"How many times does {c} appear in {shown}?", f"How many {c} are in {shown}?",
                    f"How many letters {c} are in {shown}?", f"How many {c}s are in {shown}?", f"Count the letter {c} in {shown}.",
                    f"How many {c}'s are there in {shown}?", f"How many {c}s in {shown}?", f"How often does {c} appear in {shown}?",
                    f"How many times does the letter {c} appear in {shown}?", f"Count the {c}'s in {shown}.",
                    f"How many {c}'s are in the word {shown}?", f"How many times is the letter {c} in {shown}?"])
    answer = f"The letter {c} appears {k} time{'' if k == 1 else 's'} in {word}."
    return Turn("letters", ask(rng, q), (f"{marks}.", f"I spell {word} and count {c}: {marks}. That makes {k}.",
                f"The user wants to know how often {c} appears in {word}. I spell it and count: {marks}. That makes {k}."),
                answer, str(k), None, {"contains": [f"appears {k} time"]})


def vowels(rng, word):
    shown, (marks, k) = written(rng, word), marked(word, VOWELS)
    q = rng.choice([f"How many vowels are in {shown}?", f"How many vowels does {shown} have?", f"Count the vowels in {shown}.",
                    f"How many vowels are there in the word {shown}?", f"How many vowels are there in {shown}?"])
    return Turn("letters", ask(rng, q), (f"{marks}.", f"I spell {word} and count vowels: {marks}. That makes {k}.",
                f"The user wants the number of vowels in {word}. I spell it and count: {marks}. That makes {k}."),
                f"{word} has {k} vowel{'' if k == 1 else 's'}.", str(k), None, {"contains": [f"has {k} vowel"]})


def spelling(rng, word):
    shown, marks, text = written(rng, word), numbered(word), " ".join(word)
    q = rng.choice([f"Spell {shown}.", f"How do you spell {shown}?", f"Spell the word {shown}.", f"Can you spell {shown}?",
                    f"How is {shown} spelled?", f"Spell: {shown}", f"What are the letters of {shown}?", f"Spell out {shown}.",
                    f"List the letters of {shown}.", f"What are the letters in {shown}?"])
    return Turn("letters", ask(rng, q), (f"{marks}.", f"{word} is {marks}.",
                f"The user wants me to spell {word}. I number the letters: {marks}. I write them one by one."),
                text, None, None, {"equals": [text]})


def turned(word):
    """`Backwards: 3 t, 2 a, 1 c.`"""
    return f"Backwards: {', '.join(numbered(word).split(', ')[::-1])}."


def backwards(rng, word):
    shown, marks, back = written(rng, word), numbered(word), BREAK.join(word[::-1])
    q = rng.choice([f"Write {shown} backwards.", f"Reverse the word {shown}.", f"Spell {shown} backwards.",
                    f"What is {shown} spelled backwards?", f"Reverse the letters of {shown}.", f"Reverse {shown}.",
                    f"What is {shown} backwards?", f"Write the word {shown} backwards.", f"Say {shown} backwards.",
                    f"Reverse the string {shown}.", f"Reverse this word: {shown}", f"How do you spell {shown} backwards?",
                    f"Reverse the letters in {shown}.", f"Can you reverse the word {shown}?", f"Spell the word {shown} backwards.",
                    f"What is {shown} in reverse?", f"{shown} backwards", f"What is the reverse of {shown}?", f"Write {shown} in reverse.",
                    f"Reverse: {shown}"])
    return Turn("letters", ask(rng, q), (f"{marks}. {turned(word)}", f"{word} is {marks}. {turned(word)}",
                f"The user wants {word} backwards. The letters are {marks}. {turned(word)}"), back, back, None, {"equals": [word[::-1]]})


def palindrome(rng, word):
    """Whether a word reads the same from behind; half of the time it does."""
    word = rng.choice(PALINDROMES) if rng.random() < 0.5 else word
    shown, same = written(rng, word), word == word[::-1]
    q = rng.choice([f"Is {shown} a palindrome?", f"Is the word {shown} a palindrome?", f"Does {shown} read the same backwards?",
                    f"Check if {shown} is a palindrome.", f"Is {shown} the same backwards?"])
    work = f"{numbered(word)}. {turned(word)} {'The same' if same else 'Not the same'}."
    answer = f"{'Yes' if same else 'No'}, {word} is {'' if same else 'not '}a palindrome."
    return Turn("letters", ask(rng, q), (work, f"{word} is {work}", f"The user asks whether {word} is the same backwards. The letters are {work}"),
                answer, "yes" if same else "no", None, {"equals": [answer]})


def end(rng, word):
    """The first or the last letter."""
    shown, marks = written(rng, word), numbered(word)
    which, c = rng.choice([("first", word[0]), ("last", word[-1])])
    verb = "start" if which == "first" else "end"
    q = rng.choice([f"What is the {which} letter of {shown}?", f"What letter does {shown} {verb} with?",
                    f"What's the {which} letter in {shown}?", f"Which letter is the {which} in {shown}?", f"{which} letter of {shown}?",
                    f"Which letter does {shown} {verb} with?", f"What is the {which} letter of the word {shown}?",
                    f"What is the {which} letter in {shown}?", f"With which letter does {shown} {verb}?"])
    return Turn("letters", ask(rng, q), (f"{marks}.", f"{word} is {marks}. The {which} letter is {c}.",
                f"The user wants the {which} letter of {word}. It is spelled {marks}. So the letter is {c}."),
                f"The {which} letter of {word} is {c}.", c, None, {"contains": [f"is {c}."]})


def capitals(rng, word):
    shown, marks, text = written(rng, word), numbered(word), word.upper()
    q = rng.choice([f"Write {shown} in capitals.", f"Write {shown} in capital letters.", f"Write {shown} in uppercase.",
                    f"Convert {shown} to uppercase.", f"Make {shown} uppercase.", f"What is {shown} in uppercase?", f"uppercase {shown}",
                    f"Put {shown} in capital letters.", f"Write the word {shown} in all caps.", f"Say {shown} in capitals."])
    return Turn("letters", ask(rng, q), (f"{marks}.", f"{word} is {marks}. I write large letters.",
                f"The user wants {word} in capitals. The letters are {marks}. I write each as a large letter."),
                BREAK.join(text), None, None, {"equals": [text]})


KINDS = [(length, 4), (occurrences, 4), (spelling, 4), (backwards, 7), (end, 4), (vowels, 2), (palindrome, 2), (capitals, 2)]


def letters(rng, test, pool=WORDS):
    """A question on the letters of a word; of words of the wide pool, one in ten is kept back."""
    word = draw(rng, test, lambda: [rng.choice(pool)])[0] if pool is not WORDS else "strawberry" if rng.random() < 0.08 else rng.choice(WORDS)
    makes, shares = zip(*KINDS, strict=True)
    return rng.choices(makes, shares)[0](rng, word)
