"""Ossmith: gpt-oss models on generated kernels, for Python.

>>> from ossmith import LLM, SamplingParams
>>> llm = LLM(model="nano")
>>> answers = llm.chat([{"role": "user", "content": "What is 17 + 25?"}], SamplingParams(temperature=0, max_tokens=64))
>>> answers[0].outputs[0].message["content"]

:class:`LLM` answers many prompts at once, :class:`AsyncLLM` streams answers in an event loop, and :mod:`ossmith.harmony` turns
conversations into tokens and tokens into messages. Names and defaults are vLLM's where vLLM has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors
from ._ossmith import VERSION as __version__
from .errors import (
    CheckpointError,
    DeviceError,
    EngineBusyError,
    EngineStoppedError,
    HarmonyError,
    InvalidRequestError,
    OssmithError,
    OutOfDeviceMemoryError,
    PromptTooLongError,
    QueueFullError,
    RequestFailedError,
)
from .inputs import PromptType, TextPrompt, TokensPrompt
from .llm import LLM
from .outputs import CompletionOutput, Logprob, RequestOutput
from .sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from . import harmony
    from .async_llm import AsyncLLM

__all__ = [
    "LLM",
    "AsyncLLM",
    "CheckpointError",
    "CompletionOutput",
    "DeviceError",
    "EngineBusyError",
    "EngineStoppedError",
    "HarmonyError",
    "InvalidRequestError",
    "Logprob",
    "OssmithError",
    "OutOfDeviceMemoryError",
    "PromptTooLongError",
    "PromptType",
    "QueueFullError",
    "RequestFailedError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
    "errors",
    "harmony",
]


def __getattr__(name: str) -> Any:
    # What not every program needs is imported when it is used.
    if name == "AsyncLLM":
        from .async_llm import AsyncLLM

        return AsyncLLM
    if name == "harmony":
        import importlib

        return importlib.import_module(".harmony", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
