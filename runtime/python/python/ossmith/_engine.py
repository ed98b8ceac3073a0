"""From options to an engine, and from prompts to requests: what both kinds of ``LLM`` share."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _log, _ossmith
from .errors import InvalidRequestError
from .inputs import PromptType, tokens_of
from .outputs import RequestState
from .sampling_params import SamplingParams

Messages = Sequence[Mapping[str, Any]]
"""A chat: messages in the form of Chat Completions."""

_WITHOUT_EFFECT: dict[str, tuple[object, ...] | None] = {
    # vLLM's options that mean nothing here, with the values that they may have; `None`: any.
    "block_size": None,
    "disable_log_stats": None,
    "distributed_executor_backend": None,
    "download_dir": (None,),
    "dtype": ("auto", "bfloat16"),
    "enable_chunked_prefill": None,
    "enforce_eager": None,
    "gpu_memory_utilization": None,
    "kv_cache_dtype": ("auto", "bfloat16"),
    "load_format": ("auto", "safetensors"),
    "pipeline_parallel_size": (1,),
    "quantization": (None, "mxfp4"),
    "revision": (None, "main"),
    # vLLM's default; another one asks for samples that come again, which SamplingParams.seed gives.
    "seed": (None, 0),
    "swap_space": None,
    "tensor_parallel_size": (1,),
    "tokenizer": None,
    "tokenizer_mode": ("auto",),
    "trust_remote_code": None,
}


@dataclass
class Options:
    """What the native engine is loaded with."""

    model: str
    backend: str
    threads: int | None
    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_tokens: int | None
    enable_prefix_caching: bool
    draft_tokens: int
    max_waiting: int
    weights_seed: int


def load(options: Options, others: Mapping[str, object], show_progress: bool) -> _ossmith.Engine:
    """Loads an engine, with a progress bar if that is wanted and there is tqdm."""
    for name, value in others.items():
        if name not in _WITHOUT_EFFECT:
            raise InvalidRequestError(f"there is no option {name}; see help(ossmith.LLM)")
        possible = _WITHOUT_EFFECT[name]
        if possible is not None and value not in possible:
            values = ", ".join(map(repr, possible))
            raise InvalidRequestError(f"{name} is {value!r}, but this engine has only {values}")
    _log.start()
    bars = _LoadingBars() if show_progress and sys.stderr.isatty() else None
    try:
        return _ossmith.Engine(options, bars)
    finally:
        if bars is not None:
            bars.close()
        _log.flush()


class _LoadingBars:
    """A bar for each stage of loading."""

    def __init__(self) -> None:
        self._tqdm = tqdm_class()
        self._stage = ""
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._tqdm is None:
            return
        if stage != self._stage:
            self.close()
            bytes_ = total >= 1 << 20
            self._stage = stage
            self._bar = self._tqdm(total=total, desc=stage, leave=False, unit="B" if bytes_ else "it",
                                   unit_scale=bytes_, unit_divisor=1024)  # fmt: skip
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def tqdm_class() -> Any:
    """The progress bar of tqdm, if it is installed."""
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError:
        return None


def start(
    engine: _ossmith.Engine, prompt: PromptType, params: SamplingParams, request_id: str | None, priority: int
) -> tuple[_ossmith.Stream, RequestState]:
    """Queues a request."""
    text, tokens = tokens_of(prompt)
    stream = engine.submit(tokens, params, priority)
    return stream, RequestState(request_id or str(stream.id), text, tokens, params)


def chat_tokens(
    messages: Messages,
    tools: Sequence[Mapping[str, Any]] | None,
    reasoning_effort: str | None,
    date: str | None,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> list[int]:
    """The prompt of a chat."""
    for name, value in (chat_template_kwargs or {}).items():
        if name == "reasoning_effort":
            reasoning_effort = reasoning_effort or value
        else:
            raise InvalidRequestError(f"chat_template_kwargs has {name}, but only reasoning_effort has an effect")
    date = date or os.environ.get("SYSTEM_START_DATE") or datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    functions = [_function(tool) for tool in tools or []]
    return _ossmith.chat_prompt(json.dumps(list(messages)), json.dumps(functions), reasoning_effort, date)


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        raise InvalidRequestError(f"a tool has the type {tool['type']!r}; only functions are supported")
    function = tool.get("function", tool)
    if "name" not in function:
        raise InvalidRequestError("a tool has no name: give {'type': 'function', 'function': {'name': …}}")
    described: dict[str, Any] = {"name": function["name"], "description": function.get("description") or ""}
    if function.get("parameters") is not None:
        described["parameters"] = function["parameters"]
    return described
