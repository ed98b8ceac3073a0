"""Trains nano: `python train.py --out FOLDER` on one GPU, `python train.py --smoke --out FOLDER` on a CPU in a minute.

Writes `nano.safetensors` (small form, see `export.py`), `scores.json`, `failures.txt`, `samples.txt`, `log.csv`, `curves.png`.
"""

import argparse
import contextlib
import csv
import json
import math
import os
import random
import time

import numpy as np
import torch

import evalset
from data import Stream, rows
from dialogue import Maker
from export import load_small, save_small
from generate import complete
from invent import Words
from model import Nano, Sizes
from optim import Optimiser
from samples import PROMPTS
from score import score, table
from tokens import VOCAB, Tokens

START = time.time()


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--out", required=True)
    a.add_argument("--smoke", action="store_true", help="tiny, on a CPU: proves data, model, export")
    a.add_argument("--minutes", type=float, default=11.6, help="training alone; start and evaluation take one more")
    a.add_argument("--pause", type=float, help="stop after so many minutes of training and leave `state.pt` for --resume")
    a.add_argument("--resume", help="a `state.pt` to go on from, as if there had been no pause")
    a.add_argument("--steps", type=int, default=60_000, help="stop here if the time is not up")
    a.add_argument("--rows", type=int, default=40, help="rows per step")
    a.add_argument("--length", type=int, default=768, help="tokens per row")
    a.add_argument("--goals", type=float, default=0.33, help="room for targets, as a share of all tokens")
    a.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    a.add_argument("--muon", type=float, default=0.005)
    a.add_argument("--adam", type=float, default=1.5e-3)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--start", help="a small file to go on from (weights only)")
    a.add_argument("--no-compile", action="store_true")
    a.add_argument("--no-graph", action="store_true", help="launch each kernel of a step by itself")
    a.add_argument("--no-flash", action="store_true", help="attention by mask")
    a.add_argument("--profile", action="store_true", help="time steps, print the slowest kernels, and stop")
    return a.parse_args()


def schedule(progress):
    """Share of the learning rate: full for the first tenth, then straight down to (nearly) nothing."""
    return 1.0 if progress < 0.1 else max(0.01, (1 - progress) / 0.9)


def whole_state(stepper):
    """Every tensor that training changes, by name."""
    adam = stepper.opt.adam.state_dict()["state"]
    return ({f"nano.{k}": v for k, v in stepper.nano.state_dict().items()} | {f"muon.{i}": m for i, m in enumerate(stepper.opt.muon.state)}
            | {f"adam.{i}.{k}": v for i, s in adam.items() for k, v in s.items()})


def save_state(stepper, log, path):
    torch.save({"tensors": whole_state(stepper), "log": log}, path)
    print(f"paused {time.time() - START:.0f} s after the start; the state is in {path}", flush=True)


def load_state(stepper, path):
    """Copies a saved state over the tensors that stand (a captured graph holds their addresses); returns the log so far."""
    saved = torch.load(path, weights_only=True)
    if not stepper.opt.adam.state:  # on a CPU nothing has made it yet
        stepper.opt.set(0.0, 0.0)
        stepper.run()
    tensors = whole_state(stepper)
    if tensors.keys() != saved["tensors"].keys():
        raise SystemExit(f"{path} is the state of another model: {sorted(tensors.keys() ^ saved['tensors'].keys())[:5]}")
    with torch.no_grad():
        for name, t in tensors.items():
            t.copy_(saved["tensors"][name])
    return saved["log"]


class LocalStream:
    """Batches without worker processes, for the smoke run."""

    def __init__(self, tokens, seed, batch, length):
        self.source, self.batch = rows(tokens, Maker(random.Random(seed), Words(tokens)), length), batch

    def next(self):
        return np.stack([next(self.source) for _ in range(self.batch)], 1)

    def waiting(self):
        return 0

    def close(self):
        pass


