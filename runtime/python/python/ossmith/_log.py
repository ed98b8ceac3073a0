"""The runtime's log in Python's ``logging``, under the logger ``ossmith`` and those below it."""

from __future__ import annotations

import logging
import os

from . import _ossmith

_started = False


def start() -> None:
    """Collects lines from now on: those of ``OSSMITH_LOG``, which is ``info`` unless it is set."""
    global _started
    if not _started:
        _started = True
        _ossmith.start_log(os.environ.get("OSSMITH_LOG") or "info")


def flush() -> None:
    """Passes on the lines that wait."""
    lines, dropped = _ossmith.take_log()
    if dropped:
        logging.getLogger("ossmith").warning("%d lines of the log were dropped", dropped)
    for level, name, text in lines:
        logging.getLogger(name).log(level, "%s", text)
