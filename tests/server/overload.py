"""A server with one place and a queue of one: a client that finds it full gets Retry-After, and the SDK retries then."""

from concurrent.futures import ThreadPoolExecutor

import openai
from openai import OpenAI

ASK = [{"role": "user", "content": "What is 17 + 25?"}]


def full_queues_are_waited_out(client: OpenAI, model: str):
    def ask(client):
        try:
            return client.chat.completions.create(model=model, messages=ASK, temperature=0).choices[0].message.content
        except openai.RateLimitError as why:
            assert why.code == "queue_full" and int(why.response.headers["retry-after"]) >= 1
            return None

    with ThreadPoolExecutor(8) as threads:
        at_once = list(threads.map(ask, [client] * 8))
        patient = list(threads.map(ask, [client.with_options(max_retries=20)] * 8))
    assert None in at_once and any(at_once), at_once
    assert all("42" in (text or "") for text in patient), patient


CASES = [full_queues_are_waited_out]