class Stepper:
    """One training step over fixed buffers: as a CUDA graph where that works, so that launches cost nothing."""

    def __init__(self, nano, args, device, dtype):
        self.nano, self.dtype = nano, dtype
        self.opt = Optimiser(nano, args.muon, args.adam)
        self.data = torch.zeros(3, args.rows, args.length, dtype=torch.int16, device=device)
        self.goals = torch.zeros(2, int(args.rows * args.length * args.goals), dtype=torch.int32, device=device)
        # Where documents begin, with room for twelve a row.
        self.starts = torch.zeros(12 * args.rows + 1, dtype=torch.int32, device=device)
        self.flash = device == "cuda" and not args.no_flash
        self.graph = self.out = None

    def put(self, batch):
        """A batch [ids, targets, documents, positions]: positions with a target go into a list of fixed length."""
        target = batch[1].reshape(-1)
        where = np.flatnonzero(target >= 0)[:self.goals.shape[1]]
        goals = np.zeros(self.goals.shape, np.int32)
        goals[1] = -100
        goals[:, :len(where)] = where, target[where]
        self.data.copy_(torch.from_numpy(np.ascontiguousarray(batch[[0, 2, 3]])))
        self.goals.copy_(torch.from_numpy(goals))
        begins = np.ones(batch[2].shape, bool)
        begins[:, 1:] = batch[2][:, 1:] != batch[2][:, :-1]
        starts = np.full(self.starts.shape, target.size, np.int32)
        begins = np.flatnonzero(begins)
        starts[:len(begins)] = begins
        self.starts.copy_(torch.from_numpy(starts))

    def compute(self):
        ids, doc, pos = self.data.long().unbind(0)
        where, goal = self.goals.long().unbind(0)
        starts = self.starts if self.flash else None
        loss, balance, hits = self.nano.loss(ids, doc, pos, where, goal, starts, dtype=self.dtype)
        (loss + 0.01 * balance).backward()
        self.opt.step()
        return torch.stack([loss.detach(), hits.detach().float(), balance.detach()])

    def run(self):
        """A step; its loss, share right and balance as a tensor."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self.out = self.compute()
            self.opt.zero()
        return self.out

    def compare(self):
        """Whether flash attention gives the loss and the gradients that attention by mask gives."""
        found = []
        for flash in (False, True):
            self.flash = flash
            ids, doc, pos = self.data.long().unbind(0)
            loss, *_ = self.nano.loss(ids, doc, pos, *self.goals.long().unbind(0), self.starts if flash else None, dtype=self.dtype)
            loss.backward()
            found.append([loss.detach(), *(self.nano.p[k].grad.clone() for k in ("qkv", "sinks"))])
            self.opt.zero()
        gaps = [((b - a).norm() / a.norm()).item() for a, b in zip(*found, strict=True)]
        print("flash attention differs in loss, qkv, sinks by", " ".join(f"{g:.1e}" for g in gaps), flush=True)
        if not max(gaps) < 0.05:
            raise RuntimeError("flash attention is wrong here")

    def capture(self):
        """Turns further steps into replays."""
        self.opt.set(0.0, 0.0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.out = self.compute()
        self.graph = graph


def train(stepper, stream, args, log):
    """The loop: adds rows to the log, and says whether training is over. The schedule goes by the clock, or by steps if they come first."""
    step, spent, seen = log[-1][:3] if log else (0, 0.0, 0)
    begin, saved = time.time() - spent, time.time()
    stop = spent + 60 * args.pause if args.pause else math.inf
    while True:
        batch = stream.next()
        clock = time.time() - begin
        progress = max(step / args.steps, clock / 60 / args.minutes)
        warm = min(1.0, (step + 1) / min(200, args.steps / 10))
        stepper.put(batch)
        stepper.opt.set(schedule(progress) * warm, warm)
        out = stepper.run()
        step, seen = step + 1, seen + batch[0].size
        done = progress >= 1 or step >= args.steps
        pause = clock >= stop
        if step % (10 if args.smoke else 50) == 1 or done or pause:
            row = [step, round(time.time() - begin, 1), seen, *out.tolist(), stream.waiting()]
            log.append(row)
            if not np.isfinite(row[3]):
                raise SystemExit(f"loss is {row[3]} at step {step}")
            if len(log) % 10 == 1 or done or args.smoke:
                print("step {} {:.0f} s {} tokens loss {:.4f} right {:.4f} balance {:.3f} ready {}".format(*row), flush=True)
        if done or pause:
            return done
        if time.time() - saved > 120:
            save_small(stepper.nano, os.path.join(args.out, "nano.safetensors"))
            saved = time.time()


def prepare(stepper, stream, args, device):
    """Compiles and captures; where that fails the plain step stays, and the log reports it."""
    nano, began = stepper.nano, time.time()
    stepper.put(stream.next())
    if device == "cpu":
        return
    if stepper.flash:
        try:
            stepper.compare()
        except Exception as error:
            print(f"no flash attention: {type(error).__name__}: {str(error)[:500]}", flush=True)
            stepper.flash = False
            stepper.opt.zero()
    plain = nano.before, nano.after, nano.head
    try:
        if not args.no_compile:
            nano.before, nano.after, nano.head = (torch.compile(f, dynamic=False) for f in plain)
        stepper.opt.set(0.0, 0.0)
        stepper.run()
        torch.cuda.synchronize()
        print(f"compiled in {time.time() - began:.0f} s", flush=True)
    except Exception as error:  # any failure of the compiler is survivable
        print(f"not compiled: {type(error).__name__}: {str(error)[:500]}", flush=True)
        nano.before, nano.after, nano.head = plain
        stepper.opt.zero()
    if args.profile:
        profile(stepper, "launched one by one")
    if not args.no_graph:
        try:
            stepper.capture()
            print(f"captured after {time.time() - began:.0f} s", flush=True)
        except Exception as error:
            print(f"not captured: {type(error).__name__}: {str(error)[:500]}", flush=True)
            stepper.opt.zero()
    if args.profile:
        profile(stepper, "as a graph" if stepper.graph else "still one by one")


def profile(stepper, what):
    """Milliseconds a step, and where they go."""
    for _ in range(3):
        stepper.run()
    torch.cuda.synchronize()
    began = time.time()
    for _ in range(20):
        stepper.run()
    torch.cuda.synchronize()
    print(f"{what}: {(time.time() - began) * 50:.2f} ms per step", flush=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        for _ in range(2):
            stepper.run()
        torch.cuda.synchronize()
    print(p.key_averages().table(sort_by="self_cuda_time_total", row_limit=22, max_name_column_width=90), flush=True)


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
    """Scores the evaluation, writes what went wrong and a few conversations of a newcomer; then scores more questions from another seed."""
    cases = evalset.cases(tokens, scale=0.02) if args.smoke else evalset.load(evalset.COMMITTED)
    limit = 16 if args.smoke else 400
    report, failures = score(cases, complete(nano, tokens, cases, limit, dtype=dtype))
    print(f"evaluated {time.time() - START:.0f} s after the start\n" + table(report), flush=True)
    write_scores(report, args.out)
    with open(os.path.join(args.out, "failures.txt"), "w") as f:
        for case, text in failures:
            f.write(f"{json.dumps(case)}\n  {text!r}\n\n")
    prompts = PROMPTS[:2] if args.smoke else PROMPTS
    with open(os.path.join(args.out, "samples.txt"), "w") as f:
        for case, text in zip(prompts, complete(nano, tokens, prompts, limit, dtype=dtype), strict=True):
            note = f"{case['effort']}; {case.get('developer')}; tools {[t['name'] for t in case.get('tools') or []]}"
            f.write(f"[{note}] {case['messages'][-1]['content']}\n  {text}\n\n")
    if not args.smoke:
        more = evalset.cases(tokens, "nano development", 4.0)
        report["development"], _ = score(more, complete(nano, tokens, more, limit, dtype=dtype))
        print("four times as many, another seed:\n" + table(report["development"]), flush=True)
        write_scores(report, args.out)


def write_scores(report, out):
    with open(os.path.join(out, "scores.json"), "w") as f:
        json.dump(report, f, indent=1)


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
        args.rows, args.length, args.goals, args.steps, args.minutes = 4, 384, 0.5, 30, 60
        sizes = Sizes(layers=2, hidden=128, inter=64, heads=4)
        stream = LocalStream(tokens, args.seed, args.rows, args.length)
    else:
        sizes = Sizes()
        # Other data after a pause than before it.
        seed = f"{args.seed} again" if args.resume else args.seed
        stream = Stream(args.workers, seed, args.rows, args.length)
    others = VOCAB - (tokens.written - 1)
    if args.start:
        nano = load_small(args.start, device)
    else:
        nano = Nano(sizes, [torch.from_numpy(c) for c in tokens.codes(sizes.hidden)], tokens.full, tokens.written, others).to(device)
    print(f"{sum(p.numel() for p in nano.parameters()):,} parameters, {len(tokens.ids)} ids, {tokens.written} written", flush=True)
    stepper = Stepper(nano, args, device, dtype)
    prepare(stepper, stream, args, device)
    if args.profile:
        return
    log = load_state(stepper, args.resume) if args.resume else []
    done = train(stepper, stream, args, log)
    stream.close()
    save_small(nano, os.path.join(args.out, "nano.safetensors"))
    write_log(log, args.out)
    if not done:
        save_state(stepper, log, os.path.join(args.out, "state.pt"))
        return
    print(f"trained and saved {time.time() - START:.0f} s after the start", flush=True)
    examine(nano, tokens, args, dtype)


if __name__ == "__main__":
    main()
