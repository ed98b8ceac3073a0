"""A server of nano for the checks of this folder, and requests to it on connections that are kept."""

import http.client
import json
import re
import signal
import subprocess
import threading

# A busy machine takes its time, and 128 requests wait for each other.
PATIENCE = 900
# Prompts name the date, so it must be the same in every program.
DATE = "2026-01-31"
# Prompts and answers of every check fit.
COMMON = ["--backend", "cpu", "--date", DATE]


class Server:
    """`with Server(ossmith, …) as server`: a process on a port of its own."""

    def __init__(self, ossmith, *args):
        command = [ossmith, "serve", "--port", "0", *COMMON, *args]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.child.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if not found:
            raise RuntimeError(f"the server did not start: {line}")
        self.port = int(found[1])
        self.url = found[0]
        self.local = threading.local()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(PATIENCE)
        finally:
            self.child.kill()

    def send(self, path, body):
        """The answer to a request, on the connection of this thread."""
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection = self.local.connection
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        try:
            connection.request("POST", path, text.encode(), headers)
            return connection.getresponse()
        except ConnectionError:
            # The server closes connections that were idle for long.
            connection.close()
            connection.request("POST", path, text.encode(), headers)
            return connection.getresponse()

    def text(self, path, body):
        """Status and text of an answer."""
        answer = self.send(path, body)
        return answer.status, answer.read().decode()

    def json(self, path, body):
        """The body of an answer, which must be 200."""
        status, text = self.text(path, body)
        assert status == 200, f"{path}: {status} {text[:300]}"
        return json.loads(text)

    def events(self, path, body):
        """The events of a stream."""
        answer = self.send(path, body)
        assert answer.status == 200, f"{path}: {answer.status} {answer.read()[:300]}"
        data = [line[5:].strip() for line in answer.read().decode().splitlines() if line.startswith("data:")]
        return [json.loads(event) for event in data if event != "[DONE]"]
