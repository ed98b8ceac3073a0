"""Finds the tokens nano needs (`python vocab.py`): writes `vocab.json`, the ids it writes and the ids it only reads.

Draws many samples without unknown words and notes every id. Training drops the rare sample that needs another.
"""

import json
import random
import sys
from collections import Counter
from multiprocessing import Pool

from dialogue import Maker, pieces
from tokens import Tokens


def scan(seed, samples=10_000):
    tokens, maker = Tokens(vocab=None), Maker(random.Random(seed))
    seen, written = Counter(), Counter()
    for _ in range(samples):
        ids, loss = tokens.pieces(pieces(*maker.sample()))
        seen.update(set(ids))
        written.update({i for i, flag in zip(ids, loss) if flag})
    return seen, written


def main():
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    seen, written = Counter(), Counter()
    with Pool() as pool:
        for s, w in pool.imap_unordered(scan, range(jobs)):
            seen.update(s)
            written.update(w)
    known = {i for i, n in seen.items() if n >= 3}
    out = {"written": sorted(i for i, n in written.items() if n >= 3)}
    out["read"] = sorted(known - set(out["written"]))
    with open("vocab.json", "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")
    print(f"{len(out['written'])} written, {len(out['read'])} only read, of {jobs * 10_000} samples")


if __name__ == "__main__":
    main()
