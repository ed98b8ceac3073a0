"""Spans of streamed requests, seen by a collector of OTLP: from arrival to the last token.

    cargo build --release -p ossmith-cli --features traces
    python3 traces.py target/release/ossmith [ADDRESS_OF_A_COLLECTOR]

Without an address it receives the spans itself and checks them; for that it needs `opentelemetry-proto` from PyPI. With one
(http://127.0.0.1:6006) it only sends the requests, and the spans are to be looked at there.
"""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

TOKENS = 12


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps every span that it is sent."""

    spans = []

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

        request = service.ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        answer = service.ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def fields(span) -> dict:
    value = lambda one: getattr(one, one.WhichOneof("value"))
    return {one.key: value(one.value) for one in span.attributes}


def stream(server: str, name: str) -> tuple[int, int, int]:
    """When a streamed request was sent, when its first and its last token came, in nanoseconds."""
    body = {"model": "nano", "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "What is 17 + 25?"}]
    headers = {"Content-Type": "application/json", "X-Request-Id": name}
    request = urllib.request.Request(f"{server}/v1/chat/completions", json.dumps(body).encode(), headers)
    sent, first, last = time.time_ns(), 0, 0
    with urllib.request.urlopen(request, timeout=300) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            # The first update only names the role, and is sent before there is a token.
            deltas = [choice["delta"] for choice in json.loads(line[6:])["choices"]]
            if any(delta.get("content") or delta.get("reasoning") for delta in deltas):
                last = time.time_ns()
                first = first or last
    return sent, first, last


def check(name: str, times: tuple[int, int, int], spans: list) -> None:
    [request] = [span for span in spans if span.name == "request" and fields(span).get("id") == name]
    [generation] = [span for span in spans if span.parent_span_id == request.span_id]
    assert generation.name == "generation" and generation.trace_id == request.trace_id
    print(f"request {fields(request)}: {(request.end_time_unix_nano - request.start_time_unix_nano) / 1e6:.1f} ms")
    print(f"generation {fields(generation)}: events {[event.name for event in generation.events]}")
    assert fields(request)["route"] == "/v1/chat/completions"
    # Counts are text: OpenTelemetry has no unsigned numbers.
    assert int(fields(generation)["generated_tokens"]) == TOKENS and fields(generation)["outcome"] == "length"
    sent, first, last = times
    events = {event.name: event.time_unix_nano for event in generation.events}
    # The client saw everything after it had happened; both read the clock of this machine.
    assert sent <= request.start_time_unix_nano <= generation.start_time_unix_nano
    assert generation.start_time_unix_nano <= events["first token"] <= first
    assert events["first token"] <= events["ended"] <= generation.end_time_unix_nano <= request.end_time_unix_nano
    within = [
        span for span in spans
        if span.name == "step" and generation.start_time_unix_nano <= span.start_time_unix_nano <= generation.end_time_unix_nano
    ]
    print(f"{len(within)} steps began within it, of {sum(int(fields(span)['tokens']) for span in within)} tokens")
    # The prompt's steps, and one for each token but the last, which is not fed back.
    assert len(within) >= TOKENS, len(within)


def main() -> None:
    binary, collectors = sys.argv[1], sys.argv[2:]
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    address = collectors[0] if collectors else f"http://127.0.0.1:{receiver.server_port}"
    words = [binary, "serve", "--backend", "cpu", "--port", "0", "--max-model-len", "8192"]
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = re.search(r"http://[\d.:]+", server.stdout.readline())[0]
        times = {name: stream(url, name) for name in ("one", "two")}
    finally:
        # What is still to be sent is sent before it ends.
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    assert status == 0, status
    if not collectors:
        for name, seen in times.items():
            check(name, seen, Collector.spans)
        print(f"ok {len(Collector.spans)} spans")


if __name__ == "__main__":
    main()
