"""A request set like MLPerf's for gpt-oss, sent as the backends of its reference client send it: every answer has the number of
tokens that it counts, within the limit, and lists are answered in their order.

    python mlperf.py OSSMITH [--lines 1000] [--write FILE]

A line of the set is a prompt as token ids and as text, with the columns `input_tokens`, `num_tokens` and `text_input` of MLPerf's
files; sampling and limit are those of its performance runs. `--write` keeps the set as JSON lines, for the reference client itself.
Prints a line per route; exits with 1 if one failed.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import Server

# Of the reference client: its requests at a time, and `max_output_len`, `temperature`, `top_k`, `top_p` of performance runs.
CONCURRENCY = 128
LIMIT = 10240
SAMPLING = {"temperature": 1.0, "top_p": 1.0}
# What its backends send first, to see whether the server answers. It is greedy.
PROBE = {"temperature": 0.001, "top_k": 1, "top_p": 1.0}
# <|return|>, <|call|> and the end of a text.
STOPS = {200002, 200012, 199999}
# Lists are sent in parts of this many prompts.
LIST = 250


def request_set(server, count):
    """The set's lines. Every 5th has the high effort of the accuracy set."""

    def line(index):
        text = f"What is {3 + index % 90} + {25 + index // 90}?"
        if index % 3 == 1:
            text = f"My name is Alice. {text} And what is my name?"
        effort = "high" if index % 5 == 4 else "low"
        ids = server.json("/tokenize", {"messages": [{"role": "user", "content": text}], "reasoning_effort": effort})["tokens"]
        return {"input_tokens": ids, "num_tokens": len(ids), "text_input": server.json("/detokenize", {"tokens": ids})["prompt"]}

    return [line(index) for index in range(count)]


def native(line, sampling, **more):
    return {"input_ids": line["input_tokens"], "sampling_params": {"max_new_tokens": LIMIT, **sampling}, **more}


def check_native(line, part, ids):
    """An answer of /generate with these ids."""
    about = part["meta_info"]
    assert about["prompt_tokens"] == line["num_tokens"], about
    assert about["completion_tokens"] == len(ids), (about, ids)
    check_end(line, ids, about["finish_reason"]["type"])


def check_end(line, ids, reason):
    """A stop token stands at the end alone, or the answer is as long as it may be."""
    assert not STOPS & set(ids[:-1]), ids
    assert reason == ("stop" if ids[-1] in STOPS else "length"), (reason, ids)
    assert reason == "stop" or len(ids) == LIMIT, (line, len(ids))


def whole(server, line):
    part = server.json("/generate", native(line, {**SAMPLING, "top_k": -1}))
    check_native(line, part, part["output_ids"])
    return len(part["output_ids"])


def streamed(server, line):
    """Read as the client's server scenario does: by `completion_tokens` of all so far, until there is a reason to finish."""
    ids, ended = [], False
    for part in server.events("/generate", native(line, {**SAMPLING, "top_k": 0}, stream=True)):
        assert not ended, "a chunk after the last"
        new = part["meta_info"]["completion_tokens"] - len(ids)
        assert 0 < new <= len(part["output_ids"]), part
        ids += part["output_ids"][-new:]
        ended = part["meta_info"]["finish_reason"] is not None
    assert ended, "no chunk was the last"
    check_native(line, part, ids)
    return len(ids)


def completion(server, line, prompt):
    body = {"prompt": prompt, "max_tokens": LIMIT, **SAMPLING, "top_k": -1, "stop": [], "return_token_ids": True}
    answer = server.json("/v1/completions", body)
    usage, (choice,) = answer["usage"], answer["choices"]
    assert usage["prompt_tokens"] == line["num_tokens"], usage
    assert usage["completion_tokens"] == len(choice["token_ids"]), (usage, choice)
    check_end(line, choice["token_ids"], choice["finish_reason"])
    return usage["completion_tokens"]


def by_text(server, line):
    return completion(server, line, line["text_input"])


def by_ids(server, line):
    return completion(server, line, line["input_tokens"])


def in_lists(server, lines):
    """Lists of prompts, greedily: answers in the order of the prompts, each as if it had been sent alone. The number of tokens."""

    def alone(line):
        return server.json("/generate", native(line, PROBE))["output_ids"]

    with ThreadPoolExecutor(CONCURRENCY) as threads:
        want = list(threads.map(alone, lines))
    for start in range(0, len(lines), LIST):
        part, expected = lines[start : start + LIST], want[start : start + LIST]
        prompts = [line["input_tokens"] for line in part]
        parts = server.json("/generate", {"input_ids": prompts, "sampling_params": {"max_new_tokens": LIMIT, **PROBE}})
        assert [one["index"] for one in parts] == list(range(len(part)))
        assert [one["output_ids"] for one in parts] == expected
        for line, one in zip(part, parts):
            check_native(line, one, one["output_ids"])
        answer = server.json("/v1/completions", {"prompt": prompts, "max_tokens": LIMIT, **PROBE, "stop": [], "return_token_ids": True})
        choices = answer["choices"]
        assert [choice["index"] for choice in choices] == list(range(len(part)))
        assert [choice["token_ids"] for choice in choices] == expected
        assert answer["usage"]["completion_tokens"] == sum(map(len, expected)), answer["usage"]
        assert answer["usage"]["prompt_tokens"] == sum(line["num_tokens"] for line in part)
    return sum(map(len, want))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("ossmith")
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    failed = False
    with Server(args.ossmith, "--max-model-len", "16384") as server:
        lines = request_set(server, args.lines)
        if args.write:
            args.write.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        for name, of in [("/generate", whole), ("/generate, streamed", streamed), ("/v1/completions, text", by_text),
                         ("/v1/completions, token ids", by_ids)]:
            with ThreadPoolExecutor(CONCURRENCY) as threads:
                futures = [threads.submit(of, server, line) for line in lines]
            errors = [future.exception() for future in futures if future.exception()]
            tokens = sum(future.result() for future in futures if not future.exception())
            failed |= bool(errors)
            print(f"{'FAILED' if errors else 'ok'} {name}: {len(lines) - len(errors)} of {len(lines)} requests, {tokens} tokens", *errors[:3], flush=True)
        try:
            print(f"ok lists of {LIST} in order on both routes: {len(lines)} prompts, {in_lists(server, lines)} tokens", flush=True)
        except AssertionError as why:
            failed = True
            print(f"FAILED lists: {str(why)[:2000]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
