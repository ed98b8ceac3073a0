#!/usr/bin/env python3
"""Asks nano's questions through a server that runs, and writes each answer: the same server on the CPU and on a GPU can be
compared, and a setting that must change no answer with its default.

    ossmith serve nano --port 8000
    python3 tests/gpu/nano_server.py --port 8000 --out answers.jsonl

Questions whose conversation holds calls are left out. A line of the output is one question: its id, whether the answer is
right by the rule of the set, and the answer; the last line counts them. Fields of the request may be added as JSON
(`--fields '{"top_p": 0.9, "seed": 1}'`). Needs nothing but Python.
"""
import argparse
import concurrent.futures
import json
import pathlib
import re
import urllib.request

QUESTIONS = pathlib.Path(__file__).resolve().parents[2] / "models/nano/eval.jsonl"


def is_right(expect, message):
    text = (message.get("content") or "").strip()
    if "call" in expect:
        calls = [one["function"] for one in message.get("tool_calls") or []]
        return any(call["name"] == expect["call"]["name"].removeprefix("functions.")
                   and json.loads(call["arguments"] or "null") == expect["call"]["arguments"] for call in calls)
    if "number" in expect:
        return re.findall(r"-?\d+", text)[-1:] == [str(expect["number"])]
    if "equals" in expect:
        return text in expect["equals"]
    return all(part in text for part in expect.get("contains", []))


def ask(a, case):
    messages = [{"role": "developer", "content": case["developer"]}] if case.get("developer") else []
    messages += [{"role": one["role"], "content": one["content"]} for one in case["messages"]]
    body = {"model": "nano", "messages": messages, "reasoning_effort": case["effort"], "temperature": 0, "max_tokens": 400,
            **json.loads(a.fields)}
    if case.get("tools"):
        body["tools"] = [{"type": "function", "function": tool} for tool in case["tools"]]
    request = urllib.request.Request(f"http://127.0.0.1:{a.port}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        message = json.load(answer)["choices"][0]["message"]
    kept = {name: message.get(name) for name in ["reasoning", "content", "tool_calls"]}
    for call in kept["tool_calls"] or []:
        call.pop("id", None)
    return {"id": case["id"], "right": is_right(case["expect"], message), "answer": kept}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--port", type=int, required=True)
    ap.add_argument("--questions", type=pathlib.Path, default=QUESTIONS)
    ap.add_argument("--fields", default="{}")
    ap.add_argument("--at-once", type=int, default=16)
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    cases = [json.loads(line) for line in a.questions.read_text().splitlines()]
    plain = [case for case in cases
             if all(one["role"] == "user" or one.get("channel") == "final" for one in case["messages"])]
    with concurrent.futures.ThreadPoolExecutor(a.at_once) as pool:
        answers = list(pool.map(lambda case: ask(a, case), plain))
    total = {"questions": len(answers), "right": sum(one["right"] for one in answers)}
    with open(a.out, "w") as out:
        for line in [*answers, total]:
            out.write(json.dumps(line) + "\n")
    print(json.dumps(total))


if __name__ == "__main__":
    main()
