"""The conversation itself: what the user said of themselves, and what was asked before."""

from lexicon import CITIES, COLOURS, DISHES, NAMES, WORDS
from skills_chat import analysis
from turn import Turn, ask

ANIMALS = "cat dog horse rabbit goat fish bird turtle snake mouse pig duck".split()
JOBS = "doctor farmer nurse pilot teacher artist baker".split()

# How the user states it, how nano confirms, how the user asks for it, the answer, the values.
NOTES = {
    "name": (["My name is {v}.", "I am {v}.", "I'm {v}.", "Hi, my name is {v}.", "Hello, I am {v}.", "Call me {v}.",
              "Please remember that my name is {v}.", "Hi! I'm {v}.", "I go by {v}.", "You can call me {v}.",
              "People call me {v}.", "This is {v} speaking.", "My friends call me {v}.", "Hello! {v} here."],
             "Nice to meet you, {v}!",
             ["What is my name?", "What did I say my name was?", "Do you remember my name?", "What's my name?",
              "Who am I?", "Do you know my name?", "Can you tell me my name?", "Do you know who I am?", "Remind me of my name.",
              "What should you call me?", "Say my name.", "What did I tell you about my name?", "my name?"],
             "Your name is {v}.", NAMES),
    "color": (["My favorite color is {v}.", "I like {v} best of all colors.", "My favourite color is {v}.",
               "The color I like best is {v}.", "I love the color {v}.", "For me the best color is {v}.", "My color is {v}."],
              "I will remember that you like {v}.",
              ["What is my favorite color?", "Which color do I like?", "What did I say my favorite color was?",
               "What is my favourite color?", "Do you remember my favorite color?", "Remind me of my favorite color.",
               "What is the color I like best?", "Do you know my color?"], "Your favorite color is {v}.", COLOURS),
    "city": (["I live in {v}.", "My home is in {v}.", "I am from {v}.", "I come from {v}.", "My home town is {v}.",
              "I'm from {v}.", "I grew up in {v}.", "I moved to {v}.", "My house is in {v}."],
             "{v} is a nice place to live.",
             ["Where do I live?", "Which city do I live in?", "Where did I say I live?", "Where am I from?",
              "What is my city?", "Do you know where I live?", "Remind me where I live.", "In which city is my home?"],
             "You live in {v}.", CITIES),
    "food": (["My favorite food is {v}.", "I love to eat {v}.", "I like {v} most of all food.", "The food I like best is {v}.",
              "I could eat {v} every day.", "Nothing is better than {v}.", "I love {v}."], "Yes, {v} is good food.",
             ["What is my favorite food?", "What do I like to eat?", "What food do I love?", "Do you remember my favorite food?",
              "Which food do I like best?", "What would I eat every day?", "Remind me of my favorite food."],
             "Your favorite food is {v}.", DISHES),
    "pet": (["I have a {v}.", "My pet is a {v}.", "I have a pet {v}.", "At home I have a {v}.", "I own a {v}.",
             "There is a {v} in my house.", "I got a {v} as a pet."], "A {v} is a good friend.",
            ["What pet do I have?", "Which animal do I have?", "What is my pet?", "What did I tell you about my pet?",
             "Do you remember my pet?", "What animal is my pet?", "Which pet did I say I have?"], "You have a {v}.", ANIMALS),
    "age": (["I am {v} years old.", "I'm {v} years old.", "My age is {v}.", "I turned {v} today.", "I am {v} now.",
             "I am already {v} years old."], "I will remember that you are {v}.",
            ["How old am I?", "What is my age?", "Do you remember my age?", "Do you know how old I am?", "What age am I?",
             "How many years old am I?", "Remind me of my age."], "You are {v} years old.", [str(n) for n in range(8, 95)]),
    "job": (["I am a {v}.", "I work as a {v}.", "My job is {v}.", "I earn my money as a {v}.", "I am working as a {v}.",
             "For a living I am a {v}."], "It is good to be a {v}.",
            ["What is my job?", "What do I do for work?", "What do I work as?", "What did I say my job was?",
             "Do you remember my job?", "What do I do for a living?", "What is my work?"], "You work as a {v}.", JOBS),
    "word": (["Remember the word {v}.", "The secret word is {v}.", "Please remember this word: {v}",
              "The password is {v}.", "Keep the word {v} in mind.", "My word is {v}.", "Don't forget the word {v}.",
              "Our secret word is {v}."], "I will remember the word {v}.",
             ["What was the word?", "What is the secret word?", "Which word did I tell you?", "What is the password?",
              "What word should you remember?", "Tell me the secret word.", "Do you remember the word?",
              "Which word did I give you?"], "The word is {v}.", WORDS),
    "number": (["Remember the number {v}.", "My lucky number is {v}.", "The code is {v}.", "Please remember {v}.",
                "Keep the number {v} in mind.", "My number is {v}.", "The PIN is {v}.", "Don't forget the number {v}."],
               "I will remember the number {v}.", ["What was the number?", "What is my lucky number?", "What is the code?",
               "Which number did I tell you?", "Do you remember the number?", "Tell me the code.", "What is my number?",
               "Which number did I give you?"], "The number is {v}.", [str(n) for n in range(1000)]),
}

