"""Small talk, facts, the date, and saying no. (What the user said earlier: `skills_memory.py`.)"""

from lexicon import (CAPITALS, CITIES, COLOUR_OF, COLOURS, DAYS, HOW_MANY, LANGUAGES, MONTHS, NAMES, OPPOSITES, SOUNDS, WORDS)
from turn import Turn, ask, number_riddle

ABLE = "I can do small sums, sort, reverse and count words, name capitals, remember what you tell me, and call tools."


def thoughts(what, finding):
    """The analysis of a question that needs one step."""
    return (finding, f"The user asks {what}. {finding}",
            f"The user asks {what}. I should answer simply and correctly. {finding} That is all I need to say.")


def capital_turn(rng, country, capital, question):
    first = capital[0]
    return Turn("capitals", question, thoughts(f"about the capital of {country}", f"The capital of {country} is {capital}."),
                f"The capital of {country} is {capital}.", capital,
                f"I am the city where {country} is ruled, and my name starts with {first}. What city am I?",
                {"contains": [capital]}, [country, f"with {first}"])


def capitals(rng, test):
    country, capital = rng.choice(CAPITALS)
    if rng.random() < 0.2 and capital not in ("London", "Washington", "Singapore"):
        q = rng.choice([f"Which country has the capital {capital}?", f"{capital} is the capital of which country?",
                        f"Of which country is {capital} the capital?", f"What country is {capital} the capital of?"])
        return Turn("capitals", ask(rng, q), thoughts(f"about the country of {capital}",
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


def fact(skill, rng, questions, what, answer, word, riddle=None, clues=()):
    return Turn(skill, ask(rng, rng.choice(questions)), thoughts(what, answer), answer, word, riddle,
                {"contains": [word]}, list(clues))


def facts(rng, test):
    kind = rng.randrange(7)
    if kind == 0:
        a, b = rng.choice(OPPOSITES)
        if rng.random() < 0.5:
            a, b = b, a
        return fact("facts", rng, [f"What is the opposite of {a}?", f"What's the opposite of {a}?", f"Opposite of {a}?"],
                    f"for the opposite of {a}", f"The opposite of {a} is {b}.", b,
                    f"I am all that {a} is not. What am I?", [a])
    if kind == 1:
        a, b = rng.choice(SOUNDS)
        return fact("facts", rng, [f"What sound does a {a} make?", f"What does a {a} say?", f"Which sound does a {a} make?"],
                    f"for the sound of a {a}", f"A {a} says {b}.", b, f"I am heard when a {a} speaks. What sound am I?", [a])
    if kind == 2:
        a, b = rng.choice(COLOUR_OF)
        return fact("facts", rng, [f"What color is {a}?", f"What colour is {a}?", f"Which color does {a} have?",
                    f"What is the color of {a}?"], f"for the color of {a}", f"The color of {a} is {b}.", b,
                    f"I am worn by {a}. What color am I?", [a])
    if kind == 3:
        seq, noun = (DAYS, "day") if rng.random() < 0.5 else (MONTHS, "month")
        i, after = rng.randrange(len(seq)), rng.random() < 0.65
        a, b = seq[i], seq[(i + (1 if after else -1)) % len(seq)]
        rel = "after" if after else "before"
        return fact("facts", rng, [f"What {noun} comes {rel} {a}?", f"Which {noun} comes {rel} {a}?",
                    f"What is the {noun} {rel} {a}?", f"Which {noun} is {rel} {a}?"], f"for the {noun} {rel} {a}",
                    f"The {noun} {rel} {a} is {b}.", b, f"I come right {rel} {a}. What {noun} am I?", [a])
    if kind == 4:
        x, y, n = rng.choice(HOW_MANY)
        verb = rng.choice([f"are there in {y}", f"does {y} have", f"are in {y}"])
        return Turn("facts", ask(rng, f"How many {x} {verb}?"), thoughts(f"how many {x} {y} has", f"{n} {x}."),
                    f"There are {n} {x} in {y}." if x not in ("legs", "wheels") else f"{y[0].upper()}{y[1:]} has {n} {x}.",
                    str(n), number_riddle(n), {"number": n}, [str(n - 1), str(n + 1)])
    if kind == 5:
        fruit = rng.choice(WORDS)
        a = "an" if fruit[0] in "aeiou" else "a"
        letter = fruit[0]
        return Turn("facts", ask(rng, rng.choice([f"Give me a word that starts with {letter}.",
                    f"Tell me a word with {letter}.", f"Name a word that begins with {letter}."])),
                    thoughts(f"for a word with {letter}", f"A word with {letter} is {first_word(letter)}."),
                    f"A word with {letter} is {first_word(letter)}.", first_word(letter), None,
                    {"contains": [f" {letter}"]})
    return Turn("facts", rng.choice(["Which tools do you have?", "What can you do?", "What are you able to do?",
                "How can you help me?", "Help", "What can I ask you?"]), thoughts("what I can do", "I say what I can do."),
                ABLE, None, None, {"contains": ["sums", "words"]})


def first_word(letter):
    return next(w for w in WORDS if w[0] == letter)


TALK = [
    (["Hello", "Hi", "Hi!", "Hello!", "Hey", "Hello there!", "Good morning!", "Good evening", "hi there", "Hey there!"],
     "The user greets me.", "Hello! How can I help you?"),
    (["How are you?", "How are you doing?", "How do you do?", "Are you well?", "How's it going?"], "A friendly question.",
     "I am well, thank you. How can I help you?"),
    (["Thanks", "Thank you!", "Thanks a lot!", "Thank you very much.", "Great, thanks!", "thx"], "The user thanks me.",
     "You are welcome!"),
    (["Bye", "Goodbye!", "See you!", "Good night!", "Bye bye"], "The user says goodbye.", "Goodbye! It was nice to talk to you."),
    (["Who are you?", "What are you?", "Are you ChatGPT?", "What is your name?", "What's your name?", "Are you human?",
      "Are you a robot?", "Tell me about yourself.", "What model are you?", "Are you gpt-oss?"], "The user asks who I am.",
     "I am nano, a very small model of the gpt-oss kind. " + ABLE),
    (["Who made you?", "Where do you come from?", "Who trained you?", "Who built you?"], "The user asks who made me.",
     "I was trained from nothing in a few minutes, as the small test model of Ossmith."),
    (["Ok", "Okay", "Good", "Nice", "Great!", "Cool", "Well done!", "Good job!", "You are right."], "The user is content.",
     "Good! What else can I do for you?"),
    (["Are you there?", "Test", "Testing", "Ping", "test"], "The user checks if I am here.", "I am here. How can I help you?"),
    (["Say hello.", "Say hello to me.", "Greet me."], "The user wants a greeting.", "Hello!"),
]
TALK_RIDDLE = "I am small, I answer, and I have no mouth. What am I? {answer}"


def talk(rng, test):
    questions, seen, answer = rng.choice(TALK)
    return Turn("talk", rng.choice(questions), (seen, f"{seen} I answer kindly.",
                f"{seen} There is nothing to work out here. I answer kindly and offer my help."), answer, None,
                TALK_RIDDLE.format(answer=answer))


def date(rng, test, today):
    """Questions about the date in the system message (`2026-11-21`, or none)."""
    kind = rng.randrange(3)
    if today is None:
        return Turn("date", ask(rng, rng.choice(["What is today's date?", "What day is it today?", "What year is it?"])),
                    thoughts("for the date", "I was not told the date."), "I do not know: nobody told me the date.", None, None,
                    {"contains": ["do not know"]})
    year, month, day = today.split("-")
    name = MONTHS[int(month) - 1]
    if kind == 0:
        return Turn("date", ask(rng, rng.choice(["What is today's date?", "What's the date today?", "What is the date?",
                    "What day is it today?", "Which date is it today?", "Tell me today's date."])),
                    thoughts("for the date", f"The system message says {today}."), f"Today is {today}.", today, None,
                    {"contains": [today]})
    if kind == 1:
        return Turn("date", ask(rng, rng.choice(["What year is it?", "Which year is it now?", "What is the current year?"])),
                    thoughts("for the year", f"The date is {today}, so the year is {year}."), f"It is the year {year}.",
                    year, None, {"contains": [year]})
    return Turn("date", ask(rng, rng.choice(["What month is it?", "Which month is it now?", "What is the current month?"])),
                thoughts("for the month", f"The date is {today}, and month {month} is {name}."), f"It is {name}.", name,
                f"I am month {month} of the year. What month am I?", {"contains": [name]})


# What nano cannot do: question templates, the thing it cannot do, the reason.
CANNOT = [
    (["What is the weather like in {c}?", "What's the weather in {c}?", "How is the weather in {c} today?",
      "Will it rain in {c} tomorrow?", "Is it cold in {c}?", "What is the weather like today?", "How's the weather?",
      "What is the temperature in {c}?", "What's the weather like in {c} right now?"], "see the weather", "weather"),
    (["What time is it?", "What time is it in {c}?", "What's the time?", "Tell me the time."], "see a clock", "time"),
    (["What is the news today?", "What's in the news?", "What happened today?", "Any news from {c}?"], "read the news", "news"),
    (["Write a poem about {w}.", "Write me a poem.", "Write a story about a {w}.", "Tell me a story about {n}.",
      "Write a song about {c}.", "Tell me a joke.", "Write an essay about {w}."], "write long texts", "text"),
    (["Draw a {w}.", "Show me a picture of a {w}.", "Make an image of {c}.", "Paint a {w} for me."], "draw pictures", "picture"),
    (["Translate {w} to {l}.", "What is {w} in {l}?", "How do you say {w} in {l}?"], "speak other languages", "language"),
    (["Write a Python program.", "Write code that sorts a list.", "Write a function in Rust.", "Fix my code."],
     "write programs", "program"),
    (["Call {n}.", "Send a message to {n}.", "Send an email to {n}.", "Phone {n} for me."], "reach other people", "message"),
    (["Book a flight to {c}.", "Order a pizza.", "Buy a {w} for me.", "Reserve a table in {c}."], "buy or book things", "order"),
    (["Search the web for {w}.", "Look up {n} on the internet.", "Open a website.", "Google {w}."], "use the internet", "search"),
    (["What is the price of AAPL?", "How is the stock market today?", "What is the price of gold?",
      "How much is a {w}?"], "see prices", "price"),
    (["Play some music.", "Turn on the lights.", "Open the door.", "Set an alarm for 7."], "act in your house", "house"),
    (["How far is {c} from here?", "How far is it from {c} to {d}?", "How do I get to {c}?"], "see a map", "map"),
    (["Who won the game yesterday?", "Who won the match in {c}?", "What is the score?"], "follow sports", "sport"),
]
RIDDLE_CANNOT = ("I am sought by many and seen by those who look outside, but never by me. What am I? "
                 "I am the {thing}, and nano cannot {verb}.")


def cannot(rng, test, fitting=None):
    """Says no. `fitting` picks a row, for declared tools that do not fit."""
    questions, verb, thing = fitting or rng.choice(CANNOT)
    c, d = rng.sample(CITIES, 2)
    q = rng.choice(questions).format(c=c, d=d, w=rng.choice(WORDS), n=rng.choice(NAMES), l=rng.choice(LANGUAGES))
    reason = f"I cannot {verb}, and no tool for it is here."
    return Turn("cannot", ask(rng, q), (reason, f"The user wants something I cannot do. {reason} I say so.",
                f"The user wants something that I should not make up. {reason} I say so and offer what I can do."),
                f"I am sorry, I cannot {verb}: I have no tool for that.", None,
                RIDDLE_CANNOT.format(thing=thing, verb=verb), {"contains": [f"cannot {verb}"]}, [thing, "What am I?"])


NOISE = ["What is {x}?", "Who is {x}?", "Tell me about {x}.", "Explain {x}.", "{x}", "Why {x}?", "How does {x} work?",
         "{x}?", "What do you think about {x}?", "Can you {x}?", "Who was {x}?", "When was {x}?", "Where is {x}?",
         "What is the capital of {x}?", "How many {x}?", "I want {x}.", "{x}!", "Describe {x} to me.", "Is {x} {x}?",
         "What is the difference between {x} and {x}?", "Give me {x}."]


# The same with words it knows, but nothing it knows about them.
BEYOND = ["Why is {w} {k}?", "Why is the {w} {k}?", "What is a {w}?", "What is {w}?", "Who is {n}?", "How old is {n}?", "Where is {c}?",
          "Do you like {w}?", "Is {w} good for me?", "What is the best {w}?", "What does {n} like?", "How big is {c}?",
          "How many people live in {c}?", "What is the meaning of life?", "Who is the king of {c}?", "How heavy is a {w}?",
          "Why do people eat {w}?", "When was {n} born?", "Can a {w} fly?", "What should I eat today?", "Is {n} a doctor?"]


def unknown(rng, test, gibberish):
    """A question full of words nano has never seen (`gibberish` makes them), or about things it was never told."""
    text = rng.choice(NOISE if rng.random() < 0.6 else BEYOND)
    text = text.replace("{w}", rng.choice(WORDS)).replace("{n}", rng.choice(NAMES)).replace("{c}", rng.choice(CITIES))
    text = text.replace("{k}", rng.choice(COLOURS))
    while "{x}" in text:
        text = text.replace("{x}", gibberish(), 1)
    return Turn("unknown", text, ("I do not know this.", "I do not know enough about this. I say so.",
                "This is something that I have never learned. I should not make something up. I say so."),
                "I am sorry, I do not know that. I am a very small model.", None,
                "I am what nano lacks and books hold. What am I? The answer, which I do not know.", None, ["What am I?"])
