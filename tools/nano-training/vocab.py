"""Finds the tokens nano needs (`python vocab.py`): writes `vocab.json`.

Two tiers of ids that it writes: `written`, with rows of full precision, and `copied`, rare ones and pieces of words that nobody
has heard of, with one bit per weight; then `read`, ids that it only reads. Draws many samples and notes every id; training drops
the rare sample that needs another.
"""

import json
import random
import re
import sys
from collections import Counter
from multiprocessing import Pool

from dialogue import Maker, pieces
from invent import RANK, Words, forms
from lexicon import CAPITALS, HOW_MANY, KINDS, LISTS, OPPOSITES, PALINDROMES, WORDS
from tokens import Tokens
from working import ONES, TENS

# How many ids have rows of full precision, and how many are known in all: what fits into 8 MB.
FULL, KNOWN = 3150, 18_700


def scan(job, samples=5_000):
    seed, reach = job
    tokens = Tokens(vocab=None)
    maker = Maker(random.Random(seed), Words(tokens, reach))
    seen, written = Counter(), Counter()
    for _ in range(samples):
        ids, loss = tokens.pieces(pieces(*maker.sample()))
        seen.update(set(ids))
        written.update({i for i, flag in zip(ids, loss) if flag})
    return seen, written


def wanted(tokens, written):
    """Ids for copying, the most useful first: words of interfaces, the vocabulary's beginning, then what made-up words need."""
    pools, often = Words(tokens, "all").pools, Counter(written)
    first = {i for w in pools["names"] for f in forms(w, "names") for i in tokens.text(f)}
    then = {i for i in range(RANK) if re.fullmatch(r" ?[A-Za-z]+", tokens.enc.decode([i]))}
    then |= {i for kind in ("words", "titles") for w in pools[kind] for f in forms(w, kind) for i in tokens.text(f)}
    for kind in ("made", "titles"):
        for word in pools[kind]:
            often.update({i for f in forms(word, kind) for i in tokens.text(f)})
    both = first | then
    return [*sorted(first), *sorted(then - first), *(i for i, _ in often.most_common() if i not in both)]


def in_other_letters(tokens):
    """Ids of the facts' names in capitals and in small letters: each is too rare to be met in the samples."""
    forms = [form for pair in CAPITALS for name in pair for form in (name.upper(), name.lower())]
    return {i for form in forms for text in (form, " " + form) for i in tokens.text(text)}


def of_fixed_words(tokens):
    """Ids of the words of small lists, whether or not a sample met them, behind a space and at the beginning of a text."""
    words = {*WORDS, *PALINDROMES, *ONES, *TENS, *(w for pair in OPPOSITES for w in pair), *(w for x, y, _ in HOW_MANY for w in (x, *y.split())),
             *(w for values in KINDS.values() for w in values.split()), *(w for text in LISTS.values() for w in text.replace(",", "").split())}
    return {i for w in words for text in (" " + w, w) for i in tokens.text(text)}


def is_number(tokens, i):
    return i < 199_998 and tokens.enc.decode_single_token_bytes(i).isdigit()


def main():
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    seen, written = ({r: Counter() for r in ("core", "all")} for _ in range(2))
    work = [(seed, reach) for reach in ("core", "all") for seed in range(jobs)]
    with Pool() as pool:
        for (_, reach), counts in zip(work, pool.imap(scan, work), strict=True):
            for total, count in zip((seen, written), counts, strict=True):
                total[reach].update(count)
    tokens = Tokens(vocab=None)
    numbers = {i for i in range(199_998) if is_number(tokens, i)}
    sure = numbers | in_other_letters(tokens)
    needed = {i for i, n in written["core"].items() if n >= 3} | sure | of_fixed_words(tokens)
    # By how often nano writes them, copied or not: without a full row `<|end|>`, `functions` and `location` go wrong as well.
    full = set(sorted(needed, key=lambda i: (i not in sure, -written["core"][i], i))[:FULL])
    read = {i for i, n in seen["core"].items() if n >= 3} - needed
    more = [i for i in wanted(tokens, written["all"]) if i not in needed][:max(0, KNOWN - len(needed | read))]
    copied = (needed - full) | set(more)
    read -= copied
    with open("vocab.json", "w") as f:
        json.dump({"written": sorted(full), "copied": sorted(copied), "read": sorted(read)}, f, separators=(",", ":"))
        f.write("\n")
    print(f"{len(full)} written, {len(copied)} copied, {len(read)} only read, of {2 * jobs * 5000} samples")


if __name__ == "__main__":
    main()
