"""o200k_harmony ids, and nano's compact numbering of the few thousand ids that it knows.

The ranks file (`o200k_base.tiktoken[.gz]`) is not in the repository: after `cargo fetch` it lies in the data folder of
the crate `bpe-openai`, which is where `find_ranks` looks.
"""

import base64
import glob
import gzip
import json
import os
import zlib

import numpy as np
import tiktoken

VOCAB = 201088
SPECIAL = {"<|startoftext|>": 199998, "<|endoftext|>": 199999, "<|return|>": 200002, "<|constrain|>": 200003,
           "<|channel|>": 200005, "<|start|>": 200006, "<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012}
# Splits a text where the tokenizer would not: a model may write `tac` letter by letter.
BREAK = "\x1f"
HERE = os.path.dirname(os.path.abspath(__file__))
# The split pattern of o200k, as published with the vocabulary (openai/tiktoken, `openai_public.py`).
_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERN = "|".join([
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CASE}", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CASE}",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def find_ranks():
    places = [os.environ.get("OSSMITH_O200K", ""), os.path.join(HERE, "ranks", "o200k_base.tiktoken.gz")]
    cargo = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    places += glob.glob(os.path.join(cargo, "registry/src/*/bpe-openai-*/data/o200k_base.tiktoken.gz"))
    for place in places:
        if place and os.path.exists(place):
            return place
    raise SystemExit("o200k ranks not found: run `cargo fetch`, or set OSSMITH_O200K to o200k_base.tiktoken[.gz]")


def encoder():
    path = find_ranks()
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        lines = [line.split() for line in f.read().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding("o200k", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


class Tokens:
    """Encodes pieces; with a vocabulary file, also to compact ids.

    Compact ids: 0 is every token without a row of its own, then the tokens nano writes (below `full` with rows of full precision,
    below `written` all), then those it only reads.
    """

    def __init__(self, vocab=os.path.join(HERE, "vocab.json")):
        self.enc, self.cache = encoder(), {}
        if vocab:
            with open(vocab) as f:
                v = json.load(f)
            self.ids = np.array([-1] + v["written"] + v["copied"] + v["read"], np.int64)
            self.full = 1 + len(v["written"])
            self.written = self.full + len(v["copied"])
            self.compact = np.zeros(VOCAB, np.int16)
            self.compact[self.ids[1:]] = np.arange(1, len(self.ids))

    def text(self, text):
        """Ids of ordinary text; short pieces repeat, so they are kept."""
        ids = self.cache.get(text)
        if ids is None:
            ids = [t for part in text.split(BREAK) if part for t in self.enc.encode_ordinary(part)]
            if len(text) < 40 and len(self.cache) < 200_000:
                self.cache[text] = ids
        return ids

    def pieces(self, pieces):
        """Pieces of `harmony.render` to (ids, loss flags)."""
        ids, loss = [], []
        for text, special, flag in pieces:
            new = [SPECIAL[text]] if special else self.text(text)
            ids += new
            loss += [flag] * len(new)
        return ids, loss

    def codes(self, width):
        """A code of plus and minus one for each compact id [ids, width], f32: a quarter for its form, the rest for its letters.

        ` cat`, `cat` and `_cat` differ in the form alone; numbers are made of the codes of their digits.
        """
        out = np.empty((len(self.ids), width), np.float32)
        for row, i in enumerate(self.ids):
            text = self.enc.decode_single_token_bytes(int(i)).decode(errors="replace") if 0 <= i < 199_998 else f"<{i}>"
            stem = text.lstrip(" _.")
            case = "upper" if stem.isupper() and len(stem) > 1 else "title" if stem[:1].isupper() else "lower"
            kind = f"{text[:len(text) - len(stem)]}|{case}"
            keys = [f"{place}|{d}" for place, d in zip("hto", stem.rjust(3), strict=True)] if stem.isdecimal() else [stem.lower()]
            begin, size = width // 4, (width - width // 4) // len(keys)
            for at, count, key in [(0, begin, kind)] + [(begin + n * size, size, k) for n, k in enumerate(keys)]:
                out[row, at:at + count] = np.random.default_rng(zlib.crc32(key.encode())).integers(0, 2, count) * 2 - 1
        return out

    def decode(self, ids):
        """Ids to text, special tokens by their names."""
        names = {v: k for k, v in SPECIAL.items()}
        out, run = [], []
        for i in [*ids, None]:
            if i is not None and i < 199998:
                run.append(int(i))
                continue
            out.append(self.enc.decode(run))
            run = []
            if i is not None:
                out.append(names.get(int(i), f"<|reserved_{i}|>"))
        return "".join(out)
