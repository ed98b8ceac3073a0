"""Trains nano: `python train.py --out FOLDER` on one GPU, `python train.py --smoke --out FOLDER` on a CPU in a minute.

Writes `nano.safetensors` (small form, see `export.py`), `scores.json`, `failures.txt`, `samples.txt`, `log.csv`, `curves.png`.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import time

import numpy as np
import torch

import evalset
from data import Stream, encode, rows
from dialogue import Maker
from export import load_small, save_small
from generate import complete
from model import Nano, Sizes
from optim import Optimiser
from samples import PROMPTS
from score import score, table
from tokens import HERE, VOCAB, Tokens

START = time.time()

def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--out", required=True)
    a.add_argument("--smoke", action="store_true", help="tiny, on a CPU: proves data, model, export")
    a.add_argument("--minutes", type=float, default=8.3, help="training ends so long after the start")
    a.add_argument("--steps", type=int, default=20_000, help="stop here if the time is not up")
    a.add_argument("--rows", type=int, default=64, help="rows a step")
    a.add_argument("--length", type=int, default=512, help="tokens a row")
    a.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    a.add_argument("--muon", type=float, default=0.02)
    a.add_argument("--adam", type=float, default=3e-3)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--start", help="a small file to go on from (weights only)")
    a.add_argument("--no-compile", action="store_true")
    return a.parse_args()


def schedule(progress):
    """Share of the learning rate: full for the first 35 %, then straight down to (nearly) nothing."""
    return 1.0 if progress < 0.35 else max(0.01, (1 - progress) / 0.65)


class LocalStream:
    """Batches without worker processes, for the smoke run."""

    def __init__(self, tokens, seed, batch, length):
        self.source, self.batch = rows(tokens, Maker(random.Random(seed)), length), batch

    def next(self):
        return np.stack([next(self.source) for _ in range(self.batch)], 1)

    def waiting(self):
        return 0

    def close(self):
        pass


def to_device(batch, device):
    batch = torch.from_numpy(batch)
    if device == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True).long().unbind(0)


def train(nano, stream, args, device, dtype):
    """The loop; returns the log's rows. The schedule goes by the clock since START, or by steps if they come first."""
    opt = Optimiser(nano, args.muon, args.adam)
    log, begin, seen, step = [], time.time(), 0, 0
    saved = begin
    while True:
        ids, target, doc, pos = to_device(stream.next(), device)
        loss, balance, hits = nano.loss(ids, target, doc, pos, dtype=dtype)
        (loss + 0.01 * balance).backward()
        progress = max(step / args.steps, (time.time() - START) / 60 / args.minutes)
        warm = min(1.0, (step + 1) / min(200, args.steps / 10))
        opt.step(schedule(progress) * warm, warm)
        opt.zero()
        step, seen = step + 1, seen + ids.numel()
        done = progress >= 1 or step >= args.steps
        if step % (10 if args.smoke else 50) == 1 or done:
            row = [step, round(time.time() - begin, 1), seen, loss.item(), hits.item(), balance.item(), stream.waiting()]
            log.append(row)
            if not np.isfinite(row[3]):
                raise SystemExit(f"loss is {row[3]} at step {step}")
            if len(log) % 10 == 1 or done or args.smoke:
                print("step {} {:.0f} s {} tokens loss {:.4f} right {:.4f} balance {:.3f} ready {}".format(*row), flush=True)
        if done:
            return log
        if time.time() - saved > 120:
            save_small(nano, os.path.join(args.out, "nano.safetensors"))
            saved = time.time()


def compiled(nano, stream, args, device, dtype):
    """Compiles the layer; where that fails the plain one stays, and the log says so."""
    if args.no_compile or device == "cpu":
        return
    plain, began = nano.layer, time.time()
    try:
        nano.layer = torch.compile(plain, dynamic=False)
        loss, balance, _ = nano.loss(*to_device(stream.next(), device), dtype=dtype)
        (loss + balance).backward()
        torch.cuda.synchronize()
        print(f"compiled in {time.time() - began:.0f} s", flush=True)
    except Exception as error:  # any failure of the compiler is survivable
        print(f"not compiled: {type(error).__name__}: {str(error)[:500]}", flush=True)
        nano.layer = plain
    nano.zero_grad(set_to_none=True)


