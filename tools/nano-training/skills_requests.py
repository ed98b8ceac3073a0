"""Small requests: name something, list some, repeat or shout a text, what tomorrow is."""

import datetime

from lexicon import KINDS, PLURALS
from turn import Turn, ask, listed
from working import in_words


def named(rng, test):
    """One or some of a kind: `Name an animal.`, `List three colors.`"""
    kind = rng.choice(list(KINDS))
    values = KINDS[kind].split()
    a = "an" if kind[0] in "aeiou" else "a"
    if rng.random() < 0.5:
        one = values[0]
        shown = f"{a} {kind}" if kind != "body part" else "a part of the body"
        q = rng.choice([f"Name {a} {kind}.", f"Give me {a} {kind}.", f"Tell me {a} {kind}.", f"Can you name {a} {kind}?", f"Name one {kind}.",
                        f"What is the name of {a} {kind}?", f"Give an example of {a} {kind}.", f"Name any {kind}.", f"Think of {a} {kind}.",
                        f"Choose {a} {kind}.", f"Pick {a} {kind}.", f"Say the name of {a} {kind}."])
        answer = f"{one} is {shown}." if one[0].isupper() or one[0].isdigit() or len(one) == 1 else f"{one.capitalize()} is {shown}."
        return Turn("facts", ask(rng, q), (f"{one} is one.", f"The user asks for {a} {kind}. {one} is one.",
                    f"The user asks for {a} {kind}. I should answer simply. {one} is one. That is all I need to say."), answer,
                    one, None, {"contains": [answer]})
    n = rng.randrange(2, min(5, len(values)) + 1)
    many = PLURALS.get(kind, kind + "s")
    some = values[:n]
    q = rng.choice([f"List {{n}} {many}.", f"Name {{n}} {many}.", f"Give me {{n}} {many}.", f"Tell me {{n}} {many}.", f"Can you list {{n}} {many}?",
                    f"Write down {{n}} {many}.", f"I need {{n}} {many}."]).format(n=rng.choice([n, in_words(n)]))
    answer = listed(some)
    return Turn("facts", ask(rng, q), (f"{n} {many}.", f"The user asks for {n} {many}. I list {n}.",
                f"The user asks for {n} {many}. I should answer simply. I list {n} that I know. That is all I need to say."), answer,
                None, None, {"equals": [answer]})


def repeat(rng, test, words):
    """The user's own text back, once or some times. `words` draws one word."""
    if rng.random() < 0.2:
        word, n = words(), rng.randrange(2, 7)
        shown = rng.choice([word, word, f'"{word}"', f"'{word}'"])
        q = rng.choice([f"{verb} {shown} {rng.choice([n, in_words(n)])} times." for verb in ("Write", "Say", "Repeat", "Repeat the word", "Print")])
        marks = listed(f"{i + 1} {word}" for i in range(n))
        text = " ".join([word] * n)
        return Turn("repeat", ask(rng, q), (f"{marks}.", f"I count: {marks}.", f"The user wants {word} {n} times. I count: {marks}."), text, None,
                    None, {"equals": [text]})
    n = rng.randrange(1, 8)
    text = " ".join(words() for _ in range(n))
    if rng.random() < 0.2:
        text = str(rng.randrange(1000))
    shown = rng.choice([text, text, f'"{text}"', f"'{text}'"])
    q = rng.choice([f"Repeat after me: {shown}", f"Repeat: {shown}", f"Say {shown}.", f"Say: {shown}", f"Repeat this: {shown}",
                    f"Please repeat {shown}.", f"Repeat the following: {shown}", f"Echo {shown}", f"Write {shown}.", f"Write: {shown}",
                    f"Answer with {shown}.", f"Say the words {shown}.", f"Copy this: {shown}", f"Print {shown}."])
    return Turn("repeat", ask(rng, q), ("I repeat it.", "The user wants a text back. I repeat it word by word.",
                "The user wants me to say a text. There is nothing to add or to change. I repeat it word by word."), text, None,
                None, {"equals": [text]})


def unread(turn):
    """The same question, where a word of it cannot be read."""
    return Turn("unknown", turn.user, ("I cannot read a part of it.", "I cannot read a part of it. I say so.",
                "There is a word in it that I cannot read. I should not make one up. I say so."),
                "I am sorry, I cannot read a part of that.", None, None, {"contains": ["cannot read"]})


def near_day(rng, today):
    """The date of tomorrow or yesterday."""
    after = rng.random() < 0.6
    day = datetime.date.fromisoformat(today) + datetime.timedelta(days=1 if after else -1)
    word = "tomorrow" if after else "yesterday"
    tense = "is" if after else "was"
    q = rng.choice([f"What date is it {word}?", f"What is {word}'s date?", f"Which date {tense} {word}?", f"What day {tense} {word}?"])
    return Turn("date", ask(rng, q), (f"Today is {today}, {word} {tense} {day}.", f"The user asks for {word}. Today is {today}, so {word} {tense} {day}.",
                f"The user asks for {word}. The system message says that today is {today}. One day {'on' if after else 'back'}, {word} {tense} {day}."),
                f"{word.capitalize()} {tense} {day}.", str(day), None, {"contains": [str(day)]})
