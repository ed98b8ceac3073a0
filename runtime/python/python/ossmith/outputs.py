"""What a request gives back, under the names that vLLM gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from . import _ossmith
from .errors import RequestFailedError
from .sampling_params import RequestOutputKind, SamplingParams

__all__ = ["CompletionOutput", "Logprob", "RequestOutput"]


@dataclass(slots=True)
class Logprob:
    """The log probability of a token, of the model's own distribution before temperature, filters and penalties."""

    logprob: float
    rank: int | None = None
    """How many tokens are more likely, plus one."""
    decoded_token: str | None = None


TokenLogprobs = dict[int, Logprob]
"""The token and the most likely tokens at one position, by their ids."""


@dataclass(slots=True)
class CompletionOutput:
    """One answer."""

    index: int
    """Which of the request's ``n`` answers it is."""
    text: str
    """Its text, up to a stop string; empty with ``detokenize=False``."""
    token_ids: list[int]
    """Its tokens, the stop token included."""
    cumulative_logprob: float | None = None
    """The sum of its tokens' log probabilities, if they were requested."""
    logprobs: list[TokenLogprobs] | None = None
    """If requested, an entry for each token."""
    finish_reason: str | None = None
    """``stop``, ``length`` or ``abort``; ``None`` while it is being written."""
    stop_reason: int | str | None = None
    """The stop string or the id among ``stop_token_ids`` that ended it; ``None`` for the model's own stop tokens."""

    def finished(self) -> bool:
        """Whether it is complete."""
        return self.finish_reason is not None

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of Chat Completions: ``role``, ``content``, ``reasoning``, ``tool_calls``.

        It is read by harmony's rules, as what follows ``<|start|>assistant``, and repaired where it is malformed.
        """
        reply = json.loads(_ossmith.chat_reply(self.token_ids))
        message: dict[str, Any] = {"role": "assistant", "content": reply["content"]}
        if reply["reasoning"] is not None:
            message["reasoning"] = reply["reasoning"]
        if reply["tool_calls"]:
            message["tool_calls"] = [
                {
                    "id": f"call_{index}",
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for index, call in enumerate(reply["tool_calls"])
            ]
        return message


@dataclass(slots=True)
class RequestOutput:
    """The answers to one prompt."""

    request_id: str
    prompt: str | None
    """The prompt's text, if it was given as text."""
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs | None] | None
    """If requested, an entry for each token of the prompt; the first is ``None``."""
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None
    """Tokens of the prompt that were taken from a cached prefix."""


class RequestState:
    """Gathers the events of a request."""

    __slots__ = ("_cached", "_kind", "_params", "_prompt", "_prompt_logprobs", "_prompt_token_ids", "_request_id",
                 "_samples", "_unfinished")  # fmt: skip

    def __init__(self, request_id: str, prompt: str | None, prompt_token_ids: list[int], params: SamplingParams) -> None:
        self._request_id = request_id
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        self._params = params
        self._kind = params.output_kind
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._cached: int | None = None
        self._samples = [_empty(index, params) for index in range(params.n)]
        self._unfinished = params.n

    def add(self, events: list[_ossmith.Event]) -> bool:
        """Takes events in their order; returns whether all answers are complete."""
        samples = self._samples
        for sample, token, text, logprobs, prompt, finish, detail in events:
            output = samples[sample]
            if token is not None:
                output.token_ids.append(token)
            if text:
                output.text += text
            if logprobs is not None and output.logprobs is not None and token is not None:
                output.logprobs.append(_logprobs(token, logprobs))
                output.cumulative_logprob = (output.cumulative_logprob or 0.0) + logprobs[0]
            if prompt is not None:
                self._add_prompt(prompt)
            if finish is not None:
                self._end(output, finish, detail)
        return self._unfinished == 0

    @property
    def finished(self) -> bool:
        """Whether all answers are complete."""
        return self._unfinished == 0

    def output(self) -> RequestOutput:
        """The answers so far; with ``DELTA`` what is new since the last call."""
        if self._kind is RequestOutputKind.DELTA:
            outputs = self._samples
            self._samples = [_empty(output.index, self._params) for output in outputs]
        else:
            outputs = [
                CompletionOutput(
                    one.index,
                    one.text,
                    one.token_ids.copy(),
                    one.cumulative_logprob,
                    None if one.logprobs is None else one.logprobs.copy(),
                    one.finish_reason,
                    one.stop_reason,
                )
                for one in self._samples
            ]
        return RequestOutput(
            self._request_id,
            self._prompt,
            self._prompt_token_ids,
            self._prompt_logprobs,
            outputs,
            self._unfinished == 0,
            self._cached,
        )

    def final(self) -> RequestOutput:
        """The answers, which are complete; the state is at its end."""
        return RequestOutput(
            self._request_id,
            self._prompt,
            self._prompt_token_ids,
            self._prompt_logprobs,
            self._samples,
            self._unfinished == 0,
            self._cached,
        )

    def _add_prompt(self, prompt: tuple[int, float, list[_ossmith.Reported | None]]) -> None:
        cached, _, logprobs = prompt
        if self._cached is None:
            self._cached = cached
        if self._params.prompt_logprobs is not None and self._prompt_logprobs is None:
            pairs = zip(self._prompt_token_ids, logprobs)
            self._prompt_logprobs = [None if one is None else _logprobs(token, one) for token, one in pairs]

    def _end(self, output: CompletionOutput, finish: str, detail: int | str | None) -> None:
        self._unfinished -= 1
        if finish == "error":
            raise RequestFailedError(f"the request failed: {detail}")
        output.finish_reason = finish
        stops = self._params.stop
        ids = self._params.stop_token_ids
        if isinstance(detail, int) and isinstance(stops, list):
            output.stop_reason = stops[detail]
        elif finish == "stop" and ids and output.token_ids and output.token_ids[-1] in ids:
            output.stop_reason = output.token_ids[-1]


def _empty(index: int, params: SamplingParams) -> CompletionOutput:
    return CompletionOutput(index, "", [], None, None if params.logprobs is None else [])


def _logprobs(token: int, reported: _ossmith.Reported) -> TokenLogprobs:
    logprob, rank, top = reported
    entries = {id: Logprob(value, place, _text(id)) for place, (id, value) in enumerate(top, 1)}
    entries.setdefault(token, Logprob(logprob, rank, _text(token)))
    return entries


def _text(token: int) -> str:
    return _ossmith.decode_bytes([token]).decode("utf-8", "replace")