def write_log(log, out):
    with open(os.path.join(out, "log.csv"), "w", newline="") as f:
        csv.writer(f).writerows([["step", "seconds", "tokens", "loss", "right", "balance", "ready"], *log])
    with contextlib.suppress(ImportError):
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        figure, axes = plt.subplots(1, 2, figsize=(10, 4))
        x = [r[2] / 1e6 for r in log]
        axes[0].semilogy(x, [r[3] for r in log])
        axes[0].set(xlabel="million tokens", ylabel="loss on assistant tokens")
        axes[1].semilogy(x, [max(1e-5, 1 - r[4]) for r in log])
        axes[1].set(xlabel="million tokens", ylabel="share of wrong tokens")
        figure.tight_layout()
        figure.savefig(os.path.join(out, "curves.png"), dpi=100)


def examine(nano, tokens, args, dtype):
    """Scores the evaluation, writes what went wrong and a few conversations of a newcomer."""
    cases = evalset.cases(tokens, scale=0.02) if args.smoke else evalset.load(os.path.join(HERE, "eval.jsonl"))
    began = time.time()
    limit = 16 if args.smoke else 220
    report, failures = score(cases, complete(nano, tokens, cases, limit, dtype=dtype))
    if not args.smoke:
        more = evalset.cases(tokens, "nano development", 4.0)
        report["development"], _ = score(more, complete(nano, tokens, more, limit, dtype=dtype))
        print("four times as many, another seed:\n" + table(report["development"]))
    print(f"evaluation took {time.time() - began:.0f} s\n" + table({k: v for k, v in report.items() if k != "development"}))
    with open(os.path.join(args.out, "scores.json"), "w") as f:
        json.dump(report, f, indent=1)
    with open(os.path.join(args.out, "failures.txt"), "w") as f:
        for case, text in failures:
            f.write(f"{json.dumps(case)}\n  {text!r}\n\n")
    prompts = PROMPTS[:2] if args.smoke else PROMPTS
    with open(os.path.join(args.out, "samples.txt"), "w") as f:
        for case, text in zip(prompts, complete(nano, tokens, prompts, limit, dtype=dtype), strict=True):
            note = f"{case['effort']}; {case.get('developer')}; tools {[t['name'] for t in case.get('tools') or []]}"
            f.write(f"[{note}] {case['messages'][-1]['content']}\n  {text}\n\n")


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() and not args.smoke else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    tokens = Tokens()
    if args.smoke:
        torch.set_num_threads(1)
        args.rows, args.length, args.steps, args.minutes = 4, 384, 30, 60
        sizes = Sizes(layers=2, hidden=128, inter=64, heads=4)
        stream = LocalStream(tokens, args.seed, args.rows, args.length)
    else:
        sizes = Sizes()
        stream = Stream(args.workers, args.seed, args.rows, args.length)
    others = VOCAB - (tokens.written - 1)
    nano = (load_small(args.start, device) if args.start else Nano(sizes, len(tokens.ids), tokens.written, others)).to(device)
    print(f"{sum(p.numel() for p in nano.parameters()):,} parameters, {len(tokens.ids)} ids, {tokens.written} written", flush=True)
    compiled(nano, stream, args, device, dtype)
    log = train(nano, stream, args, device, dtype)
    stream.close()
    save_small(nano, os.path.join(args.out, "nano.safetensors"))
    write_log(log, args.out)
    print(f"trained and saved {time.time() - START:.0f} s after the start", flush=True)
    examine(nano, tokens, args, dtype)


if __name__ == "__main__":
    main()
