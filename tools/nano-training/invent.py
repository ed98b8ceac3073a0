"""Words that nano only copies: names of tools and parameters, values, people and places nobody has heard of.

The pools: `names` (words of which interfaces are made), `words` (short entries from the beginning of the vocabulary), `later`
(entries that may stand behind another word), `entries` (those in small letters, to be spelled), `made` (syllables put together),
`joined` (entries of the vocabulary put together, as the tokenizer splits rare words) and `titles` (the same with capitals, and entries
that have one). Most of their tokens are in the copy tier of `vocab.json`; a pool keeps what nano can write. `unread` is the other way
round: words with a piece it does not know.
"""

import random
import re
import zlib

from lexicon import FIELDS, NAME_WORDS, THINGS, VERBS, WORDS

ONSETS = ("b br bl c ch cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st t th tr tw v w y z "
          "b d f g k l m n p r s t v z").split()
NUCLEI = "a e i o u a e i o u a o i oo ee ai ou ia".split()
CODAS = "b ck d ff g l ll m n nd ng nk p r rk rn s sh st t x zz".split()
ENDS = ["", "", "", "o", "a", "y", "us", "ix", "on", "er", "le", "um", "et", "in", "ax", "or", "ia", "ic", "is", "ate", "ify",
        "ing", "ton", "ville", "ley"]
# Entries of the vocabulary that may serve as words: ids below this one.
RANK = 14_000
# Words and made-up words that a program had better not say.
AVOID = set("anal sex sexual porn die dead death kill suicide rape nazi god damn hell shit fuck ass bitch jizz jism coon spic spick "
            "dick prick slut twat crap piss krap igger cunt whore".split())


def invented(rng):
    """A word like `flurbo`, `zank` or `trimbix`."""
    out = rng.choice(ONSETS) + rng.choice(NUCLEI)
    if rng.random() < 0.45:
        out += rng.choice(["", rng.choice("lmnrs")]) + rng.choice(ONSETS) + rng.choice(NUCLEI)
    if rng.random() < 0.75:
        out += rng.choice(CODAS)
        if rng.random() < 0.5:
            out += rng.choice(ENDS)
    return out


def forms(word, kind):
    """How a word may stand in a text: in a sentence, in JSON, in a function's name, in `aName`."""
    more = {"names": [word, "_" + word, "." + word, word.capitalize()], "made": [word, "_" + word, "." + word], "later": [], "entries": []}
    return [" " + word] + more.get(kind, [word])


class Words:
    """The pools. `reach` is "known" (words whose tokens nano has), "all" (to choose the tokens) or "core" (no pools)."""

    def __init__(self, tokens, reach="known", test=False):
        self.pools = {"names": [*VERBS, *FIELDS, *THINGS], "made": [], "titles": [], "joined": []}
        self.pools |= {kind: list(WORDS) for kind in ("words", "later", "entries")}
        if reach != "core":
            rng = random.Random(5)
            pieced = joined(tokens, rng)
            pools = {"names": sorted(set(NAME_WORDS)), "words": ranked(tokens),
                     "made": sorted({invented(rng) for _ in range(6000)} - AVOID),
                     "titles": sorted({invented(rng).capitalize() for _ in range(2500)} | {w.capitalize() for w in pieced[::2]}
                                      | set(ranked(tokens, r" [A-Z][a-z]{2,11}", 3 * RANK, 2))),
                     "joined": pieced[1::2], "later": ranked(tokens, r" [A-Za-z]{2,}", RANK, 9),
                     "entries": ranked(tokens, r" [a-z]{2,10}", RANK, 9)}
            for kind, words in pools.items():
                self.pools[kind] += [w for w in words if reach == "all" or all(writable(tokens, f) for f in forms(w, kind))]
        self.pools["unread"] = half_read(tokens) if reach == "known" else []
        # Words that nano can write as a part of any name.
        self.pools["parts"] = [w for w in self.pools["words"] if reach != "known" or all(writable(tokens, f) for f in forms(w, "names"))]
        # Made-up words of the evaluation are kept from training.
        for kind, spare in (("made", make_names()), ("titles", [n.capitalize() for n in make_names()]), ("joined", make_names())):
            self.pools[kind] = [w for w in self.pools[kind] if (zlib.crc32(w.encode()) % 10 == 0) == test] or spare

    def value(self, rng):
        """A word in small letters."""
        return rng.choice(self.pools[rng.choices(["words", "made", "joined", "names"], [12, 3, 2, 3])[0]])

    def values(self, rng, count):
        """Some words in a row."""
        return " ".join([self.value(rng), *(rng.choice(self.pools["later"]) for _ in range(count - 1))])

    def title(self, rng):
        """A name with a capital."""
        return rng.choice(self.pools["titles"])

    def unread(self, rng, title=False):
        """A word such as `frobnicate` or `Wilhelmina`, with a piece that nano cannot read."""
        word = rng.choice(self.pools["unread"])
        return word.capitalize() if title else word

    def part(self, rng):
        """A part of an identifier."""
        return rng.choice(self.pools[rng.choices(["names", "made", "parts"], [7, 1, 2])[0]])


def ranked(tokens, form=r" [a-z]{3,10}", limit=RANK, most=1):
    """Words that are one token with a space before them, and at most so many without it."""
    out = []
    for i in range(limit):
        text = tokens.enc.decode([i])
        if re.fullmatch(form, text) and text[1:].lower() not in AVOID and len(tokens.text(text[1:])) <= most:
            out.append(text[1:])
    return out


def joined(tokens, rng):
    """Words of two or three short entries of the vocabulary: `verstro`, `cusing`, `halideen`."""
    short = [text for i in range(RANK) if re.fullmatch(r"[a-z]{2,5}", text := tokens.enc.decode([i]))]
    words = {"".join(rng.choice(short) for _ in range(rng.choice([2, 2, 3]))) for _ in range(6000)}
    return sorted(w for w in words if not any(a in w for a in AVOID))


def half_read(tokens, count=2000):
    """Words of several tokens, of which nano knows some and not others, in small letters as with a capital."""
    rng = random.Random(11)
    pieces = [text for i in range(3 * RANK) if re.fullmatch(r"[a-z]{2,6}", text := tokens.enc.decode([i]))]
    known = [p for p in pieces if writable(tokens, p)]
    strange = [p for p in pieces if not tokens.compact[tokens.text(p)[0]]]
    out = set()
    while len(out) < count:
        parts = rng.choice([(known, strange), (strange, known), (known, strange, known), (known, known, strange)])
        word = "".join(rng.choice(p) for p in parts)
        shown = [" " + word.capitalize(), *forms(word, "names")]
        if all(partly_known(tokens, f) for f in shown) and not any(a in word for a in AVOID):
            out.add(word)
    return sorted(out)


def partly_known(tokens, text):
    """Whether nano knows some tokens of a text, but not all."""
    known = [bool(tokens.compact[i]) for i in tokens.text(text)]
    return any(known) and not all(known)


def writable(tokens, text):
    """Whether nano can write every token of a text."""
    return all(0 < tokens.compact[i] < tokens.written for i in tokens.text(text))


def make_names():
    """Names that nobody has: syllables in a fixed order, the same in every run."""
    rng = random.Random(7)
    starts, middles, ends = "b d f k l m n p r s t v z br dr tr".split(), "a e i o u".split(), "l n r x ra lo mi ka to".split()
    return [rng.choice(starts) + rng.choice(middles) + rng.choice(ends) for _ in range(160)]
