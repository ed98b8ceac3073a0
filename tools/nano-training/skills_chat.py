"""Small talk, the date, and saying no. (What the user said earlier: `skills_memory.py`.)"""

from lexicon import CITIES, COLOURS, LANGUAGES, MONTHS, NAMES, SMALL, WORDS
from sayings import BEYOND, CANNOT, NOISE, OPENINGS, RIDDLE_CANNOT, TALK, TALK_RIDDLE
from skills_requests import near_day
from turn import Turn, analysis, ask


def talk(rng, test):
    questions, seen, answer = rng.choice(TALK)
    return Turn("talk", rng.choice(questions), (seen, f"{seen} I answer kindly.",
                f"{seen} There is nothing to work out here. I answer kindly and offer my help."), answer, None,
                TALK_RIDDLE.format(answer=answer))


def date(rng, test, today):
    """Questions about the date in the system message (`2026-11-21`, or none)."""
    kind = rng.randrange(9)
    if today is None:
        return Turn("date", ask(rng, rng.choice(["What is today's date?", "What day is it today?", "What year is it?"])),
                    analysis("for the date", "I was not told the date."), "I do not know: nobody told me the date.", None, None,
                    {"contains": ["do not know"]})
    if kind > 6:
        return near_day(rng, today)
    year, month, day = today.split("-")
    name = MONTHS[int(month) - 1]
    if kind == 6:
        return Turn("date", ask(rng, rng.choice(["What day of the week is it?", "Which day of the week is it today?", "What weekday is it?",
                    "Is it Monday today?", "What day of the week is today?", "Which weekday is today?", "Is today Sunday?"])),
                    analysis("for the day of the week", f"The system message says {today}, but not which day of the week."),
                    f"Today is {today}. I do not know which day of the week that is.", None, None, {"contains": [today, "do not know"]})
    if kind < 2:
        return Turn("date", ask(rng, rng.choice(["What is today's date?", "What's the date today?", "What is the date?",
                    "What day is it today?", "Which date is it today?", "Tell me today's date."])),
                    analysis("for the date", f"The system message says {today}."), f"Today is {today}.", today, None,
                    {"contains": [today]})
    if kind < 4:
        return Turn("date", ask(rng, rng.choice(["What year is it?", "Which year is it now?", "What is the current year?"])),
                    analysis("for the year", f"The date is {today}, so the year is {year}."), f"It is the year {year}.",
                    year, None, {"contains": [year]})
    return Turn("date", ask(rng, rng.choice(["What month is it?", "Which month is it now?", "What is the current month?"])),
                analysis("for the month", f"The date is {today}, and month {month} is {name}."), f"It is {name}.", name,
                f"I am month {month} of the year. What month am I?", {"contains": [name]})


def phrase(rng):
    """Some words in a row."""
    return " ".join(rng.choice(WORDS if rng.random() < 0.6 else SMALL) for _ in range(rng.randrange(2, 9)))


def cannot(rng, test, fitting=None):
    """Says no. `fitting` picks a row, for declared tools that do not fit."""
    questions, verb, thing = fitting or rng.choice(CANNOT)
    c, d = rng.sample(CITIES, 2)
    q = rng.choice(questions).format(c=c, d=d, w=rng.choice(WORDS), s=phrase(rng), n=rng.choice(NAMES), l=rng.choice(LANGUAGES))
    reason = f"I cannot {verb}, and no tool for it is here."
    return Turn("cannot", ask(rng, q), (reason, f"The user wants something I cannot do. {reason} I say so.",
                f"The user wants something that I should not make up. {reason} I say so and offer what I can do."),
                f"I am sorry, I cannot {verb}: I have no tool for that.", None,
                RIDDLE_CANNOT.format(thing=thing, verb=verb), {"contains": [f"cannot {verb}"]}, [thing, "What am I?"])


def unknown(rng, test, gibberish):
    """A question full of words nano has never seen (`gibberish` makes them), or about things it was never told."""
    text = rng.choice(NOISE if rng.random() < 0.6 else BEYOND)
    text = text.replace("{w}", rng.choice(WORDS)).replace("{n}", rng.choice(NAMES)).replace("{c}", rng.choice(CITIES)).replace("{d}", rng.choice(CITIES))
    text = text.replace("{k}", rng.choice(COLOURS)).replace("{o}", rng.choice(OPENINGS)).replace("{s}", phrase(rng))
    while "{x}" in text:
        text = text.replace("{x}", gibberish(), 1)
    return Turn("unknown", text, ("I do not know this.", "I do not know enough about this. I say so.",
                "This is something that I have never learned. I should not make something up. I say so."),
                "I am sorry, I do not know that. I am a very small model.", None,
                "I am what nano lacks and books hold. What am I? The answer, which I do not know.", None, ["What am I?"])
