"""Answers to many prompts at once, on the caller's thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import _engine, _log, _ossmith
from .errors import EngineStoppedError, InvalidRequestError
from .inputs import PromptType, each, tokens_of
from .outputs import RequestOutput, RequestState
from .sampling_params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    import numpy
    import numpy.typing

__all__ = ["LLM"]

# Seconds after which a call that waits for tokens looks at the other requests and at Ctrl-C.
_TICK = 0.01


class LLM:
    """A model on a device, for whole answers to many prompts.

    ``model`` is a built-in name (``nano``, ``gpt-oss-20b``, ``openai/gpt-oss-120b``), a checkpoint folder, a name on the hub,
    or ``synthetic:`` before one of them for random weights of the seed ``weights_seed``.
    ``backend`` is ``auto`` (CUDA where a device can run the model, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    ``max_model_len`` bounds the tokens of a prompt and its answer, ``max_num_seqs`` how many run at once,
    ``max_num_batched_tokens`` the tokens of a step, ``kv_cache_tokens`` the tokens in the cache (twice ``max_model_len`` unless
    it is set). ``draft_tokens`` are proposed from the text so far and verified in one step. ``threads`` are those of the CPU.

    vLLM's further options (``trust_remote_code``, ``gpu_memory_utilization``, ``dtype``, …) are accepted where they change
    nothing, and refused where they ask for what this engine does not do.
    """

    def __init__(
        self,
        model: str = "nano",
        *,
        backend: str = "auto",
        threads: int | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int = 16,
        max_num_batched_tokens: int = 512,
        kv_cache_tokens: int | None = None,
        enable_prefix_caching: bool = True,
        draft_tokens: int = 0,
        weights_seed: int = 0,
        show_progress: bool = True,
        **vllm_options: object,
    ) -> None:
        options = _engine.Options(
            model=str(model),
            backend=backend,
            threads=threads,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_tokens=kv_cache_tokens,
            enable_prefix_caching=enable_prefix_caching,
            draft_tokens=draft_tokens,
            # All prompts of a call wait here.
            max_waiting=1 << 30,
            weights_seed=weights_seed,
        )
        self._native = _engine.load(options, vllm_options, show_progress)

    def generate(
        self,
        prompts: PromptType | Sequence[PromptType] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Answers each prompt, as many at once as fit, and returns the outputs in the order of the prompts.

        A prompt is a text, ``{"prompt": text}``, ``{"prompt_token_ids": ids}``, or a list of ids. Texts are not rendered: they
        go to the model as they are, with special tokens where they stand by name. ``sampling_params`` is one for all prompts or
        one for each. While tokens are computed other Python threads run; Ctrl-C cancels everything and is raised.

        Raises :class:`ossmith.InvalidRequestError` before anything runs if one of the prompts can never be served.
        """
        given = _prompts(prompts, prompt_token_ids)
        params = _params(sampling_params, len(given))
        priorities = _priorities(priority, len(given))
        # A prompt that is refused ends the call here, and what was queued is cancelled with its stream.
        requests = [
            _engine.start(self._native, prompt, params, None, priority)
            for prompt, params, priority in zip(given, params, priorities)
        ]
        return self._run(requests, use_tqdm)

    def chat(
        self,
        messages: _engine.Messages | Sequence[_engine.Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        reasoning_effort: str | None = None,
        date: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers one chat or several, each a list of messages in the form of Chat Completions.

        ``tools`` are functions in that form, ``reasoning_effort`` is ``low``, ``medium`` or ``high``, ``date`` is the one in the
        system message (today unless it is set). ``outputs[0].outputs[0].message`` is the answer as a message, with its reasoning
        and calls.
        """
        chats: Sequence[Any] = messages if messages and not isinstance(messages[0], Mapping) else [messages]
        prompts: list[PromptType] = [
            {"prompt_token_ids": _engine.chat_tokens(chat, tools, reasoning_effort, date, chat_template_kwargs)}
            for chat in chats
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def stream(
        self, prompt: PromptType, sampling_params: SamplingParams | None = None, *, priority: int = 0
    ) -> Iterator[RequestOutput]:
        """Answers a prompt and yields an output whenever tokens have come; ``output_kind`` chooses what is in it.

        Closing the iterator cancels the request.
        """
        params = sampling_params or SamplingParams()
        stream, state = _engine.start(self._native, prompt, params, None, priority)
        try:
            while not state.finished:
                events = stream.take(0.1)
                if events is None:
                    raise EngineStoppedError(self._native.failure() or "the request ended early")
                if events:
                    state.add(events)
                    if state.finished or params.output_kind is not RequestOutputKind.FINAL_ONLY:
                        yield state.output()
        finally:
            stream.cancel()
            _log.flush()

    def logits(self, prompt: PromptType) -> numpy.typing.NDArray[numpy.float32]:
        """Logits of every token of a prompt, ``[tokens, vocab]``, as a read-only view of the engine's own memory.

        Row ``i`` belongs to the token after the first ``i + 1``. No other request may be in flight
        (:class:`ossmith.EngineBusyError`). It needs NumPy.
        """
        import numpy

        _, tokens = tokens_of(prompt)
        return numpy.asarray(self._native.logits(tokens))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, in which special tokens may stand by name."""
        return _ossmith.encode(text, None, [])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special tokens by name, with U+FFFD for bytes that are not UTF-8."""
        return _ossmith.decode_bytes(list(token_ids)).decode("utf-8", "replace")

    def reset_prefix_cache(self) -> None:
        """Forgets all cached prefixes that no request uses."""
        self._native.reset_prefix_cache()

    def metrics(self) -> dict[str, int]:
        """What the engine has counted so far."""
        return self._native.metrics()

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self._native.model_name

    @property
    def backend(self) -> str:
        """The device in one line."""
        return self._native.backend

    @property
    def max_model_len(self) -> int:
        """The most tokens of a prompt and its answer."""
        return self._native.max_model_len

    def shutdown(self) -> None:
        """Cancels everything and frees the device. The object cannot be used afterwards."""
        self._native.shutdown()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"LLM({self.model_name!r}, backend={self.backend!r})"

    def _run(self, requests: list[tuple[_ossmith.Stream, RequestState]], use_tqdm: bool) -> list[RequestOutput]:
        tqdm = _engine.tqdm_class() if use_tqdm else None
        bar = tqdm(total=len(requests), desc="Processed prompts") if tqdm is not None else None
        open_requests = requests
        try:
            while open_requests:
                # The first one is waited for; the others are read without waiting, so that no queue fills up.
                wait = _TICK
                for stream, state in open_requests:
                    events = stream.take(wait)
                    wait = 0.0
                    if events:
                        state.add(events)
                    elif events is None and not state.finished:
                        raise EngineStoppedError(self._native.failure() or "the request ended early")
                finished = sum(state.finished for _, state in open_requests)
                if finished:
                    open_requests = [one for one in open_requests if not one[1].finished]
                    if bar is not None:
                        bar.update(finished)
        except BaseException:
            for stream, _ in open_requests:
                stream.cancel()
            raise
        finally:
            if bar is not None:
                bar.close()
            _log.flush()
        return [state.final() for _, state in requests]


def _prompts(
    prompts: PromptType | Sequence[PromptType] | None,
    prompt_token_ids: Sequence[int] | Sequence[Sequence[int]] | None,
) -> list[PromptType]:
    if prompts is not None and prompt_token_ids is not None:
        raise InvalidRequestError("both prompts and prompt_token_ids are given: give one of them")
    given: Any = prompts if prompts is not None else prompt_token_ids
    if given is None:
        raise InvalidRequestError("there is no prompt: give prompts or prompt_token_ids")
    return list(each(given))


def _params(given: SamplingParams | Sequence[SamplingParams] | None, prompts: int) -> list[SamplingParams]:
    if given is None or isinstance(given, SamplingParams):
        return [given or SamplingParams()] * prompts
    if len(given) != prompts:
        raise InvalidRequestError(
            f"{len(given)} sampling settings for {prompts} prompts; give one for all or one for each"
        )
    return list(given)


def _priorities(given: Sequence[int] | None, prompts: int) -> list[int]:
    if given is None:
        return [0] * prompts
    if len(given) != prompts:
        raise InvalidRequestError(f"{len(given)} priorities for {prompts} prompts; give one for each")
    return list(given)
