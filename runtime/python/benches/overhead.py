"""What the package costs: the time of its import, and the processor time of the reading thread for each token.

    python overhead.py [MODEL]

The engine works on threads of its own, so the reading thread's processor time is what Python adds to a token. A small model
(`tests/fixtures/tiny`) leaves the processor's caches to the reader, as a GPU does. Beside it stands what a thread pays for being
woken at all: by a byte in a pipe, and by one that an event loop passes on.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from ossmith import LLM, AsyncLLM, RequestOutputKind, SamplingParams

IMPORT = "import time; start = time.perf_counter(); import ossmith; print(time.perf_counter() - start)"
MODEL = sys.argv[1] if len(sys.argv) > 1 else "nano"
TOKENS = 2000
WAKES = 500


def imports() -> list[float]:
    """Seconds of ten imports, each in a process of its own."""

    def run() -> float:
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
        return float(done.stdout)

    return sorted(run() for _ in range(10))


def woken(read: Callable[[int], None]) -> float:
    """Processor seconds of a wake-up: another process writes a byte every 2 ms."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for _ in range(WAKES):
            time.sleep(0.002)
            os.write(writer, b"x")
        os._exit(0)
    start = time.thread_time()
    read(reader)
    taken = (time.thread_time() - start) / WAKES
    os.waitpid(child, 0)
    return taken


def blocking_reads(reader: int) -> None:
    read = 0
    while read < WAKES:
        read += len(os.read(reader, 64))


def reads_of_a_loop(reader: int) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        read, future = 0, loop.create_future()

        def ready() -> None:
            nonlocal read
            read += len(os.read(reader, 64))
            future.done() or future.set_result(None)

        loop.add_reader(reader, ready)
        while read < WAKES:
            await future
            future = loop.create_future()
        loop.remove_reader(reader)

    asyncio.run(run())


def params(kind: RequestOutputKind) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, output_kind=kind)


def blocking(kind: RequestOutputKind) -> tuple[float, float]:
    """Processor seconds of the reading thread per token of `LLM.stream`, and outputs per token."""
    with LLM(MODEL, max_num_seqs=1, max_model_len=4096, threads=1) as llm:
        start, outputs = time.thread_time(), 0
        for _ in llm.stream([1, 2, 3], params(kind)):
            outputs += 1
        return (time.thread_time() - start) / TOKENS, outputs / TOKENS


async def in_a_loop(kind: RequestOutputKind) -> tuple[float, float]:
    """The same of `AsyncLLM.generate`."""
    llm = AsyncLLM(MODEL, max_num_seqs=1, max_model_len=4096, threads=1)
    start, outputs = time.thread_time(), 0
    async for _ in llm.generate([1, 2, 3], params(kind)):
        outputs += 1
    taken = (time.thread_time() - start) / TOKENS, outputs / TOKENS
    llm.shutdown()
    return taken


if __name__ == "__main__":
    seconds = imports()
    print(f"import: {seconds[0] * 1e3:.0f} to {seconds[-1] * 1e3:.0f} ms, median {statistics.median(seconds) * 1e3:.0f}")
    print(f"a wake-up: {woken(blocking_reads) * 1e6:.1f} us; through an event loop: {woken(reads_of_a_loop) * 1e6:.1f} us")
    for kind in (RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE):
        for name, (taken, outputs) in (("LLM", blocking(kind)), ("AsyncLLM", asyncio.run(in_a_loop(kind)))):
            print(f"{name}, {kind.name}: {taken * 1e6:.1f} us per token, {outputs:.2f} outputs per token")
