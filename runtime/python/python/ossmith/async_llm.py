"""Streams of many requests in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextvars import Context
from typing import Any

from . import _engine, _log
from .errors import EngineStoppedError, InvalidRequestError
from .inputs import PromptType
from .outputs import RequestOutput
from .sampling_params import RequestOutputKind, SamplingParams

__all__ = ["AsyncLLM"]


class AsyncLLM:
    """A model on a device, for streams of answers in an event loop of asyncio.

    It takes the options of :class:`ossmith.LLM`. ``max_waiting`` bounds how many requests may wait;
    :class:`ossmith.QueueFullError` is raised for any more. Loading takes a while and does not return to the loop:
    ``await asyncio.to_thread(AsyncLLM, model)`` lets the loop go on. One event loop uses an engine at a time.
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
        max_waiting: int = 4096,
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
            max_waiting=max_waiting,
            weights_seed=weights_seed,
        )
        self._native = _engine.load(options, vllm_options, show_progress)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waits: dict[int, _Wait] = {}
        self._running: dict[str, Any] = {}

    async def generate(
        self,
        prompt: PromptType,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answers a prompt and yields an output whenever tokens have come; ``output_kind`` chooses what is in it.

        Leaving the loop over it (with ``aclosing`` or by cancelling its task) cancels the request within a step, and so does
        :meth:`abort`, after which the last output has the finish reason ``abort``.
        """
        params = sampling_params or SamplingParams()
        self._watch()
        if request_id is not None and request_id in self._running:
            raise InvalidRequestError(f"the request id {request_id!r} is in use")
        stream, state = _engine.start(self._native, prompt, params, request_id, priority)
        name = request_id or str(stream.id)
        self._running[name] = stream
        loop = asyncio.get_running_loop()
        whole_only = params.output_kind is RequestOutputKind.FINAL_ONLY
        poll, add = stream.poll, state.add
        self._waits[stream.id] = wait = _Wait(loop)
        try:
            while True:
                events = poll()
                if events is None:
                    raise EngineStoppedError(self._native.failure() or "the request ended early")
                if not events:
                    await wait
                    continue
                finished = add(events)
                if finished or not whole_only:
                    yield state.output()
                if finished:
                    return
        finally:
            self._waits.pop(stream.id, None)
            self._running.pop(name, None)
            stream.cancel()
            _log.flush()

    async def chat(
        self,
        messages: _engine.Messages,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        reasoning_effort: str | None = None,
        date: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answers a chat, as :meth:`ossmith.LLM.chat` does, and yields outputs as :meth:`generate` does."""
        tokens = _engine.chat_tokens(messages, tools, reasoning_effort, date, chat_template_kwargs)
        stream = self.generate({"prompt_token_ids": tokens}, sampling_params, request_id, priority=priority)
        try:
            async for output in stream:
                yield output
        finally:
            await stream.aclose()

    async def abort(self, request_id: str) -> None:
        """Ends a request within a step; one that is unknown or has ended is ignored."""
        stream = self._running.get(request_id)
        if stream is not None:
            stream.cancel()

    def metrics(self) -> dict[str, int]:
        """What the engine has counted so far."""
        return self._native.metrics()

    async def check_health(self) -> None:
        """Raises :class:`ossmith.EngineStoppedError` if the engine no longer runs."""
        failure = self._native.failure()
        if failure is not None:
            raise EngineStoppedError(failure)

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
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._native.wakeup_descriptor())
        self._loop = None
        self._native.shutdown()

    def _watch(self) -> None:
        """Has the running loop call :meth:`_wake` when the engine's pipe is readable."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        descriptor = self._native.wakeup_descriptor()
        if self._loop is not None and not self._loop.is_closed():
            if self._running:
                raise InvalidRequestError("the engine has requests in another event loop")
            self._loop.remove_reader(descriptor)
        loop.add_reader(descriptor, self._wake)
        self._loop = loop

    def _wake(self) -> None:
        waits = self._waits
        for stream in self._native.take_wakeups():
            wait = waits.get(stream)
            if wait is not None:
                wait.end()


class _Wait:
    """What a task awaits until its stream has events, as often as it has none: a future by the protocol of tasks, whose end has
    the task go on at once.

    The end of an :class:`asyncio.Future` is passed on by the loop's next round, which costs every token a further system call.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._callback: Callable[[_Wait], object] | None = None
        self._context: Context | None = None
        self._cancelled: tuple[object, ...] | None = None

    def __await__(self) -> Generator[_Wait, None, None]:
        self._asyncio_future_blocking = True
        # The task reads the result, and throws what that raises.
        yield self

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[_Wait], object], *, context: Context) -> None:
        """The task calls this once, and goes on when it is called back."""
        self._callback, self._context = callback, context

    def end(self) -> None:
        """Has the task go on. It must not be called by a task."""
        callback, self._callback = self._callback, None
        if callback is not None and self._context is not None:
            self._context.run(callback, self)

    def cancel(self, msg: object = None) -> bool:
        """The task is cancelled while it waits."""
        callback, self._callback = self._callback, None
        if callback is None:
            return False
        self._cancelled = () if msg is None else (msg,)
        self._loop.call_soon(callback, self, context=self._context)
        return True

    def result(self) -> None:
        """The task reads this before it goes on."""
        if self._cancelled is not None:
            raise asyncio.CancelledError(*self._cancelled)
