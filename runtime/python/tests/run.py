"""What a user of the wheel does, in an environment that has nothing else: the examples, old scripts, the types.

    python3 run.py

It prints a line for each thing that went through, and stops at the first that did not.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"


def run(script: Path, environment: dict[str, str] | None = None) -> str:
    """Runs a script and returns what it printed."""
    # Not from the folder of the sources: the installed package is what counts.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"{script.name} failed with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def vocabulary(folder: Path) -> dict[str, str]:
    """The vocabulary where openai_harmony looks for it, so that it downloads nothing; it checks the file's hash."""
    from ossmith import _ossmith

    lines = [base64.b64encode(_ossmith.decode_bytes([token])) + b" %d\n" % token for token in range(199_998)]
    (folder / "o200k_base.tiktoken").write_bytes(b"".join(lines))
    return {"TIKTOKEN_ENCODINGS_BASE": str(folder)}


def moved(script: Path, folder: Path) -> Path:
    """The script with its one import changed."""
    text = script.read_text(encoding="utf-8")
    assert text.count("from openai_harmony import") == 1, script
    copy = folder / f"moved_{script.name}"
    copy.write_text(text.replace("from openai_harmony import", "from ossmith.harmony import"), encoding="utf-8")
    return copy


def imports_of_the_package(document: Path) -> str:
    """The document's block of Python that begins with an import of the package, with nano for the large model."""
    blocks = document.read_text(encoding="utf-8").split("```python\n")[1:]
    (block,) = [block.split("```")[0] for block in blocks if block.startswith("from ossmith import LLM")]
    return block.replace("openai/gpt-oss-20b", "nano")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = vocabulary(folder)
        scripts = [EXAMPLES / "offline.py", *sorted((HERE / "old").glob("*.py"))]
        for script in scripts:
            before, after = run(script, environment), run(moved(script, folder))
            pairs = zip(before.splitlines(), after.splitlines())
            different = [pair for pair in pairs if pair[0] != pair[1]]
            assert before and before == after, f"{script.name}: {different}"
            print(f"ok {script.name}, with openai_harmony and with ossmith.harmony", flush=True)
            if script.name == "offline.py":
                assert '"channel": "final"' in before and "42" in before, before
        streamed = run(EXAMPLES / "streaming.py")
        assert "42" in streamed and "the cancelled answer began with the tokens [" in streamed, streamed
        print("ok streaming.py", flush=True)
        called = run(EXAMPLES / "tools.py")
        assert "get_weather" in called and '"role": "tool"' in called, called
        print("ok tools.py", flush=True)
        for document in (HERE.parents[2] / "README.md", HERE.parent / "README.md"):
            block = folder / "block.py"
            block.write_text(imports_of_the_package(document), encoding="utf-8")
            assert "42" in run(block), document
        print("ok the blocks of README.md", flush=True)
        print(run(HERE / "test_api.py"), end="", flush=True)
        typed = [str(EXAMPLES / "streaming.py"), str(EXAMPLES / "tools.py"), str(moved(EXAMPLES / "offline.py", folder))]
        for checked in (typed, ["-p", "ossmith"]):
            check = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "mypy"), *checked]
            done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"mypy: {done.stdout}{done.stderr}")
        print("ok mypy --strict, of the examples and of the package", flush=True)


main()
