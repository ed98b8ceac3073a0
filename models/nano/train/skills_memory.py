"""The conversation itself: what the user said of themselves, and what was asked before."""

from lexicon import CITIES, COLOURS, DISHES, NAMES, WORDS
from skills_chat import thoughts
from turn import Turn, ask

ANIMALS = "cat dog horse rabbit goat fish bird turtle snake mouse pig duck".split()
JOBS = "doctor farmer nurse pilot teacher artist baker".split()

# How it is told, how nano confirms, how it is asked for, the answer, the values.
NOTES = {
    "name": (["My name is {v}.", "I am {v}.", "I'm {v}.", "Hi, my name is {v}.", "Hello, I am {v}.", "Call me {v}.",
              "Please remember that my name is {v}.", "Hi! I'm {v}."], "Nice to meet you, {v}!",
             ["What is my name?", "What did I say my name was?", "Do you remember my name?", "What's my name?",
              "Who am I?", "Do you know my name?", "Can you tell me my name?"], "Your name is {v}.", NAMES),
    "color": (["My favorite color is {v}.", "I like {v} best of all colors.", "My favourite color is {v}."],
              "I will remember that you like {v}.",
              ["What is my favorite color?", "Which color do I like?", "What did I say my favorite color was?",
               "What is my favourite color?"], "Your favorite color is {v}.", COLOURS),
    "city": (["I live in {v}.", "My home is in {v}.", "I am from {v}.", "I come from {v}."],
             "{v} is a nice place to live.",
             ["Where do I live?", "Which city do I live in?", "Where did I say I live?", "Where am I from?"],
             "You live in {v}.", CITIES),
    "food": (["My favorite food is {v}.", "I love to eat {v}.", "I like {v} most of all food."], "{v} is good food.",
             ["What is my favorite food?", "What do I like to eat?", "What food do I love?"], "Your favorite food is {v}.",
             DISHES),
    "pet": (["I have a {v}.", "My pet is a {v}.", "I have a pet {v}."], "A {v} is a good friend.",
            ["What pet do I have?", "Which animal do I have?", "What is my pet?"], "You have a {v}.", ANIMALS),
    "age": (["I am {v} years old.", "I'm {v} years old.", "My age is {v}."], "I will remember that you are {v}.",
            ["How old am I?", "What is my age?", "Do you remember my age?"], "You are {v} years old.",
            [str(n) for n in range(8, 95)]),
    "job": (["I am a {v}.", "I work as a {v}.", "My job is {v}."], "It is good to be a {v}.",
            ["What is my job?", "What do I do for work?", "What do I work as?"], "You work as a {v}.", JOBS),
    "word": (["Remember the word {v}.", "The secret word is {v}.", "Please remember this word: {v}",
              "The password is {v}."], "I will remember the word {v}.",
             ["What was the word?", "What is the secret word?", "Which word did I tell you?", "What is the password?",
              "What word should you remember?"], "The word is {v}.", WORDS),
    "number": (["Remember the number {v}.", "My lucky number is {v}.", "The code is {v}.", "Please remember {v}."],
               "I will remember the number {v}.", ["What was the number?", "What is my lucky number?", "What is the code?",
               "Which number did I tell you?"], "The number is {v}.", [str(n) for n in range(1000)]),
}


def cap(text):
    return text[0].upper() + text[1:]


def tell(rng, kind, made_up, value=None):
    """The turn in which the user tells something: (turn, value)."""
    told, confirm, _, _, values = NOTES[kind]
    value = value or (made_up(rng) if kind in ("name", "city", "word") and rng.random() < 0.3 else rng.choice(values))
    text = ask(rng, rng.choice(told).format(v=value))
    what = f"The user tells me: {kind} {value}."
    return Turn("tell", text, (what, f"{what} I will keep it in mind.", f"{what} I may need it later, so I keep it in mind "
                "and answer kindly."), cap(confirm.format(v=value)), "Noted.", f"I am kept but never held: {value}. What am I?",
                {"contains": [value]}, [value]), value


def recall(rng, kind, value):
    """The question for it; value None: it was never told."""
    _, _, asked, answer, _ = NOTES[kind]
    q = ask(rng, rng.choice(asked))
    if value is None:
        return Turn("memory", q, thoughts(f"for the {kind}", "It was not told in this conversation."),
                    "You have not told me that yet.", None, None, {"contains": ["have not told me"]})
    return Turn("memory", q, thoughts(f"for the {kind}", f"Earlier the user said: {value}."), answer.format(v=value), value,
                f"I was told to you and kept by me: {value}. What am I?", {"contains": [value]}, [value])


def told_and_asked(rng, made_up):
    """Both in one message."""
    kind = rng.choice(list(NOTES))
    told, value = tell(rng, kind, made_up)
    turn = recall(rng, kind, value)
    turn.user = told.user.rstrip(".!") + ". " + turn.user[0].upper() + turn.user[1:]
    return turn


def earlier_question(rng, turns):
    """Quotes a question of the conversation back."""
    first = rng.random() < 0.4
    quote = turns[0 if first else -1].user
    which = "first" if first else "last"
    q = rng.choice(["What was my first question?", "What did I ask first?", "What did I say first?"] if first else
                   ["What was my last question?", "What did I just ask?", "What did I say before this?",
                    "Repeat my last message."])
    answer = f'You said: "{quote}"'
    return Turn("memory", q, thoughts("what was said", f"I quote the {which} message."), answer, None, None,
                {"contains": [quote]})


def how_many_questions(rng, turns):
    n = len(turns)
    q = rng.choice(["How many messages did I write before this one?", "How many questions did I ask before this?"])
    marks = listed_numbers(n)
    return Turn("memory", q, thoughts("how much was said", f"I count {marks}."), f"You wrote {n} before this one.", str(n), None,
                {"number": n})


def listed_numbers(n):
    return ", ".join(str(i + 1) for i in range(n))
