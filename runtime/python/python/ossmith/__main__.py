"""The command: ``python -m ossmith …`` is ``ossmith …``."""

from __future__ import annotations

import sys

from ._ossmith import run_command


def main() -> int:
    """Runs the command of this process's arguments and returns its exit code."""
    return run_command(["ossmith", *sys.argv[1:]], [sys.executable, "-m", "ossmith"])


if __name__ == "__main__":
    sys.exit(main())
