"""Two replicas with one Redis behind a proxy: what they store is shared, requests are balanced, streams are not buffered, a replica
may be killed or drained.

    python run.py OSSMITH [--proxies haproxy,nginx,vllm-router,sglang-router,none] [--chains 200]

Programs are looked for on the PATH; one that is not there is reported as NOT CHECKED. Prints a row of a table for each proxy, and
exits with 1 if anything failed. `none` is a round robin of this script, for machines without a proxy.
"""

import argparse
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "docs/scale"
# Where `cargo xtask test` unpacks Debian's redis-server if the machine has none.
REDIS = ROOT / "target/redis/root"
NAMES = ["Alice", "Bob", "Carol", "Dave"]
PATIENCE = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Failed(Exception):
    pass


class Replica:
    def __init__(self, ossmith, redis, port):
        command = [ossmith, "serve", "--backend", "cpu", "--port", str(port), "--store", redis, "--seal-key", "secret",
                   "--max-model-len", "4096", "--shutdown-timeout", "60"]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.child.stdout.readline()
        if not (found := re.search(r"http://[^ ]*:(\d+)", line)):
            raise Failed(f"the replica did not start: {line}")
        self.port = int(found[1])

    def metric(self, name):
        status, body = call(self.port, "GET", "/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if re.match(rf"{name}[{{ ]", line))

    def stop(self, how=signal.SIGTERM):
        self.child.send_signal(how)
        self.child.wait(PATIENCE)


def call(port, method, path, body=None, timeout=PATIENCE):
    """Status and text of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Turns:
    """A round robin over replicas, in place of a proxy."""

    def __init__(self, ports):
        self.ports, self.count = ports, 0

    def port(self):
        self.count += 1
        return self.ports[self.count % len(self.ports)]


class Client:
    def __init__(self, port):
        self.ports = port if isinstance(port, Turns) else Turns([port])

    def ask(self, path, body, retries=0):
        """The answer; a connection that fails and 5xx are tried again, as SDKs do."""
        for attempt in range(retries + 1):
            try:
                status, text = call(self.ports.port(), "POST", path, body)
            except (OSError, http.client.HTTPException) as why:
                status, text = 0, str(why)
            if status == 200 or 400 <= status < 500:
                break
            time.sleep(0.5)
        if status != 200:
            raise Failed(f"{path}: {status} {text[:200]}")
        return json.loads(text)

    def name(self, name, retries=0):
        body = {"model": "nano", "input": f"My name is {name}.", "temperature": 0}
        return self.ask("/v1/responses", body, retries)["id"]

    def recall(self, previous, retries=0):
        body = {"model": "nano", "input": "What is my name?", "previous_response_id": previous, "temperature": 0}
        answer = self.ask("/v1/responses", body, retries)
        return "".join(part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"])

    def chain(self, index, retries=0):
        name = NAMES[index % len(NAMES)]
        return name in self.recall(self.name(name, retries), retries)

    def stream(self, tokens, first=lambda: None):
        """Reads a stream of this many tokens, and calls `first` at its first event. The tokens that came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.port(), timeout=PATIENCE)
        body = {"model": "nano", "prompt": "1, 2, 3,", "max_tokens": tokens, "ignore_eos": True, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer, count = connection.getresponse(), 0
        if answer.status != 200:
            raise Failed(f"a stream: {answer.status} {answer.read()[:200]}")
        for line in answer:
            if line.startswith(b"data: {") and b'"choices":[{' in line:
                count += 1
                if count == 1:
                    first()
        connection.close()
        return count


def proxy(kind, port, replicas, folder):
    """The command of a proxy over replicas, or none where it is not installed."""
    addresses = [f"127.0.0.1:{replica}" for replica in replicas]
    urls = [f"http://{address}" for address in addresses]
    program = shutil.which(kind)
    if not program:
        return None
    if kind in ("haproxy", "nginx"):
        name = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]
        text = (CONFIGS / name).read_text("utf-8").replace("first:8000", addresses[0]).replace("second:8000", addresses[1])
        text = text.replace("bind :8080", f"bind 127.0.0.1:{port}").replace("listen 8080", f"listen 127.0.0.1:{port}")
        if kind == "nginx":
            for at in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
                text = text.replace("access_log off;", f"access_log off;\n    {at}_temp_path {folder}/{at};", 1)
            text = f"pid {folder}/pid; error_log {folder}/log; daemon off;\n{text}"
        (folder / name).write_text(text, "utf-8")
        flags = {"haproxy": ["-db", "-f"], "nginx": ["-p", str(folder), "-c"]}[kind]
        return [program, *flags, str(folder / name)]
    common = ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--prometheus-port", str(free_port()),
              "--health-check-interval-secs", "2", "--worker-startup-check-interval", "1"]
    if kind == "vllm-router":
        return [program, *common, "--worker-urls", *urls]
    # Its breaker counts refused requests (4xx) as failures of the replica that refused them.
    return [program, "launch", *common, "--disable-circuit-breaker", "--worker-urls", *urls]


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {PATIENCE} s for {what}")
        time.sleep(0.1)


def healthy(port):
    try:
        return call(port, "GET", "/health", timeout=5)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def check(kind, ossmith, redis, chains, folder):
    # A proxy must know the ports beforehand. Without one each replica takes a port that is free, which no other test can take first.
    replicas = [Replica(ossmith, redis, 0 if kind == "none" else free_port()) for _ in range(2)]
    ports = [replica.port for replica in replicas]
    child = None
    try:
        if kind == "none":
            port = Turns(ports)
        else:
            port = free_port()
            command = proxy(kind, port, ports, folder)
            if command is None:
                print(f"NOT CHECKED: {kind} is not installed", flush=True)
                return None
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(f"{kind} to be ready", lambda: healthy(port))
            time.sleep(3)
        return row(kind, Client(port), replicas, ossmith, redis, chains)
    finally:
        if child:
            child.terminate()
            child.wait()
        for replica in replicas:
            replica.child.kill()
            replica.child.wait()


def row(kind, client, replicas, ossmith, redis, chains):
    result = {}
    right = sum(client.chain(index) for index in range(chains))
    result["chained"] = f"{right} of {chains}"
    served = [replica.metric("vllm:request_success_total") for replica in replicas]
    result["balanced"] = f"{served[0]:.0f} : {served[1]:.0f}"

    running = []
    # It goes on for seconds after its first event, in which the metrics are read.
    tokens = client.stream(1500, lambda: running.append(sum(one.metric("vllm:num_requests_running") for one in replicas)))
    result["unbuffered"] = "yes" if tokens == 1500 and running[0] == 1 else f"no: {tokens} tokens, {running} running"

    refused = 0
    for _ in range(24):
        try:
            client.ask("/v1/chat/completions", {"model": "nano", "messages": [{"role": "user", "content": "Hi"}], "temperature": 9})
        except Failed as why:
            refused += " 400 " in str(why)
    after = client.chain(0)
    result["after 24 refused"] = "served" if after and refused == 24 else f"{refused} refused as 400, then {after}"

    stored = [client.name(NAMES[index % len(NAMES)]) for index in range(20)]
    replicas[0].stop(signal.SIGKILL)
    recalled = sum(NAMES[index % len(NAMES)] in client.recall(previous, retries=40) for index, previous in enumerate(stored))
    result["one killed"] = f"{recalled} of {len(stored)} go on"

    replicas[0] = Replica(ossmith, redis, 0 if kind == "none" else replicas[0].port)
    if kind == "none":
        client.ports.ports[0] = replicas[0].port
    else:
        time.sleep(5)
    # The stream runs at the replica that is drained.
    found, failures = [], []

    def streamed():
        try:
            found.append(client.stream(600))
        except (Failed, OSError, http.client.HTTPException) as why:
            failures.append(str(why))

    streams = [threading.Thread(target=streamed) for _ in range(2)]
    for stream in streams:
        stream.start()
    until("both streams to run", lambda: sum(one.metric("vllm:num_requests_running") for one in replicas) == 2 or len(found) == 2)
    drained = threading.Thread(target=replicas[0].stop)
    drained.start()
    answered = sum(client.chain(index, retries=40) for index in range(6))
    for thread in [*streams, drained]:
        thread.join(PATIENCE)
    whole = found.count(600)
    result["one drained"] = f"{whole} of 2 streams whole, exit code {replicas[0].child.returncode}, {answered} of 6 served meanwhile"
    good = (right == chains and min(served) * 4 > max(served) and result["unbuffered"] == "yes" and recalled == len(stored)
            and result["after 24 refused"] == "served" and whole == 2 and replicas[0].child.returncode == 0 and answered == 6)
    if failures:
        result["one drained"] += f" ({failures})"
    return good, result


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("ossmith")
    parser.add_argument("--proxies", default="haproxy,nginx,vllm-router,sglang-router")
    parser.add_argument("--chains", type=int, default=200)
    args = parser.parse_args()
    redis_server = shutil.which("redis-server") or shutil.which(REDIS / "usr/bin/redis-server")
    if not redis_server:
        print("NOT CHECKED: redis-server is not installed")
        return 0
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        options = ["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", str(path)]
        libraries = REDIS / f"usr/lib/{platform.machine()}-linux-gnu"
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
        redis = subprocess.Popen([redis_server, *options], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            until("Redis", path.exists)
            for kind in args.proxies.split(","):
                own = Path(folder) / kind
                own.mkdir()
                try:
                    found = check(kind, args.ossmith, f"redis+unix://{path}", args.chains, own)
                except Failed as why:
                    found = False, {"failed": str(why)}
                if found is None:
                    continue
                good, result = found
                print(f"{'ok' if good else 'FAILED'} {kind}: " + "; ".join(f"{name}: {what}" for name, what in result.items()), flush=True)
                if not good:
                    failed.append(kind)
        finally:
            redis.terminate()
            redis.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
