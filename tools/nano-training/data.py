"""Streams of packed rows for training: worker processes draw samples, encode them and fill rows of a fixed length."""

import multiprocessing
import queue
import random

import numpy as np

from dialogue import Maker, pieces
from invent import Words
from tokens import Tokens


class Gibberish:
    """Words that nano has no row for, from the whole vocabulary."""

    def __init__(self, tokens):
        texts = (tokens.enc.decode([i]) for i in range(0, 199_998, 3) if tokens.compact[i] == 0)
        self.words = [t[1:] for t in texts if len(t) > 3 and t[0] == " " and t[1:].isalpha() and t.isascii()]

    def __call__(self, rng):
        return rng.choice(self.words)


def encode(tokens, sample):
    """Compact (ids, targets) of a sample, target -1 where there is no loss; None where it needs an id nano cannot write."""
    ids, loss = tokens.pieces(pieces(*sample))
    ids = tokens.compact[np.array(ids)]
    target = np.full(len(ids), -1, np.int16)
    flags = np.array(loss[1:])
    target[:-1][flags] = ids[1:][flags]
    wanted = target[target != -1]
    if (wanted == 0).any() or (wanted >= tokens.written).any():
        return None
    return ids, target


def rows(tokens, maker, length):
    """Endless rows (ids, targets, document numbers, positions), each int16 [length]."""
    spare = []
    while True:
        row, used, doc = np.zeros((4, length), np.int16), 0, 0
        row[1], row[2] = -1, -1
        while True:
            while len(spare) < 32:
                new = encode(tokens, maker.sample())
                if new is not None and len(new[0]) <= length:
                    spare.append(new)
            fits = [i for i, s in enumerate(spare) if len(s[0]) <= length - used]
            if not fits:
                break
            # The oldest into a fresh row, so that none waits for ever; then the largest, so that little stays empty.
            ids, target = spare.pop(fits[0] if used < length // 2 else max(fits, key=lambda i: len(spare[i][0])))
            end = used + len(ids)
            row[0, used:end], row[1, used:end], row[2, used:end] = ids, target, doc
            row[3, used:end] = np.arange(len(ids))
            used, doc = end, doc + 1
        yield row


def work(batches, seed, batch, length):
    tokens = Tokens()
    maker = Maker(random.Random(seed), Words(tokens), gibberish=Gibberish(tokens))
    source = rows(tokens, maker, length)
    while True:
        batches.put(np.stack([next(source) for _ in range(batch)], 1))


class Stream:
    """Batches [4, batch, length] from `workers` processes, taken in turn so that a seed gives one order."""

    def __init__(self, workers, seed, batch, length):
        context = multiprocessing.get_context("spawn")
        self.queues = [context.Queue(6) for _ in range(workers)]
        self.processes = [context.Process(target=work, args=(q, f"{seed}-{i}", batch, length), daemon=True)
                          for i, q in enumerate(self.queues)]
        for p in self.processes:
            p.start()
        self.turn = 0

    def next(self):
        self.turn += 1
        i = self.turn % len(self.queues)
        while True:
            try:
                return self.queues[i].get(timeout=20)
            except queue.Empty:
                if not self.processes[i].is_alive():
                    self.close()
                    raise RuntimeError(f"worker {i}, which makes samples, has ended; its error is above") from None

    def waiting(self):
        """Batches that lie ready: zero means that training waits for data."""
        return sum(q.qsize() for q in self.queues)

    def close(self):
        for p in self.processes:
            p.terminate()
