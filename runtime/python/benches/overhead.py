"""What the package costs: the time of its import, and the processor time of the reading thread for each token.

    python overhead.py [MODEL]

The engine works on threads of its own, so the reading thread's processor time is what Python adds to a token. The model is the
repository's smallest with random weights, which leaves the processor's caches to the reader, as a GPU does; `nano` takes them. Beside
it stands what a thread pays for being woken at all: by a byte in a pipe, and by one that an event loop passes on. Each figure is the
least and the median of several runs, since other work on the machine only adds to it. An engine that is faster than its reader hands
over several tokens at once; a token that is read alone is what counts, so the time is divided by outputs.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ossmith import LLM, AsyncLLM, RequestOutputKind, SamplingParams

IMPORT = "import time; start = time.perf_counter(); import ossmith; print(time.perf_counter() - start)"
TINY = Path(__file__).resolve().parents[3] / "tests/fixtures/tiny"
MODEL = sys.argv[1] if len(sys.argv) > 1 else f"synthetic:{TINY}"
RUNS = 7
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


def blocking(kind: RequestOutputKind) -> list[tuple[float, float]]:
    """Processor seconds of the reading thread per output of `LLM.stream`, and outputs per token."""
    runs = []
    with LLM(MODEL, max_num_seqs=1, max_model_len=4096, threads=1, show_progress=False) as llm:
        for _ in range(RUNS):
            start, outputs = time.thread_time(), 0
            for _ in llm.stream([1, 2, 3], params(kind)):
                outputs += 1
            runs.append(((time.thread_time() - start) / outputs, outputs / TOKENS))
    return sorted(runs)


async def in_a_loop(kind: RequestOutputKind) -> list[tuple[float, float]]:
    """The same of `AsyncLLM.generate`."""
    runs = []
    llm = AsyncLLM(MODEL, max_num_seqs=1, max_model_len=4096, threads=1, show_progress=False)
    for _ in range(RUNS):
        start, outputs = time.thread_time(), 0
        async for _ in llm.generate([1, 2, 3], params(kind)):
            outputs += 1
        runs.append(((time.thread_time() - start) / outputs, outputs / TOKENS))
    llm.shutdown()
    return sorted(runs)


if __name__ == "__main__":
    seconds = imports()
    print(f"import: {seconds[0] * 1e3:.0f} to {seconds[-1] * 1e3:.0f} ms, median {statistics.median(seconds) * 1e3:.0f}")
    for name, read in (("a wake-up", blocking_reads), ("a wake-up through an event loop", reads_of_a_loop)):
        taken = sorted(woken(read) for _ in range(3))
        print(f"{name}: {taken[0] * 1e6:.1f} us, median {taken[1] * 1e6:.1f}")
    for kind in (RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE):
        for name, runs in (("LLM", blocking(kind)), ("AsyncLLM", asyncio.run(in_a_loop(kind)))):
            (least, outputs), (median, _) = runs[0], runs[len(runs) // 2]
            print(f"{name}, {kind.name}: {least * 1e6:.1f} us per output, median {median * 1e6:.1f}; {outputs:.2f} outputs per token")
