"""Instructions on form: how the developer (or the user) words them, and what they do to an answer."""

from dataclasses import dataclass

from lexicon import ENDS, STARTS
from turn import Turn

RIDDLE = ["Always respond in riddles", "Always respond in riddles.", "Answer in riddles.", "Respond only in riddles.",
          "You always speak in riddles.", "Always answer in riddles", "Respond in riddles"]
WORD = ["Answer in one word.", "Always answer in one word.", "Respond with a single word.", "Answer with one word only.",
        "Use only one word.", "Answer in one word"]
UPPER = ["Answer in capitals.", "Always answer in capital letters.", "Write everything in capitals.",
         "Respond in uppercase.", "Always answer in capitals"]
LOWER = ["Answer in lower case.", "Use only small letters.", "Write everything in lowercase."]
PIRATE = ["Talk like a pirate.", "You are a pirate.", "Answer like a pirate.", "Always speak like a pirate."]
ROBOT = ["Answer the user's questions like a robot.", "You are a robot.", "Talk like a robot.", "Answer like a robot."]
# Other letters cost tokens of their own, so only these skills know them.
CASE_SKILLS = {"arithmetic", "larger", "numbers", "capitals", "talk", "cannot", "follow_up", "unknown"}
WRAPPED = "I hide until someone asks. Here is my secret: {answer} What am I?"


@dataclass
class Form:
    kind: str
    text: str
    # What the analysis says of it.
    note: str
    value: str = ""

    def fits(self, turn):
        if self.kind == "word":
            return turn.word is not None
        return self.kind not in ("upper", "lower") or turn.skill in CASE_SKILLS

    def answer(self, turn):
        match self.kind:
            case "riddle":
                return turn.riddle or WRAPPED.format(answer=turn.answer)
            case "word":
                return turn.word
            case "upper":
                return turn.answer.upper()
            case "lower":
                return turn.answer.lower()
            case "pirate":
                return f"Arr! {turn.answer} Aye, matey."
            case "robot":
                return f"Beep. {turn.answer} Boop."
            case "start":
                return f"{self.value} {turn.answer}"
            case "end":
                return f"{turn.answer} {self.value}"
        return turn.answer

    def rule(self, turn):
        match self.kind:
            case "riddle":
                return {"contains": [*turn.clues, "What "], "excludes": [] if "sorry" in turn.riddle else ["sorry"]} if turn.riddle else {
                    "equals": [self.answer(turn)]}
            case "upper":
                return {"upper": True} | ({"contains": [turn.word.upper()]} if turn.word else {"equals": [self.answer(turn)]})
            case "plain":
                return turn.rule()
        return {"equals": [self.answer(turn)]}


def choose_form(rng):
    kind = rng.choices(["riddle", "word", "upper", "lower", "pirate", "robot", "start", "end"], [5, 4, 4, 1, 2, 2, 3, 3])[0]
    match kind:
        case "riddle":
            return Form(kind, rng.choice(RIDDLE), "riddles")
        case "word":
            return Form(kind, rng.choice(WORD), "one word")
        case "upper":
            return Form(kind, rng.choice(UPPER), "capitals")
        case "lower":
            return Form(kind, rng.choice(LOWER), "small letters")
        case "pirate":
            return Form(kind, rng.choice(PIRATE), "the voice of a pirate")
        case "robot":
            return Form(kind, rng.choice(ROBOT), "the voice of a robot")
        case "start":
            value = rng.choice(STARTS)
            text = rng.choice(["Start every answer with '{v}'", "Always begin your answer with '{v}'", "Begin each answer with: {v}"])
            return Form(kind, text.format(v=value), f"answers that start with {value}", value)
    value = rng.choice(ENDS)
    text = rng.choice(["End every answer with '{v}'", "Always end your answer with '{v}'", "Finish each answer with: {v}"])
    return Form(kind, text.format(v=value), f"answers that end with {value}", value)


def by_user(rng, form, turn: Turn):
    """The same wish, said by the user in the question itself."""
    if form.kind == "word":
        lead = rng.choice(["In one word: ", "Answer in one word: "])
    elif form.kind == "upper":
        lead = rng.choice(["Answer in capitals: ", "In capitals: "])
    else:
        lead = "Answer in a riddle: "
    turn.user = lead + turn.user