# What nano calls a value that it could not read, by kind.
UNREAD = {"name": "name", "color": "color", "city": "place", "food": "food", "pet": "animal", "job": "job", "word": "word"}


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
        return Turn("memory", q, analysis(f"for the {kind}", "It was not told in this conversation."),
                    "You have not told me that yet.", None, None, {"contains": ["have not told me"]})
    return Turn("memory", q, analysis(f"for the {kind}", f"Earlier the user said: {value}."), answer.format(v=value), value,
                f"I was told to you and kept by me: {value}. What am I?", {"contains": [value]}, [value])


def told_and_asked(rng, made_up):
    """Both in one message."""
    kind = rng.choice(list(NOTES))
    told, value = tell(rng, kind, made_up)
    return in_one(told, recall(rng, kind, value))


def in_one(told, asked):
    asked.user = told.user.rstrip(".!") + ". " + asked.user[0].upper() + asked.user[1:]
    return asked


def tell_unread(rng, kind, word):
    """The user tells a value that nano cannot read, of a kind in `UNREAD`."""
    text = ask(rng, rng.choice(NOTES[kind][0]).format(v=word))
    what = f"The user tells me: {kind}. I cannot read it."
    return Turn("tell", text, (what, f"{what} I say so.", f"{what} I should not make one up. I say so and answer kindly."),
                ("Nice to meet you! " if kind == "name" else "") + f"I cannot read that {UNREAD[kind]}, so I cannot repeat it.",
                expect={"contains": ["cannot read"]})


def recall_unread(rng, kind):
    """The question for a value that the user stated and that nano could not read."""
    think = analysis(f"for the {kind}", "Earlier the user told it, but I cannot read it.")
    return Turn("memory", ask(rng, rng.choice(NOTES[kind][2])), think,
                "You told me, but I could not read it.", expect={"contains": ["could not read"]})


def told_and_asked_unread(rng, kind, word):
    """Both in one message."""
    return in_one(tell_unread(rng, kind, word), recall_unread(rng, kind))


def earlier_question(rng, turns):
    """Quotes a question of the conversation back."""
    first = rng.random() < 0.4
    quote = turns[0 if first else -1].user
    which = "first" if first else "last"
    q = rng.choice(["What was my first question?", "What did I ask first?", "What did I say first?"] if first else
                   ["What was my last question?", "What did I just ask?", "What did I say before this?",
                    "Repeat my last message.", "What did I just say?", "What did I say before?"])
    answer = f'You said: "{quote}"'
    return Turn("memory", q, analysis("what was said", f"I quote the {which} message."), answer, None, None,
                {"contains": [quote]})


def nothing_before(rng):
    """A question for an earlier message where there is none."""
    q = rng.choice(["What was my first question?", "What did I ask first?", "What was my last question?", "What did I just ask?",
                    "What did I just say?", "What did I say before this?", "Repeat my last message.", "What did I say before?"])
    return Turn("memory", q, analysis("what was said", "Nothing was said before this."), "You have not said anything before that.", None, None,
                {"contains": ["not said anything"]})


def how_many_questions(rng, turns):
    n = len(turns)
    q = rng.choice(["How many messages did I write before this one?", "How many questions did I ask before this?"])
    marks = listed_numbers(n)
    return Turn("memory", q, analysis("how much was said", f"I count {marks}."), f"You wrote {n} before this one.", str(n), None,
                {"number": n})


def listed_numbers(n):
    return ", ".join(str(i + 1) for i in range(n))
