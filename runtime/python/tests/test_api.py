"""The package's own classes, on nano. Each function is a check; `run.py` starts this file."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import aclosing

import numpy

import ossmith
from ossmith import LLM, AsyncLLM, RequestOutputKind, SamplingParams

LOGGED: list[logging.LogRecord] = []


class Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        LOGGED.append(record)


# The runtime's modules log below its crates' names.
logging.getLogger().addHandler(Keep())
logging.getLogger().setLevel(logging.INFO)

LLM_ = LLM("nano", max_num_seqs=4, kv_cache_tokens=8192, max_model_len=2048)
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
QUESTION = "<|start|>user<|message|>What is 17 + 25?<|end|><|start|>assistant"


def prompts_have_all_forms_of_vllm() -> None:
    ids = LLM_.encode(QUESTION)
    assert ids[0] == 200006 and LLM_.decode(ids) == QUESTION
    one = [QUESTION, {"prompt": QUESTION}, {"prompt_token_ids": ids}, ids, numpy.array(ids)]
    answers = [LLM_.generate(prompt, GREEDY, use_tqdm=False) for prompt in one]
    answers.append(LLM_.generate(prompt_token_ids=[ids], sampling_params=GREEDY, use_tqdm=False))
    assert all(len(outputs) == 1 for outputs in answers)
    token_ids = {tuple(outputs[0].outputs[0].token_ids) for outputs in answers}
    assert len(token_ids) == 1, token_ids
    assert answers[0][0].prompt == QUESTION and answers[2][0].prompt is None
    assert answers[0][0].prompt_token_ids == ids
    several = LLM_.generate(one, [GREEDY] * 5)
    assert [output.outputs[0].token_ids for output in several] == [answers[0][0].outputs[0].token_ids] * 5
    assert all(output.finished for output in several)


def answers_end_as_requested() -> None:
    def run(**settings: object) -> ossmith.CompletionOutput:
        params = SamplingParams(temperature=0.0, **settings)  # type: ignore[arg-type]
        return LLM_.generate(QUESTION, params, use_tqdm=False)[0].outputs[0]

    whole = run(max_tokens=64)
    assert (whole.finish_reason, whole.stop_reason) == ("stop", None), whole
    assert whole.token_ids[-1] == 200002 and "42" in whole.text and "<|" not in whole.text
    assert whole.message["content"] is not None and "42" in whole.message["content"]
    assert "<|message|>" in run(max_tokens=64, skip_special_tokens=False).text
    assert run(max_tokens=64, detokenize=False).text == ""
    cut = run(max_tokens=3)
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 3)
    assert len(run(max_tokens=40, ignore_eos=True).token_ids) == 40
    stopped = run(max_tokens=64, stop="42")
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", "42") and "42" not in stopped.text
    assert run(max_tokens=64, stop=["42"], include_stop_str_in_output=True).text.endswith("42")
    token = whole.token_ids[2]
    by_id = run(max_tokens=64, stop_token_ids=[token])
    assert (by_id.finish_reason, by_id.stop_reason) == ("stop", token)
    banned = run(max_tokens=8, logit_bias={whole.token_ids[0]: float("-inf")})
    assert banned.token_ids[0] != whole.token_ids[0]


def samples_seeds_and_logprobs() -> None:
    params = SamplingParams(n=3, seed=7, max_tokens=8, logprobs=2, prompt_logprobs=0, min_p=0.01, top_k=50)
    first = LLM_.generate(QUESTION, params, use_tqdm=False)[0]
    again = LLM_.generate(QUESTION, params, use_tqdm=False)[0]
    assert [one.token_ids for one in first.outputs] == [one.token_ids for one in again.outputs]
    assert [one.index for one in first.outputs] == [0, 1, 2]
    for one in first.outputs:
        assert one.logprobs is not None and len(one.logprobs) == len(one.token_ids)
        for token, entries in zip(one.token_ids, one.logprobs):
            assert token in entries and len(entries) in (2, 3)
            assert entries[token].logprob <= 0.0 and entries[token].rank is not None
        total = sum(entries[token].logprob for token, entries in zip(one.token_ids, one.logprobs))
        assert one.cumulative_logprob is not None and abs(one.cumulative_logprob - total) < 1e-3
    assert first.prompt_logprobs is not None and len(first.prompt_logprobs) == len(first.prompt_token_ids)
    assert first.prompt_logprobs[0] is None and first.prompt_logprobs[1] is not None


def logits_are_shown_without_a_copy() -> None:
    ids = LLM_.encode(QUESTION)
    logits = LLM_.logits(ids)
    assert logits.shape == (len(ids), LLM_._native.vocab_size) and logits.dtype == numpy.float32
    assert not logits.flags.owndata and not logits.flags.writeable
    first = LLM_.generate(prompt_token_ids=ids, sampling_params=GREEDY, use_tqdm=False)[0].outputs[0].token_ids[0]
    assert int(logits[-1].argmax()) == first
    # A view keeps the memory after everything else is gone.
    row = logits[-1]
    del logits
    assert int(row.argmax()) == first


def errors_are_exceptions_with_the_text_of_the_runtime() -> None:
    def refused(kind: type[BaseException], text: str, call: object) -> None:
        try:
            call()  # type: ignore[operator]
        except kind as error:
            assert text in str(error), str(error)
        else:
            raise AssertionError(f"{text}: not refused")

    def generate(prompt: object, **settings: object) -> object:
        params = SamplingParams(**settings)  # type: ignore[arg-type]
        return LLM_.generate(prompt, params, use_tqdm=False)  # type: ignore[arg-type]

    refused(ossmith.InvalidRequestError, "temperature", lambda: generate("x", temperature=-1.0))
    refused(ValueError, "top_p", lambda: generate("x", top_p=2.0))
    refused(ValueError, "top_k", lambda: generate("x", top_k=-2))
    refused(ossmith.InvalidRequestError, "300000", lambda: generate([300000]))
    refused(ossmith.PromptTooLongError, "5000 tokens", lambda: generate([1] * 5000))
    refused(ossmith.InvalidRequestError, "prompt", lambda: generate({"text": "x"}))
    refused(ossmith.OssmithError, "no model", lambda: LLM("no-such-model"))
    refused(ossmith.InvalidRequestError, "backend", lambda: LLM("nano", backend="tpu"))
    refused(ossmith.InvalidRequestError, "tensor_parallel_size", lambda: LLM("nano", tensor_parallel_size=8))
    refused(ossmith.InvalidRequestError, "seed", lambda: LLM("nano", seed=7))
    refused(ossmith.InvalidRequestError, "no option", lambda: LLM("nano", no_such_option=1))
    refused(ossmith.HarmonyError, "<|start|>", lambda: ossmith.harmony.load_harmony_encoding("HarmonyGptOss").encode("<|start|>"))
    # One prompt that is refused ends the call before anything runs, and harms no later one.
    refused(ossmith.InvalidRequestError, "300000", lambda: LLM_.generate(["x", [300000]], GREEDY, use_tqdm=False))
    assert LLM_.generate(QUESTION, GREEDY, use_tqdm=False)[0].finished


def the_log_goes_to_logging() -> None:
    ready = [record for record in LOGGED if "engine ready" in record.getMessage()]
    assert ready and ready[0].name.startswith("ossmith") and ready[0].levelno == logging.INFO, LOGGED


def streams_are_cumulative_or_deltas() -> None:
    whole = LLM_.generate(QUESTION, GREEDY, use_tqdm=False)[0].outputs[0]
    texts = [output.outputs[0].text for output in LLM_.stream(QUESTION, GREEDY)]
    assert texts[-1] == whole.text and all(later.startswith(text) for text, later in zip(texts, texts[1:]))
    deltas = SamplingParams(temperature=0.0, max_tokens=24, output_kind=RequestOutputKind.DELTA)
    pieces = [output.outputs[0] for output in LLM_.stream(QUESTION, deltas)]
    assert sum((piece.token_ids for piece in pieces), []) == whole.token_ids
    assert "".join(piece.text for piece in pieces) == whole.text
    final = SamplingParams(temperature=0.0, max_tokens=24, output_kind=RequestOutputKind.FINAL_ONLY)
    assert [output.outputs[0].text for output in LLM_.stream(QUESTION, final)] == [whole.text]


def settle() -> None:
    """Waits until no request runs: a cancelled one ends a step later."""
    while LLM_.metrics()["requests_running"] or LLM_.metrics()["requests_waiting"]:
        time.sleep(0.01)


def other_threads_run_while_a_call_waits() -> None:
    # One thread waits in the native module for a request that starts only when this thread ends another one.
    endless = SamplingParams(temperature=0.0, max_tokens=2000, ignore_eos=True)
    blocking = [LLM_._native.submit(LLM_.encode(QUESTION), endless, 0) for _ in range(4)]
    later = LLM_._native.submit(LLM_.encode(QUESTION), GREEDY, 0)
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(later.take(300.0)))
    thread.start()
    for stream in blocking:
        stream.cancel()
    thread.join()
    assert got and got[0], "the other thread could not cancel while this one waited"
    later.cancel()
    settle()


def ctrl_c_ends_a_call() -> None:
    endless = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)

    def interrupt() -> None:
        while LLM_.metrics()["requests_running"] == 0:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell has what it starts in the background ignore Ctrl-C, and Python leaves that as it is.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        # As many as take a minute, since each ends where the context does, and the other thread may be slow to come.
        LLM_.generate([QUESTION] * 64, endless, use_tqdm=False)
        raise AssertionError("it was not interrupted")
    except KeyboardInterrupt:
        pass
    thread.join()
    settle()
    assert LLM_.generate(QUESTION, GREEDY, use_tqdm=False)[0].finished


def an_event_loop_streams_cancels_and_aborts() -> None:
    endless = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)

    async def run() -> None:
        llm = AsyncLLM("nano", max_num_seqs=2, kv_cache_tokens=8192, max_model_len=2048)

        async def answer(params: SamplingParams, name: str | None = None) -> list[ossmith.RequestOutput]:
            return [output async for output in llm.generate(QUESTION, params, name)]

        whole = LLM_.generate(QUESTION, GREEDY, use_tqdm=False)[0].outputs[0]
        outputs = await asyncio.gather(*(answer(GREEDY) for _ in range(5)))
        assert all(one[-1].outputs[0].token_ids == whole.token_ids for one in outputs)
        # Leaving the loop, cancelling the task and aborting by name all free the place: there are two.
        async with aclosing(llm.generate(QUESTION, endless)) as stream:
            async for _ in stream:
                break
        task = asyncio.create_task(answer(endless))
        while llm.metrics()["requests_running"] == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        try:
            await task
            raise AssertionError("a cancelled task ended as if nothing had been")
        except asyncio.CancelledError:
            pass
        named = asyncio.create_task(answer(endless, "mine"))
        while llm.metrics()["requests_running"] == 0 or "mine" not in llm._running:
            await asyncio.sleep(0.01)
        try:
            await answer(GREEDY, "mine")
            raise AssertionError("an id was used twice")
        except ossmith.InvalidRequestError:
            pass
        await llm.abort("mine")
        assert (await named)[-1].outputs[0].finish_reason == "abort"
        assert (await answer(GREEDY))[-1].outputs[0].token_ids == whole.token_ids
        llm.shutdown()
        try:
            await answer(GREEDY)
            raise AssertionError("an engine that was shut down answered")
        except ossmith.EngineStoppedError:
            pass

    asyncio.run(run())


def the_command_is_there() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ossmith", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("--version").stdout.split() == ["ossmith", ossmith.__version__]
    answer = run("generate", "What is 17 + 25?", "--temperature", "0", "--max-tokens", "64")
    assert answer.returncode == 0 and "42" in answer.stdout, answer
    wrong = run("generate", "--model", "no-such-model", "x")
    assert wrong.returncode == 1 and "no-such-model" in wrong.stderr, wrong


def the_server_runs_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "ossmith", "serve", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        announced = server.stdout.readline()
        address = announced.split(" on ")[1].split()[0]
        # A regular expression is tried out by a process of its own, which is this command again.
        body = {
            "model": "nano",
            "messages": [{"role": "user", "content": "What is 17 + 25?"}],
            "structured_outputs": {"regex": "[0-9]{2} marbles"},
            "max_tokens": 64,
        }
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        assert answer["choices"][0]["message"]["content"].endswith(" marbles"), answer
    finally:
        server.terminate()
        assert server.wait() == 0


CHECKS = [
    prompts_have_all_forms_of_vllm,
    answers_end_as_requested,
    samples_seeds_and_logprobs,
    logits_are_shown_without_a_copy,
    errors_are_exceptions_with_the_text_of_the_runtime,
    the_log_goes_to_logging,
    streams_are_cumulative_or_deltas,
    other_threads_run_while_a_call_waits,
    ctrl_c_ends_a_call,
    an_event_loop_streams_cancels_and_aborts,
    the_command_is_there,
    the_server_runs_in_the_interpreter,
]

if __name__ == "__main__":
    for check in CHECKS:
        check()
        print(f"ok {check.__name__.replace('_', ' ')}", flush=True)
