#!/usr/bin/env python3
"""Measures what each kind of request costs through a server that runs: milliseconds per token of the median stream.

    ossmith serve synthetic:gpt-oss-20b --port 8000 --max-num-seqs 128 --max-num-batched-tokens 2048 \\
        --max-model-len 4096 --kv-cache-tokens 262144
    python3 tests/gpu/rows.py --port 8000 --rows plain,json,regex --widths 1,32,128 --out rows.jsonl

Streams of a row start together, with prompts of 64 tokens, and have as many tokens each. A line of output is one row at
one width; what /metrics counted meanwhile is beside it. Needs nothing but Python.
"""
import argparse
import asyncio
import json
import random
import statistics
import time
import urllib.request

ORDER = {"type": "object", "additionalProperties": False,
         "required": ["order_id", "customer_name", "status", "quantity", "express"],
         "properties": {"order_id": {"type": "integer", "minimum": 0, "maximum": 999999},
                        "customer_name": {"type": "string", "minLength": 4, "maxLength": 24},
                        "status": {"enum": ["open", "paid", "shipped", "returned"]},
                        "quantity": {"type": "integer", "minimum": 1, "maximum": 999},
                        "express": {"type": "boolean"}}}
JSON = {"structured_outputs": {"json": {"type": "array", "minItems": 200, "items": ORDER}}}
COMBO = {"top_p": 0.95, "repetition_penalty": 1.1, "presence_penalty": 0.3, "logprobs": 5}
ROWS = {
    "plain": {}, "greedy": {"temperature": 0}, "min_p": {"min_p": 0.05}, "top_p": {"top_p": 0.95}, "top_k": {"top_k": 50},
    "penalty": {"repetition_penalty": 1.1}, "bias": {"logit_bias": {str(7 * i + 11): 1.5 for i in range(300)}},
    "logprobs": {"logprobs": 5}, "combo": COMBO,
    "json": JSON, "json_top_p": {**JSON, "top_p": 0.95}, "combo_json": {**COMBO, **JSON},
    "regex": {"structured_outputs": {"regex": "([a-z]{2,9} ){900}"}},
}
METRICS = ["ossmith:steps_total", "ossmith:forced_tokens_total", "ossmith:late_masks_total", "ossmith:host_sampled_tokens_total",
           "ossmith:device_busy_seconds_total", "ossmith:device_idle_seconds_total"]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def metrics(port):
    lines = [line.rsplit(" ", 1) for line in get(port, "/metrics").splitlines()]
    return {name.split(":")[1]: float(line[1]) for line in lines for name in METRICS if line[0].split("{")[0] == name}


class Stream(asyncio.Protocol):
    """One streamed completion. Events are not parsed one by one, which would take the time of many streams."""

    def __init__(self, body, done):
        self.body, self.done, self.first, self.last, self.tail = body, done, None, None, b""

    def connection_made(self, transport):
        self.transport = transport
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" \
               f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        transport.write(head.encode() + self.body)

    def data_received(self, data):
        self.last = time.perf_counter()
        if self.first is None and b"data: " in data:
            self.first = self.last
        self.tail = (self.tail + data)[-6000:]
        if b"data: [DONE]" in self.tail[-400:]:
            self.transport.close()

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_result(self)

    def tokens(self):
        """Those that the usage of the last event counts."""
        at = self.tail.rfind(b'"completion_tokens":')
        text = self.tail[at + 20:at + 30] if at >= 0 else b"0"
        return int(text.split(b",")[0].split(b"}")[0])


async def streams(port, model, row, count, tokens, vocab):
    loop, waits = asyncio.get_running_loop(), []
    for seed in range(count):
        chance = random.Random(seed)
        body = {"model": model, "prompt": [chance.randrange(1000, vocab) for _ in range(64)], "max_tokens": tokens,
                "temperature": 1, "seed": seed, "stream": True, "stream_options": {"include_usage": True}, **ROWS[row]}
        if "structured_outputs" not in body:
            body["ignore_eos"] = True
        done = loop.create_future()
        await loop.create_connection(lambda: Stream(json.dumps(body).encode(), done), "127.0.0.1", port)
        waits.append(done)
    return await asyncio.gather(*waits)


def measure(a, model, row, count):
    before = metrics(a.port)
    found = asyncio.run(asyncio.wait_for(streams(a.port, model, row, count, a.tokens, a.vocab), 120))
    after = metrics(a.port)
    times = [1e3 * (one.last - one.first) / (one.tokens() - 1) for one in found if one.first and one.tokens() > 1]
    if len(times) < count:
        raise SystemExit(f"{row}: {count - len(times)} of {count} streams failed: {found[0].tail[-300:]!r}")
    return {"label": a.label, "row": row, "streams": count, "tokens": min(one.tokens() for one in found),
            "ms_per_token": round(statistics.median(times), 4), "worst": round(max(times), 4),
            **{name: round(after[name] - before.get(name, 0), 4) for name in after}}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--port", type=int, required=True)
    ap.add_argument("--label", default="")
    ap.add_argument("--rows", default=",".join(ROWS))
    ap.add_argument("--widths", default="1,32,128")
    ap.add_argument("--tokens", type=int, default=256)
    ap.add_argument("--repeat", type=int, default=1)
    ap.add_argument("--vocab", type=int, default=190000, help="prompts have token ids below it")
    ap.add_argument("--out", help="append each line to this file too")
    a = ap.parse_args()
    model = json.loads(get(a.port, "/v1/models"))["data"][0]["id"]
    for count in map(int, a.widths.split(",")):
        for row in a.rows.split(",") * a.repeat:
            line = json.dumps(measure(a, model, row, count))
            print(line, flush=True)
            if a.out:
                with open(a.out, "a") as out:
                    out.write(line + "\n")


main()
