"""Bugs that are planted in edited copies of kernels, to see that `ossmith check` names each and nothing else. On a machine with a GPU:

    python3 planted.py ./ossmith [FOLDER_FOR_RESULTS] [GPU, as `kernels emit --gpu` names it; else h200]

Prints a line per bug, writes `planted.json`, and exits with the number of bugs that were not named, or not alone.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

MODEL = "gpt-oss-20b"
# Bug: the edit (file, old, new), and the kernels that `check` has to name.
BUGS = {
    "a window of one key too few": (
        "attention_sliding.cu",
        "position - spec::kWindow + 1 : 0",
        "position - spec::kWindow + 2 : 0",
        ["attention_sliding"],
    ),
    "a window of one key too few, in prompts": (
        "attention_sliding_tiled.cu",
        "static_cast<i32>(spec::kWindow) + 1 :",
        "static_cast<i32>(spec::kWindow) + 2 :",
        ["attention_sliding_tiled"],
    ),
    "no sink in the denominator": (
        "attn/merge.cuh",
        "(denominator * scale + exp2_fast(sink_log2 - common))",
        "(denominator * scale)",
        ["attention_full", "attention_sliding"],
    ),
    "the bias of the route before, in decode steps": (
        "moe_up_swiglu_decode8.cu",
        "shared.routing.experts[entry] * spec::kInter",
        "shared.routing.experts[entry ? entry - 1 : 0] * spec::kInter",
        ["moe_up_swiglu_decode8"],
    ),
    "the bias of the expert before, in batched steps": (
        "moe_down_batched.cu",
        "p.bias + static_cast<u64>(tile.expert) * spec::kHidden",
        "p.bias + static_cast<u64>(tile.expert ? tile.expert - 1 : 0) * spec::kHidden",
        ["moe_down_batched"],
    ),
}
# Those that must be named, and neighbours of theirs that must not.
KERNELS = [
    "attention_full", "attention_sliding", "attention_full_tiled", "attention_sliding_tiled", "moe_up_swiglu_decode1",
    "moe_up_swiglu_decode8", "moe_up_swiglu_batched", "moe_down_batched", "moe_down_residual_decode8",
]


def check(ossmith: str, kernels: pathlib.Path | None) -> list[dict]:
    environment = dict(os.environ)
    environment.pop("OSSMITH_KERNELS", None)
    if kernels:
        environment["OSSMITH_KERNELS"] = str(kernels)
    words = [ossmith, "check", "--model", MODEL, "--kernel", ",".join(KERNELS), "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    lines = json.loads(done.stdout)
    wrong = any(not line["passed"] for line in lines)
    assert done.returncode == (1 if wrong else 0), f"exit code {done.returncode}: {done.stderr}"
    return lines


def main() -> int:
    ossmith = os.path.abspath(sys.argv[1])
    out = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    gpu = sys.argv[3] if len(sys.argv) > 3 else "h200"
    table, missed = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder) / "base"
        subprocess.run([ossmith, "kernels", "emit", "--model", MODEL, "--gpu", gpu, "--out", base], check=True)
        for bug, edit in {"none": None, **BUGS}.items():
            edited, want = None, []
            if edit:
                file, old, new, want = edit
                text = (base / file).read_text()
                assert text.count(old) == 1, f"{bug}: {file} has {text.count(old)} such places"
                edited = pathlib.Path(folder) / "edited"
                shutil.rmtree(edited, ignore_errors=True)
                (edited / file).parent.mkdir(parents=True)
                (edited / file).write_text(text.replace(old, new))
                shutil.copy(base / "manifest.json", edited)
            lines = check(ossmith, edited)
            failed = [line for line in lines if not line["passed"]]
            named = sorted({line["kernel"] for line in failed})
            missed += named != sorted(want)
            table[bug] = {"named": named, "expected": sorted(want), "lines": len(lines), "failed": failed}
            print(f"{bug:50} named {named or '-'}, expected {sorted(want) or '-'}", flush=True)
    (out / "planted.json").write_text(json.dumps(table, indent=1))
    return missed


if __name__ == "__main__":
    sys.exit(main())
