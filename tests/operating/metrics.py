"""What an operator of a server has, in a real Prometheus: `/metrics` by promtool, the alert rules, and every query of the board.

    python3 metrics.py http://127.0.0.1:8000 FOLDER_OF_PROMETHEUS

The folder holds `prometheus` and `promtool` (`cargo xtask prometheus` fetches Debian's). The server gets a few requests, good and
bad, and a Prometheus of its own scrapes it with `docs/operating/`'s files. Exits with 1 if a check fails, or if queries or rules
have no result within three minutes.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs/operating"
# promtool's own words about names that are vLLM's: docs/OPERATING.md says why they stay.
VLLMS_WAY = ("should not contain ':'", 'should have "_total" suffix', 'should not have "_total" suffix')
# Until a query has a result, which takes two scrapes.
PATIENCE = 180


def ask(url: str, body: dict | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def traffic(server: str) -> None:
    """An answer, a refusal, and a path that no route has."""
    chat = {"model": "nano", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "max_tokens": 8}
    assert ask(f"{server}/v1/chat/completions", chat)[0] == 200
    assert ask(f"{server}/v1/chat/completions", {**chat, "n": 0})[0] == 400
    assert ask(f"{server}/nowhere")[0] == 404


def check_metrics(promtool: str, server: str) -> None:
    text = ask(f"{server}/metrics")[1]
    said = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
    lines = (said.stdout + said.stderr).splitlines()
    others = [line for line in lines if not any(words in line for words in VLLMS_WAY)]
    # 0: nothing to say; 3: advice about names. Anything else is a text that Prometheus cannot read.
    assert said.returncode in (0, 3) and not others, f"promtool check metrics ended with {said.returncode}: {others}"
    for start in ('ossmith:http_requests_total{', "ossmith:engine_step_seconds_bucket{", "ossmith:engine_host_seconds_bucket{"):
        assert any(line.startswith(start) for line in text.splitlines()), f"no {start} in /metrics"
    print(f"ok promtool check metrics: {len(text.splitlines())} lines, {len(lines)} remarks about vLLM's names")


def check_rules(promtool: str) -> None:
    said = subprocess.run([promtool, "check", "rules", DOCS / "alerts.yml"], text=True, capture_output=True)
    assert said.returncode == 0, said.stdout + said.stderr
    print(f"ok promtool check rules: {' '.join(said.stdout.split())[-40:]}")


def queries() -> list[tuple[str, str]]:
    board = json.loads((DOCS / "board.json").read_text())
    # What Grafana puts in their place.
    put = {"$__rate_interval": "1m", "$instance": ".*"}
    panels = [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel["targets"]]
    return [(title, re.sub("|".join(map(re.escape, put)), lambda found: put[found[0]], expr)) for title, expr in panels]


def check_board(prometheus: pathlib.Path, server: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = (DOCS / "prometheus.yml").read_text().replace("127.0.0.1:8000", urllib.parse.urlparse(server).netloc)
        (folder / "prometheus.yml").write_text(config.replace("interval: 5s", "interval: 1s"))
        (folder / "alerts.yml").write_text((DOCS / "alerts.yml").read_text())
        words = [prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        log = folder / "log"
        with log.open("w") as out:
            process = subprocess.Popen([*words, "--web.listen-address=127.0.0.1:0"], stdout=out, stderr=out)
        try:
            evaluate(address(log, process), server, process)
        except BaseException:
            print(log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            process.kill()
            process.wait()


def address(log: pathlib.Path, process: subprocess.Popen) -> str:
    """Where Prometheus listens, which its log says."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r'"Listening on" address=(127\.0\.0\.1:\d+)', log.read_text()):
            return f"http://{found[1]}"
        time.sleep(0.1)
    raise AssertionError("Prometheus does not listen")


def evaluate(url: str, server: str, process: subprocess.Popen) -> None:
    left, results = queries(), {}
    total, end = len(left), time.monotonic() + PATIENCE
    while left:
        assert process.poll() is None, "Prometheus has ended"
        assert time.monotonic() < end, f"no result of {left}; {results}"
        time.sleep(1)
        traffic(server)
        waiting = []
        for title, query in left:
            try:
                status, text = ask(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
            except OSError:
                # It has not started yet.
                waiting.append((title, query))
                continue
            if status == 503:
                waiting.append((title, query))
                continue
            answer = json.loads(text)
            assert answer["status"] == "success", f"{title}: {query}: {answer}"
            results[query] = answer["data"]["result"]
            if not results[query]:
                waiting.append((title, query))
        left = waiting
    print(f"ok {total} queries of the board have results")
    rules = json.loads(ask(f"{url}/api/v1/rules")[1])["data"]["groups"][0]["rules"]
    while any(rule["health"] == "unknown" for rule in rules) and time.monotonic() < end:
        time.sleep(1)
        rules = json.loads(ask(f"{url}/api/v1/rules")[1])["data"]["groups"][0]["rules"]
    bad = [(rule["name"], rule["health"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]
    assert not bad, f"alert rules that cannot be evaluated: {bad}"
    print(f"ok {len(rules)} alert rules are evaluated")


def main() -> None:
    server, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    traffic(server)
    check_metrics(str(folder / "promtool"), server)
    check_rules(str(folder / "promtool"))
    check_board(folder / "prometheus", server)


if __name__ == "__main__":
    main()
