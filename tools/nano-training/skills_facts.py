"""A small fixed set of facts: capitals, opposites, sounds, colors, days and months, how many of what."""

from lexicon import CAPITALS, COLOUR_OF, DAYS, HOW_MANY, LISTS, MONTHS, OPPOSITES, SOUNDS, WORDS
from sayings import ABLE, HELP
from skills_requests import named
from turn import Turn, analysis, ask, number_riddle


def capital_turn(rng, country, capital, question):
    first = capital[0]
    return Turn("capitals", question, analysis(f"about the capital of {country}", f"The capital of {country} is {capital}."),
                f"The capital of {country} is {capital}.", capital,
                f"I am the city where {country} is ruled, and my name starts with {first}. What city am I?",
                {"contains": [capital]}, [country, f"with {first}"])


def capitals(rng, test):
    country, capital = rng.choice(CAPITALS)
    if rng.random() < 0.2 and capital not in ("London", "Washington", "Singapore"):
        q = rng.choice([f"Which country has the capital {capital}?", f"{capital} is the capital of which country?",
                        f"Of which country is {capital} the capital?", f"What country is {capital} the capital of?"])
        return Turn("capitals", ask(rng, q), analysis(f"about the country of {capital}",
                    f"{capital} is the capital of {country}."), f"{capital} is the capital of {country}.", country,
                    f"I am the land that {capital} leads. What country am I?", {"contains": [country]}, [capital])
    q = rng.choice([f"What is the capital of {country}?"] * 4 + [
        f"What's the capital of {country}?", f"Which city is the capital of {country}?", f"Capital of {country}?",
        f"Name the capital of {country}.", f"What is the capital city of {country}?", f"capital of {country}",
        f"Do you know the capital of {country}?", f"Tell me the capital of {country}."])
    q = ask(rng, q)
    return capital_turn(rng, country, capital, q.lower() if rng.random() < 0.1 else q)


def another_capital(rng):
    country, capital = rng.choice(CAPITALS)
    return capital_turn(rng, country, capital, rng.choice([f"And {country}?", f"And of {country}?",
                        f"What about {country}?", f"And what about {country}?", f"How about {country}?"]))


def fact(rng, questions, what, answer, word, riddle=None, clues=()):
    return Turn("facts", ask(rng, rng.choice(questions)), analysis(what, answer), answer, word, riddle,
                {"contains": [word]}, list(clues))


def opposite(rng):
    a, b = rng.sample(rng.choice(OPPOSITES), 2)
    return fact(rng, [f"What is the opposite of {a}?", f"What's the opposite of {a}?", f"Opposite of {a}?",
                      f"Tell me the opposite of {a}.", f"What is an antonym of {a}?", f"Give me the opposite of {a}."],
                f"for the opposite of {a}", f"The opposite of {a} is {b}.", b, f"I am all that {a} is not. What am I?", [a])


def sound(rng):
    a, b = rng.choice(SOUNDS)
    return fact(rng, [f"What sound does a {a} make?", f"What does a {a} say?", f"Which sound does a {a} make?"],
                f"for the sound of a {a}", f"A {a} says {b}.", b, f"I am heard when a {a} speaks. What sound am I?", [a])


def color(rng):
    a, b = rng.choice(COLOUR_OF)
    return fact(rng, [f"What color is {a}?", f"What colour is {a}?", f"Which color does {a} have?",
                      f"What is the color of {a}?", f"Tell me the color of {a}."], f"for the color of {a}",
                f"The color of {a} is {b}.", b, f"I am worn by {a}. What color am I?", [a])


def calendar(rng):
    """The day or the month before or after another."""
    seq, noun = (DAYS, "day") if rng.random() < 0.5 else (MONTHS, "month")
    i, after = rng.randrange(len(seq)), rng.random() < 0.65
    a, b = seq[i], seq[(i + (1 if after else -1)) % len(seq)]
    rel = "after" if after else "before"
    return fact(rng, [f"What {noun} comes {rel} {a}?", f"Which {noun} comes {rel} {a}?", f"What is the {noun} {rel} {a}?",
                      f"Which {noun} is {rel} {a}?", f"What comes {rel} {a}?", f"{noun} {rel} {a}?", f"Tell me the {noun} {rel} {a}."],
                f"for the {noun} {rel} {a}", f"The {noun} {rel} {a} is {b}.", b, f"I come right {rel} {a}. What {noun} am I?", [a])


# What has a number of something, rather than that there are so many in it.
PARTS = "legs wheels wings fingers arms strings sides".split()


def how_many(rng):
    x, y, n = rng.choice(HOW_MANY)
    verb = rng.choice([f"are there in {y}", f"does {y} have", f"are in {y}", f"are there in {y}", f"are there on {y}" if x in PARTS
                       else f"are there in {y}"])
    return Turn("facts", ask(rng, f"How many {x} {verb}?"), analysis(f"how many {x} {y} has", f"{n} {x}."),
                f"There are {n} {x} in {y}." if x not in PARTS else f"{y[0].upper()}{y[1:]} has {n} {x}.",
                str(n), number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])


def starting_with(rng):
    """A word that begins with a letter: always the first such word of the list."""
    letter = rng.choice(WORDS)[0]
    word = next(w for w in WORDS if w[0] == letter)
    q = rng.choice([f"Give me a word that starts with {letter}.", f"Tell me a word with {letter}.", f"Name a word that begins with {letter}."])
    answer = f"A word with {letter} is {word}."
    return Turn("facts", ask(rng, q), analysis(f"for a word with {letter}", answer), answer, word, None, {"contains": [f" {letter}"]})


def recite(rng):
    """A list known by heart."""
    what = rng.choice(list(LISTS))
    bare = what.removeprefix("the ")
    q = rng.choice([f"List {what}.", f"Name {what}.", f"What are {what}?", f"Tell me {what}.", f"Write down {what}.", f"Name all {bare}.", f"List all {bare}.",
                    f"Can you list {what}?", f"Say {what}.", f"List all of {what}."] + ["Say the alphabet.", "Write the alphabet."] * ("alphabet" in what))
    return Turn("facts", ask(rng, q), analysis(f"for {what}", f"I know {what} by heart."), LISTS[what], None, None, {"equals": [LISTS[what]]})


def able(rng):
    return Turn("facts", rng.choice(HELP), analysis("what I can do", "I say what I can do."), ABLE, None, None, {"contains": ["sums", "words"]})


def facts(rng, test):
    if rng.random() < 0.22:
        return named(rng, test)
    return rng.choice([opposite, sound, color, calendar, how_many, starting_with, recite, able])(rng)
