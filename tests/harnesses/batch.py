"""`ossmith run-batch` beside a server that is sent the same requests one by one: the same order, the same bytes.

    python batch.py OSSMITH [--lines 1000]

Ids and times are those of an answer, and `cached_tokens` depends on what ran before; everything else must be equal, byte by byte.
Prints a line; exits with 1 if anything differs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from server import COMMON, Server

WORDS = ["pear", "fig", "plum", "apple", "kiwi", "lime", "date", "melon"]
NAMES = ["Alice", "Bob", "Carol", "Dave"]
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": {
    "type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"], "additionalProperties": False}}}
OF_AN_ANSWER = re.compile(r'"(id|created|created_at|completed_at|cached_tokens)":("[^"]*"|\d+|null)')
MAX_TOKENS = 60


def request(index):
    """The url and body of a line. Every line is greedy or has a seed, so its answer is determined."""
    question = f"What is {3 + index % 90} + {25 + index // 90}?"
    words = " ".join(WORDS[(index + step * 3) % len(WORDS)] for step in range(3))
    chat = lambda text, **more: ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": MAX_TOKENS, **more})
    seeded = {"temperature": 1.0, "seed": index}
    kinds = [
        lambda: chat(question, temperature=0),
        lambda: chat(f"Sort these words: {words}", **seeded, top_p=0.95),
        lambda: ("/v1/responses", {"input": f"My name is {NAMES[index % 4]}. {question}", "max_output_tokens": MAX_TOKENS, "store": False, **seeded}),
        lambda: ("/v1/responses", {"input": question, "max_output_tokens": MAX_TOKENS, "store": False, "temperature": 0}),
        lambda: ("/v1/completions", {"prompt": question, "max_tokens": 16, "logprobs": 3, **seeded}),
        lambda: ("/v1/completions", {"prompt": [[1, 2, 3 + index], [200006, 1428, 200008, 5 + index]], "max_tokens": 9, "n": 2, **seeded}),
        lambda: chat("What is the weather in Paris?", tools=[WEATHER], **seeded),
        lambda: chat(question, response_format=SCHEMA, logprobs=True, top_logprobs=2, **seeded),
        # One that is refused.
        lambda: chat(question, temperature=7),
    ]
    url, body = kinds[index % len(kinds)]()
    return url, {"model": "nano", **body}


def lines(count):
    for index in range(count):
        url, body = request(index)
        yield {"custom_id": f"line {index}", "method": "POST", "url": url, "body": body}


def body_of(line):
    """The text of the body in a line of results."""
    return line[line.index('"body":') + len('"body":') : line.rindex('},"error":')]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("ossmith")
    parser.add_argument("--lines", type=int, default=1000)
    args = parser.parse_args()
    given = list(lines(args.lines))
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        source.write_text("".join(json.dumps(line) + "\n" for line in given), "utf-8")
        done = subprocess.run([args.ossmith, "run-batch", "-i", source, "-o", output, *COMMON], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"FAILED: run-batch exits with {done.returncode}: {done.stderr}")
            return 1
        results = output.read_text("utf-8").splitlines()
    failures = []
    if [json.loads(line)["custom_id"] for line in results] != [line["custom_id"] for line in given]:
        failures.append(f"{len(results)} results are not those of {len(given)} lines, in their order")
    statuses, size = Counter(), 0
    with Server(args.ossmith) as server:
        for line, result in zip(given, results):
            status, alone = server.text(line["url"], line["body"])
            found = json.loads(result)["response"]["status_code"]
            statuses[found] += 1
            want, have = OF_AN_ANSWER.sub("", alone), OF_AN_ANSWER.sub("", body_of(result))
            size += len(have)
            if (status, want) != (found, have):
                failures.append(f"{line}\nalone {status}: {want}\nbatch {found}: {have}")
    refused = sum(line["body"].get("temperature") == 7 for line in given)
    if statuses != {200: len(given) - refused, 400: refused}:
        failures.append(f"the statuses are {dict(statuses)}, and {refused} lines are to be refused")
    want = f"{statuses[200]} of {len(given)} requests answered, {statuses[400]} refused"
    if want not in done.stderr:
        failures.append(f"the command reports {done.stderr!r}, not {want!r}")
    for failure in failures[:5]:
        print(f"FAILED: {failure}")
    equal = len(given) - len(failures)
    print(f"{'FAILED' if failures else 'ok'} run-batch: {equal} of {len(given)} lines equal ({size} bytes), statuses {dict(statuses)}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
