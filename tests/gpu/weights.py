#!/usr/bin/env python3
"""Pauses nano, puts it to sleep and changes its weights through a server that runs, and checks its answers on the way: what
sleeping and replaced weights do on a device is seen here.

    ossmith convert nano /tmp/nano
    ossmith serve nano --backend cuda --development --port 8000
    python3 tests/gpu/weights.py --port 8000 --weights /tmp/nano --out weights.json

The output has a line for each step: what was done, the seconds that it took, the answer, and the memory that `nvidia-smi` shows
as used, where there is one. The exit status is 1 if an answer is not what it must be. Needs nothing but Python.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--port", type=int, required=True)
    ap.add_argument("--weights", type=pathlib.Path, required=True, help="the folder of nano's weights")
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    lines, wrong = [], []

    def post(path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{a.port}{path}", json.dumps(body or {}).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ask(tokens=200):
        status, text = post("/v1/chat/completions", {
            "model": "nano", "temperature": 0, "max_tokens": tokens, "reasoning_effort": "low",
            "messages": [{"role": "user", "content": "What is 17 + 25?"}]})
        return json.loads(text)["choices"][0]["message"]["content"] if status == 200 else text

    def step(what, done, expected=None):
        begin = time.monotonic()
        result = done()
        seconds = round(time.monotonic() - begin, 4)
        lines.append({"step": what, "seconds": seconds, "result": result, "memory_mib": memory()})
        print(lines[-1], flush=True)
        if expected is not None and not expected(result):
            wrong.append(what)
        return result

    def done(result):
        return result[0] == 200

    before = step("answer", ask, lambda text: "42" in text)
    same = lambda text: text == before
    step("sleep at level 1", lambda: post("/sleep?level=1"), done)
    step("resume while it sleeps", lambda: post("/resume"), lambda result: result[0] >= 400 and "wake" in result[1])
    step("wake", lambda: post("/wake_up"), done)
    step("answer after level 1", ask, same)

    # A request that runs is kept, and ends as it would have.
    late = []
    thread = threading.Thread(target=lambda: late.append(ask()))
    step("pause", lambda: post("/pause?mode=keep"), done)
    thread.start()
    step("sleep while a request waits", lambda: post("/sleep?level=1&mode=keep"), done)
    step("wake again", lambda: post("/wake_up"), done)
    thread.join()
    step("answer that waited", lambda: late[0], same)

    with tempfile.TemporaryDirectory() as folder:
        update = pathlib.Path(folder) / "norm.safetensors"
        update.write_bytes(zero_norm(a.weights))
        step("zero the last norm", lambda: post("/update_weights", {"update_info": {"path": str(update)}}), done)
    step("answer without a norm", ask, lambda text: text != before)
    everything = lambda: post("/update_weights", {"update_info": {"path": str(a.weights)}})
    step("replace all weights", everything, done)
    step("answer after it", ask, same)

    step("sleep at level 2", lambda: post("/sleep?level=2"), done)
    step("wake without weights", lambda: post("/wake_up"), done)
    step("replace all weights again", everything, done)
    step("resume", lambda: post("/resume"), done)
    step("answer at last", ask, same)
    pathlib.Path(a.out).write_text("".join(json.dumps(line) + "\n" for line in lines))
    print("wrong:", wrong or "nothing")
    sys.exit(bool(wrong))


def zero_norm(weights):
    """A safetensors file with the last norm's scale alone, which is zero."""
    for path in sorted(weights.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        if norm := header.get("model.norm.weight"):
            start, end = norm["data_offsets"]
            header = json.dumps({"model.norm.weight": {**norm, "data_offsets": [0, end - start]}}).encode()
            return struct.pack("<Q", len(header)) + header + bytes(end - start)
    sys.exit(f"{weights}: no model.norm.weight")


def memory():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(query, capture_output=True, check=True, text=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


main()
