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
# How many letters of an entry its code spells, in nine signs each.
LETTERS = 8
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


def signs(key, count):
    """As many of plus and minus one, drawn by a text."""
    return np.random.default_rng(zlib.crc32(key.encode())).integers(0, 2, count) * 2 - 1


def code_parts(width):
    """How many signs of a code are for a token's form, and how many are its own; the rest are for letters."""
    form = width * 3 // 16
    return form, width - form - 9 * LETTERS


def copy_codes(codes):
    """The unembedding's codes of entries [ids, width]: what is their own stands again where letters were, since a like spelling misleads there."""
    form, own = code_parts(codes.shape[1])
    again = form + np.arange(9 * LETTERS) % own
    return codes[:, [*range(form + own), *again]]


def letter_codes():
    """32 codes of nine signs, any two of which differ in three or more: for `a` to `z` and the blank, by the last five bits."""
    words = []
    for word in range(512):
        if all((word ^ other).bit_count() >= 3 for other in words):
            words.append(word)
    return [np.array([1 if word >> bit & 1 else -1 for bit in range(9)]) for word in words[:32]]


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
        """Codes of plus and minus one for the rows of both tables, each [ids, width] f32: a token's form, then what it says.

        ` cat`, `cat` and `_cat` differ in the form alone. Numbers are made of the codes of their digits. Of other entries the last part
        spells the first letters, so that nano can spell, sort and reverse words that it was never taught; the part before is their own.
        """
        (form, own), letters = code_parts(width), letter_codes()
        read = np.ones((len(self.ids), width), np.float32)
        write = read.copy()
        for row, i in enumerate(self.ids):
            text = self.enc.decode_single_token_bytes(int(i)).decode(errors="replace") if 0 <= i < 199_998 else f"<{i}>"
            stem = text.lstrip(" _.")
            case = "upper" if stem.isupper() and len(stem) > 1 else "title" if stem[:1].isupper() else "lower"
            parts = [signs(f"{text[:len(text) - len(stem)]}|{case}", form)]
            if stem.isdecimal():
                parts += [signs(f"{place}|{d}", (width - form) // 3) for place, d in zip("hto", stem.rjust(3), strict=True)]
            else:
                parts += [signs(stem.lower(), own)] + [letters[ord(c) % 32] for c in stem.lower().ljust(LETTERS)[:LETTERS]]
            code = np.concatenate(parts)
            read[row, :len(code)] = code
            write[row] = read[row] if stem.isdecimal() else copy_codes(read[row:row + 1])[0]
        return read, write

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
