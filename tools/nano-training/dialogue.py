"""Conversations: turns with a system message, a form, tools and what was said before; for training and for the evaluation.

`sample` makes one from a random generator: a case (what stands in the prompt), the target messages, a scoring rule.
"""

from forms import Form, by_user, choose_form
from harmony import analysis, call, final, prompt_messages, render, render_target, result, user
from lexicon import PLAIN_INSTRUCTIONS
from sayings import CANNOT, RIDDLE_CANNOT
import skills_chat as chat
import skills_facts as facts
import skills_letters as letters
import skills_math as maths
import skills_made as made
import skills_memory as memory
import skills_numbers as numbers
import skills_requests as requests
import skills_tools as tools
import skills_words as words
from turn import EFFORTS, Turn

SKILLS = {  # name: (share of the training data, share of the evaluation)
    "arithmetic": (11, 80), "larger": (20, 40), "story": (5, 10), "numbers": (14, 30), "follow_up": (3, 8),
    "compare": (6, 20), "sort": (18, 25), "reverse": (6, 20), "count": (6, 20), "choose": (4, 10), "letters": (18, 25),
    "capitals": (4, 15), "facts": (6, 12), "talk": (4, 10), "date": (3, 8), "repeat": (3, 8), "memory": (11, 25), "cannot": (6, 15),
    "unknown": (6, 12), "call": (84, 80), "result": (22, 30), "no_call": (6, 20), "form": (9, 35),
}
# Words of these come from the wide pool as well.
OF_WORDS = ("compare", "sort", "reverse", "count", "choose", "letters")
SIMPLE = {"arithmetic": maths.arithmetic, "larger": maths.larger, "story": maths.story, "numbers": numbers.number_sense,
          "compare": words.compare, "sort": words.sort_words, "reverse": words.reverse, "count": words.count_words, "choose": words.choose,
          "letters": letters.letters, "capitals": facts.capitals, "facts": facts.facts, "talk": chat.talk}
# Intents that would fit what nano otherwise cannot do.
RIVALS = {"weather": "get_weather get_weather_forecast", "time": "get_time", "message": "send_message send_mail",
          "search": "search search_documents", "price": "get_stock_price", "map": "get_distance get_directions", "language": "translate",
          "order": "book_table add_to_cart book_flight find_restaurant", "house": "play_music set_light set_timer set_alarm",
          "news": "search get_news", "sport": "search", "text": "send_message get_joke", "program": "", "picture": ""}
# What may answer a question about numbers.
CALCULATORS = {"add", "multiply", "square_root", "evaluate", "convert_units"}


