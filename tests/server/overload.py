"""A server with one place and a queue of one: a client that finds it full gets Retry-After, and the SDK retries then."""

from concurrent.futures import ThreadPoolExecutor

import openai
from openai import OpenAI

ASK = [{"role": "user", "content": "What is 17 + 25?"}]


def full_queues_are_waited_out(client: OpenAI, model: str):
    def ask(client):
        return client.chat.completions.create(model=model, messages=ASK, temperature=0).choices[0].message.content

    # Answers that nobody reads hold the place and the queue for as long as they are open.
    def held():
        return client.completions.create(
            model=model, prompt="a", max_tokens=8000, stream=True, logprobs=20, extra_body={"ignore_eos": True})

    with held(), held():
        try:
            raise AssertionError(f"there was room for {ask(client)}")
        except openai.RateLimitError as why:
            assert why.code == "queue_full" and int(why.response.headers["retry-after"]) >= 1
    # However long it takes, everybody is served once there is room.
    with ThreadPoolExecutor(8) as threads:
        patient = list(threads.map(ask, [client.with_options(max_retries=1000)] * 8))
    assert all("42" in (text or "") for text in patient), patient


CASES = [full_queues_are_waited_out]
