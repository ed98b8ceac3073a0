"""Words that nano only copies: names of tools and parameters, values, people and places nobody has heard of.

Four pools: `names` (words of which interfaces are made), `words` (short entries from the beginning of the vocabulary), `made`
and `titles` (syllables put together). Most of their tokens are in the copy tier of `vocab.json`; a pool keeps what nano can write.
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
RANK = 6000
# Words and made-up words that a program had better not say.
AVOID = set("anal sex sexual porn die dead death kill suicide rape nazi god damn hell shit fuck ass bitch jizz jism coon spic spick "
            "dick prick slut twat crap piss krap".split())


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
    """How a word may stand in a text: in a sentence, in JSON, in a function's name."""
    return [" " + word, word] + (["_" + word, "." + word] if kind in ("names", "made") else [])


class Words:
    """The pools. `reach` is "known" (words whose tokens nano has), "all" (to choose the tokens) or "core" (no pools)."""

    def __init__(self, tokens, reach="known", test=False):
        self.pools = {"names": [*VERBS, *FIELDS, *THINGS], "words": list(WORDS), "made": [], "titles": []}
        if reach != "core":
            rng = random.Random(5)
            pools = {"names": sorted(set(NAME_WORDS)), "words": ranked(tokens),
                     "made": sorted({invented(rng) for _ in range(6000)} - AVOID),
                     "titles": sorted({invented(rng).capitalize() for _ in range(2500)})}
            for kind, words in pools.items():
                self.pools[kind] += [w for w in words if reach == "all" or all(writable(tokens, f) for f in forms(w, kind))]
        # Made-up words of the evaluation are kept from training.
        for kind, spare in (("made", make_names()), ("titles", [n.capitalize() for n in make_names()])):
            self.pools[kind] = [w for w in self.pools[kind] if (zlib.crc32(w.encode()) % 10 == 0) == test] or spare

    def value(self, rng):
        """A word in small letters."""
        return rng.choice(self.pools[rng.choices(["words", "made", "names"], [6, 2, 2])[0]])

    def title(self, rng):
        """A name with a capital."""
        return rng.choice(self.pools["titles"])

    def part(self, rng):
        """A part of an identifier."""
        return rng.choice(self.pools[rng.choices(["names", "made", "words"], [7, 2, 1])[0]])


def ranked(tokens):
    """Short lower-case words that are one token with and without a space before them."""
    out = []
    for i in range(RANK):
        text = tokens.enc.decode([i])
        if re.fullmatch(r" [a-z]{3,10}", text) and text[1:] not in AVOID and len(tokens.text(text[1:])) == 1:
            out.append(text[1:])
    return out


def writable(tokens, text):
    """Whether nano can write every token of a text."""
    return all(0 < tokens.compact[i] < tokens.written for i in tokens.text(text))


def make_names():
    """Names that nobody has: syllables in a fixed order, the same in every run."""
    rng = random.Random(7)
    starts, middles, ends = "b d f k l m n p r s t v z br dr tr".split(), "a e i o u".split(), "l n r x ra lo mi ka to".split()
    return [rng.choice(starts) + rng.choice(middles) + rng.choice(ends) for _ in range(160)]
