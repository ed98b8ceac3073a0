#!/usr/bin/env python3
"""Runs `ossmith logits` and greedy generation on every fixture and compares with the stored references.

    python3 gpu/fixtures.py --ossmith ./ossmith --backend cuda --out out
    python3 gpu/fixtures.py --ossmith ./ossmith --backend cpu --profile f32 --out out

Needs numpy. One line a case; the exit code is 1 if any bound of check_logits.py's profile is exceeded.
"""
import argparse
import json
import os
import subprocess
import sys

WAYS = {"one shot": [], "chunk 1": ["--chunk", "1"], "chunk 7": ["--chunk", "7"], "chunk 64": ["--chunk", "64"],
        "chunk 100": ["--chunk", "100"], "chunk 500": ["--chunk", "500"], "step": ["--step"]}
# A token at a time is slow on the 4,481 tokens of deep-rope, and adds nothing to what window shows.
SLOW = {("deep-rope", "chunk 1"), ("deep-rope", "step")}
# bf16 drifts less where a window or a long context averages it out.
BF16 = {"tiny": "bf16", "tiny/original": "bf16", "odd": "bf16", "window": "bf16-long", "deep-rope": "bf16-long"}


def call(words):
    done = subprocess.run(words, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip().splitlines()[-1:]


def verdict(expected, actual, profile, bounds):
    """One line and whether it is within the profile's bounds."""
    exp, act = expected["logits"], actual["logits"][expected["positions"]]
    res = bounds.compare(exp, act, bounds.PROFILES[profile]["margin"])
    p = bounds.PROFILES[profile]
    good = res["finite"] and res["rel_l2"] <= p["rel_l2"] and res["kl_mean"] <= p["kl"] and res["top1_clear"] >= p["top1"]
    return good, f"rel_l2 {res['rel_l2']:.2e}  KL {res['kl_mean']:.1e}  top-1 {res['top1']:.3f}  ({profile})"


def greedy(a, folder, expected, tokens):
    """The stored continuation, through the engine."""
    want = expected["greedy_tokens"].tolist()
    words = [a.ossmith, "generate", "--model", folder, "--backend", a.backend, "--prompt-ids", tokens, "--temperature", "0",
             "--max-tokens", str(len(want)), "--ignore-eos", "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        return False, (done.stderr or done.stdout).strip().splitlines()[-1:]
    got = json.loads(done.stdout)["token_ids"]
    return got == want, f"{sum(g == w for g, w in zip(got, want))} of {len(want)} tokens equal"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--ossmith", default="./ossmith")
    ap.add_argument("--fixtures", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures"))
    ap.add_argument("--backend", choices=["cpu", "cuda"], default="cuda")
    ap.add_argument("--profile", help="bounds for every fixture (default: bf16, tighter on long ones)")
    ap.add_argument("--only", help="one fixture, such as tiny")
    ap.add_argument("--prepare", action="store_true", help="only write OUT/<fixture>.tokens.json")
    ap.add_argument("--out", default="out")
    a = ap.parse_args()
    sys.path.insert(0, a.fixtures)
    import check_logits as bounds
    from checkpoint import load_safetensors
    os.makedirs(a.out, exist_ok=True)
    failed = 0
    for name, profile in BF16.items():
        if a.only and a.only != name:
            continue
        folder = os.path.join(a.fixtures, name)
        expected = load_safetensors(os.path.join(a.fixtures, name.split("/")[0], "expected.safetensors"))
        stem = os.path.join(a.out, name.replace("/", "-"))
        with open(stem + ".tokens.json", "w") as f:
            json.dump(expected["input_ids"].tolist(), f)
        if a.prepare:
            continue
        for way, flags in WAYS.items():
            if (name, way) in SLOW or way == "chunk 500" and expected["input_ids"].size <= 500:
                continue
            out = stem + ".safetensors"
            wrong = call([a.ossmith, "logits", "--model", folder, "--tokens", stem + ".tokens.json", "--out", out,
                          "--backend", a.backend, *flags])
            good, text = (False, wrong) if wrong is not None else verdict(
                expected, load_safetensors(out), a.profile or profile, bounds)
            failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {name:14} {way:10} {text}", flush=True)
        good, text = greedy(a, folder, expected, stem + ".tokens.json")
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {name:14} greedy     {text}", flush=True)
    print(f"{failed} failed" if failed else "all within bounds")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