class Maker:
    """Draws samples. `words` are those it copies (`invent.Words`); `gibberish(rng)` gives one it does not know, or is None."""

    def __init__(self, rng, words, test=False, gibberish=None):
        self.rng, self.words, self.test, self.gibberish = rng, words, test, gibberish

    def made_up(self, rng):
        return self.words.title(rng)

    def unread(self, rng, title=False):
        """A word of which nano cannot read a part."""
        return self.gibberish(rng) if rng.random() < 0.3 else self.words.unread(rng, title)

    def turn(self, skill, today):
        """One plain turn of a skill."""
        rng, test = self.rng, self.test
        if skill == "sort" and rng.random() < 0.35:
            return words.sort_numbers(rng, test)
        if skill in OF_WORDS and rng.random() < 0.4:
            others = ["entries", "joined", "titles"] if skill == "letters" else ["words", "entries", "joined"]
            return SIMPLE[skill](rng, test, self.words.pools[rng.choices(others, [6, 1, 1] if skill == "letters" else [6, 5, 1])[0]])
        if skill in OF_WORDS and self.gibberish and rng.random() < 0.04:
            strange = [self.unread(rng) for _ in range(3)]
            turn = SIMPLE[skill](rng, False, rng.sample(self.words.pools["words"], 20) + 4 * strange if skill == "count" else
                                 rng.sample(self.words.pools["words"], 7) + strange)
            return requests.unread(turn) if any(word in turn.user for word in strange) else self.turn(skill, today)
        if skill in SIMPLE:
            return SIMPLE[skill](rng, test)
        if skill == "repeat":
            return requests.repeat(rng, test, lambda: self.words.value(rng))
        if skill == "date":
            return chat.date(rng, test, today)
        if skill == "unknown":
            return chat.unknown(rng, test, lambda: self.gibberish(rng) if self.gibberish and rng.random() < 0.85 else self.words.value(rng))
        return chat.cannot(rng, test, CANNOT[0] if rng.random() < 0.3 else None)

    def any_turn(self, today, form):
        """A turn for the history, or to be dressed in a form."""
        while True:
            skill = self.rng.choice(["arithmetic", "larger", "numbers", "compare", "sort", "reverse", "count", "choose",
                                     "letters", "capitals", "capitals", "facts", "talk", "talk", "cannot", "tell", "date"])
            turn = memory.tell(self.rng, self.rng.choice(list(memory.NOTES)), self.made_up)[0] if skill == "tell" else \
                self.turn(skill, today)
            if form is None or form.fits(turn):
                return turn

    def history(self, today, form, count):
        """Earlier turns as messages; analysis of earlier turns is normally gone, sometimes still there."""
        return self.messages([self.any_turn(today, form) for _ in range(count)], form)

    def messages(self, turns, form):
        out, keep = [], self.rng.random() < 0.1
        for t in turns:
            out.append(user(t.user))
            if keep:
                out.append(analysis(t.think[0]))
            out.append(final(form.answer(t) if form and form.fits(t) else t.answer))
        return out

    def plain_instruction(self):
        """An instruction that changes nothing; now and then one that nano cannot read."""
        rng = self.rng
        if self.gibberish and rng.random() < 0.3:
            strange = [" ".join(["You are", *self.strange(rng.randrange(1, 9))]) + "." for _ in range(rng.choice([1, 1, 1, 2, 4]))]
            return " ".join(strange + ([rng.choice(PLAIN_INSTRUCTIONS)] if rng.random() < 0.3 else []))
        return rng.choice(PLAIN_INSTRUCTIONS)

    def strange(self, count):
        """Words that it does not know, among some that it does."""
        return [self.gibberish(self.rng) if self.rng.random() < 0.7 else self.words.value(self.rng) for _ in range(count)]

    def today(self):
        rng = self.rng
        if rng.random() < 0.08:
            return None
        return f"{rng.randrange(2024, 2030)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"

    def sample(self, skill=None):
        rng = self.rng
        column = 1 if self.test else 0
        names = list(SKILLS)
        skill = skill or rng.choices(names, [SKILLS[s][column] for s in names])[0]
        case = {"skill": skill, "effort": rng.choices(EFFORTS, [3, 5, 3])[0], "date": self.today()}
        if skill in ("call", "result"):
            return self.tool_sample(case)
        form = choose_form(rng) if skill == "form" or (not self.test and rng.random() < 0.08) else None
        return self.answer_sample(case, form)

    def answer_sample(self, case, form):
        """A turn that ends in a final answer without a call."""
        rng, today, skill = self.rng, case["date"], case["skill"]
        told = form if form and rng.random() < 0.85 or form and form.kind not in ("word", "upper", "riddle") else None
        count = rng.choices([0, 1, 2, 3, 4], [60, 15, 10, 8, 7] if not self.test else [70, 15, 10, 5, 0])[0]
        past, turn = self.question(skill, today, form, told, count)
        if form and not form.fits(turn):
            form = told = None
        if self.gibberish and rng.random() < 0.03:
            turn.user = rng.choice(["{g}, {u}", "{u} {g}", "{g} {u}", "{u} {g} {g}"]).format(g=self.gibberish(rng), u=turn.user)
        if form and not told:
            by_user(rng, form, turn)
        if told:
            case["developer"] = told.text
        elif rng.random() < 0.2:
            case["developer"] = self.plain_instruction()
        if skill == "no_call" or rng.random() < 0.1:
            case |= self.unfit(turn)
        if case.get("tools") and skill != "memory" and rng.random() < 0.2:
            past = (self.earlier_call(case, told) or []) + past
        case["messages"] = past + [user(turn.user)]
        think = turn.think[EFFORTS.index(case["effort"])]
        if form and case["effort"] != "low":
            think += f" The {'developer' if told else 'user'} wants {form.note}."
        plain = Form("plain", "", "")
        case["expect"] = (form or plain).rule(turn)
        return case, [[analysis(think), final((form or plain).answer(turn))]], []

    def question(self, skill, today, form, told, count):
        """(earlier messages, the turn in question)."""
        rng = self.rng
        if skill == "memory":
            return self.memory_question(today, form, told, count)
        past = self.history(today, told, count)
        if skill == "follow_up":
            if rng.random() < 0.3:
                before = self.turn("capitals", today)
                return past + self.messages([before], told), facts.another_capital(rng)
            before = self.turn("arithmetic", today)
            while int(before.word) < 0 or int(before.word) > 900:
                before = self.turn("arithmetic", today)
            return past + self.messages([before], told), maths.follow_up(rng, before)
        if skill == "form":
            return past, self.any_turn(today, form)
        if skill == "no_call":
            return past, self.turn(rng.choice(["cannot", "cannot", "arithmetic", "capitals", "talk", "sort", "facts"]), today)
        return past, self.turn(skill, today)

    def memory_question(self, today, form, told, count):
        rng = self.rng
        roll = rng.random()
        if roll < 0.15:
            return self.history(today, told, count), memory.told_and_asked(rng, self.made_up)
        if roll < 0.18:
            return [], memory.nothing_before(rng)
        if roll < 0.33:
            turns = [self.any_turn(today, told) for _ in range(max(1, count))]
            # Words of a quote must be among those nano writes, so only some questions are quoted.
            quotable = all(t.skill in ("arithmetic", "capitals", "talk") for t in (turns[0], turns[-1]))
            make = memory.earlier_question if quotable else memory.how_many_questions
            return self.messages(turns, told), make(rng, turns)
        kind = rng.choice(["name", "name", *memory.NOTES])
        if self.gibberish and rng.random() < 0.07:
            return self.unread_memory(today, told, count)
        if roll < 0.42:
            other = [memory.tell(rng, k, self.made_up)[0] for k in rng.sample([k for k in memory.NOTES if k != kind and
                     (kind, k) != ("city", "name")], rng.randrange(2))]
            return self.messages(other, told), memory.recall(rng, kind, None)
        if roll < 0.52 and not self.test:
            return self.history(today, told, count), memory.tell(rng, kind, self.made_up)[0]
        kinds = [kind] + rng.sample([k for k in memory.NOTES if k != kind], rng.choice([0, 0, 1, 2]))
        notes = [memory.tell(rng, k, self.made_up) for k in kinds]
        turns = [n[0] for n in notes] + [self.any_turn(today, told) for _ in range(min(count, 3))]
        rng.shuffle(turns)
        return self.messages(turns, told), memory.recall(rng, kind, notes[0][1])

    def unread_memory(self, today, told, count):
        """Something told that nano cannot read, and the question for it: at once, later, or not at all."""
        rng = self.rng
        kind = rng.choice(list(memory.UNREAD))
        word = self.unread(rng, kind in ("name", "city"))
        roll, past = rng.random(), self.history(today, told, count)
        if roll < 0.4:
            return past, memory.tell_unread(rng, kind, word)
        if roll < 0.6:
            return past, memory.told_and_asked_unread(rng, kind, word)
        return self.messages([memory.tell_unread(rng, kind, word)], told) + past, memory.recall_unread(rng, kind)

    def unfit(self, turn):
        """Declared tools of which none fits the turn; now and then there is none at all."""
        rng = self.rng
        thing = next((t for t in RIVALS if turn.riddle == RIDDLE_CANNOT.format(
            thing=t, verb=next(c[1] for c in CANNOT if c[2] == t))), None)
        taken = set((RIVALS.get(thing) or "").split()) | ({"get_location"} if turn.skill == "memory" else set())
        if turn.skill == "cannot" or turn.skill == "capitals":
            taken |= {"search", "search_documents"}
        rivals = [{"name": name} for name in sorted(taken | CALCULATORS)]
        turns = tools.others(rng, self.words, rivals, rng.choice([1, 1, 2, 3, 4]), made.made_call)
        return {"tools": self.dimmed([t.tool for t in turns])} if turns else {}

    def dimmed(self, declared):
        """Real descriptions hold much that nano cannot read: unknown words behind what it can."""
        rng = self.rng
        for tool in declared:
            if self.gibberish and rng.random() < 0.12:
                tool["description"] += " " + " ".join(self.strange(rng.randrange(2, 16))) + "."
        return declared

    def call_turn(self):
        return (tools.known_call if self.rng.random() < 0.45 else made.made_call)(self.rng, self.words)

    def tool_sample(self, case):
        """A call, or a call with its result and the answer."""
        rng, today = self.rng, case["date"]
        t = self.call_turn()
        declared, rest = tools.with_others(rng, self.words, t.tool, made.made_call)
        case["tools"] = self.dimmed(declared)
        form = choose_form(rng) if rng.random() < 0.12 else None
        if form and form.kind in ("word", "upper", "lower"):
            form = None
        if form:
            case["developer"] = form.text
        elif rng.random() < 0.4:
            case["developer"] = self.plain_instruction()
        count = rng.choices([0, 1, 2, 3], [75, 15, 7, 3])[0]
        past = self.history(today, form, count)
        if rng.random() < 0.15:
            past = (self.earlier_call(case, form) or []) + past
        i = EFFORTS.index(case["effort"])
        first, back, second = self.rounds(t, i, form)
        if case["skill"] == "call":
            unread = tools.unread_call(rng, t, self.unread) if self.gibberish and not self.test and rng.random() < 0.08 else None
            if unread:
                case["messages"], case["expect"] = past + [user(unread.user)], unread.rule()
                return case, [[analysis(unread.think[i]), final(form.answer(unread) if form and form.fits(unread) else unread.answer)]], []
            case["expect"] = {"call": {"name": "functions." + t.tool["name"], "arguments": t.arguments}}
            # Questions to the other functions come before it: a long prompt, and more to learn from it.
            count = 0 if self.test else rng.choices([0, 1, 2, 3], [40, 30, 20, 10])[0]
            before = rng.sample(rest, min(count, len(rest)))
            targets, between = [], []
            for turn, after in zip(before, [*before, t][1:], strict=True):
                said, came, answer = self.rounds(turn, i, form)
                targets += [said, answer]
                between += [[came], [user(after.user)]]
            case["messages"] = past + [user([*before, t][0].user)]
            return case, [*targets, first], between
        case["messages"] = past + [user(t.user)]
        case["expect"] = {"contains": t.need}
        if self.test or rng.random() < 0.4:
            said = call(t.tool["name"], t.arguments, (", ", ": ")) if rng.random() < 0.2 else first[1]
            case["messages"] = case["messages"] + ([first[0]] if rng.random() < 0.5 else []) + [said, back]
            return case, [second], []
        return case, [first, second], [[back]]

    def rounds(self, t, effort, form):
        """A question's analysis and call, the result, and the analysis and answer after it."""
        answer = Turn("result", t.user, (), t.answer)
        return ([analysis(t.think()[effort]), call(t.tool["name"], t.arguments)], result(t.tool["name"], t.result),
                [analysis(t.after()[effort]), final(form.answer(answer) if form else t.answer)])

    def earlier_call(self, case, form):
        """A finished call in the history, of another declared tool's kind."""
        t = self.call_turn()
        if tools.alike(t.tool, case["tools"]):
            return None
        case["tools"] = case["tools"] + [t.tool]
        answer = Turn("result", "", (), t.answer)
        text = form.answer(answer) if form and form.fits(answer) else t.answer
        return [user(t.user), call(t.tool["name"], t.arguments), result(t.tool["name"], t.result), final(text)]


def pieces(case, targets, between):
    """The whole sample as pieces with loss flags: prompt, target, tool result, target."""
    out = render(prompt_messages(case))
    for i, target in enumerate(targets):
        out += render_target(target)
        if i < len(between):
            out += render(between[i])
    return out


def prompt_pieces(case):
    """What stands before a completion."""
    return render(prompt_messages(case)) + [("<|start|>", True, False), ("assistant", False, False)]
