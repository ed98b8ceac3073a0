"""Chat Completions through the openai package, as its users write it."""

import json
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel, Field

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
SUM = [{"role": "user", "content": "What is 17 + 25?"}]


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int = Field(ge=1, le=9)
    kind: Literal["rest", "work"] | None = None


def plain_and_streamed(client: OpenAI, model: str):
    whole = client.chat.completions.create(model=model, messages=SUM, temperature=0)
    message = whole.choices[0].message
    assert "42" in message.content, message
    assert whole.choices[0].finish_reason == "stop"
    assert "42" in message.reasoning
    assert message.tool_calls is None

    content, reasoning, chunks, reasons, usage = "", "", 0, [], None
    stream = client.chat.completions.create(
        model=model, messages=SUM, temperature=0, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        if not chunk.choices:
            usage = chunk.usage
            continue
        assert chunk.usage is None
        choice = chunk.choices[0]
        text = choice.delta.content or ""
        thought = getattr(choice.delta, "reasoning", None) or ""
        content, reasoning = content + text, reasoning + thought
        chunks += bool(text or thought)
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert (content, reasoning) == (message.content, message.reasoning)
    assert reasons == ["stop"]
    for count in ("prompt_tokens", "completion_tokens", "completion_tokens_details"):
        assert getattr(usage, count) == getattr(whole.usage, count), count
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    # One chunk per token; headers and the tokens that end messages have no chunk.
    assert usage.completion_tokens - 12 <= chunks <= usage.completion_tokens


def tokens_and_alternatives(client: OpenAI, model: str):
    answer = client.chat.completions.create(
        model=model, messages=SUM, temperature=0, extra_body={"return_token_ids": True})
    ids = answer.choices[0].token_ids
    assert len(ids) == answer.usage.completion_tokens and ids[-1] == 200002
    assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens

    two = client.chat.completions.create(model=model, messages=SUM, n=2, seed=7, max_tokens=40)
    assert [choice.index for choice in two.choices] == [0, 1]
    again = client.chat.completions.create(model=model, messages=SUM, seed=8, max_tokens=40)
    assert again.choices[0].message == two.choices[1].message, "the seed counts up"

    cut = client.chat.completions.create(model=model, messages=SUM, max_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    all_of_them = client.chat.completions.create(
        model=model, messages=SUM, max_tokens=50, extra_body={"ignore_eos": True})
    assert all_of_them.usage.completion_tokens == 50
    assert all_of_them.choices[0].finish_reason == "length"

    stopped = client.chat.completions.create(
        model=model, messages=SUM, temperature=0, stop=[" ="], extra_body={"thinking_token_budget": 0})
    assert " =" not in stopped.choices[0].message.content
    assert stopped.choices[0].finish_reason == "stop"


def tools(client: OpenAI, model: str):
    ask = [{"role": "user", "content": "What is the weather in Paris?"}]
    for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
        answer = client.chat.completions.create(
            model=model, messages=ask, tools=[WEATHER], tool_choice=choice, temperature=0)
        assert answer.choices[0].finish_reason == "tool_calls"
        call = answer.choices[0].message.tool_calls[0]
        assert call.type == "function" and call.function.name == "get_weather" and call.id
        assert set(json.loads(call.function.arguments)) == {"city"}

    # The same call, streamed: name and id once, arguments in pieces.
    names, arguments, reason = [], "", None
    for chunk in client.chat.completions.create(
            model=model, messages=ask, tools=[WEATHER], tool_choice="required", temperature=0, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert piece.index == 0
            names += [piece.function.name] if piece.function.name else []
            arguments += piece.function.arguments or ""
        reason = chunk.choices[0].finish_reason or reason
    assert names == ["get_weather"] and reason == "tool_calls"
    assert set(json.loads(arguments)) == {"city"}

    # And back: the reply with its reasoning, and the tool's result.
    message = answer.choices[0].message
    history = ask + [message.model_dump(exclude_none=True),
                     {"role": "tool", "tool_call_id": call.id, "content": "sunny, 20 degrees"}]
    final = client.chat.completions.create(model=model, messages=history, tools=[WEATHER], temperature=0)
    assert final.choices[0].finish_reason in ("stop", "tool_calls")

    none = client.chat.completions.create(
        model=model, messages=ask, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=200)
    assert none.choices[0].message.tool_calls is None


def structured(client: OpenAI, model: str):
    ask = [{"role": "user", "content": "Plan a trip to Rome."}]
    for seed in range(3):
        answer = client.chat.completions.parse(
            model=model, messages=ask, response_format=Trip, seed=seed, max_tokens=250)
        assert isinstance(answer.choices[0].message.parsed, Trip), answer
    choice = client.chat.completions.create(
        model=model, messages=ask, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert choice.choices[0].message.content in ("yes", "no")


def refusals(client: OpenAI, model: str):
    def refused(error, **fields):
        try:
            client.chat.completions.create(**({"model": model, "messages": SUM} | fields))
        except error as why:
            assert set(why.body) == {"message", "type", "param", "code"}, why.body
            return why
        raise AssertionError(f"{fields} was not refused")

    assert refused(openai.NotFoundError, model="other").code == "model_not_found"
    assert refused(openai.BadRequestError, temperature=3).param == "temperature"
    assert refused(openai.BadRequestError, tool_choice="required").param == "tool_choice"
    assert "image_url" in str(refused(openai.BadRequestError, messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:,"}}]}]))
    long = [{"role": "user", "content": "word " * 40000}]
    assert refused(openai.BadRequestError, messages=long).code == "context_length_exceeded"
    assert refused(openai.BadRequestError, messages=long, stream=True).code == "context_length_exceeded"
    bad = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "nonsense"}}}
    refused(openai.BadRequestError, response_format=bad)


def completions(client: OpenAI, model: str):
    whole = client.completions.create(model=model, prompt="Hello", max_tokens=8, temperature=0)
    chunks = list(client.completions.create(model=model, prompt="Hello", max_tokens=8, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert len(chunks) == whole.usage.completion_tokens
    several = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    ids = client.completions.create(model=model, prompt=[13225, 2375], max_tokens=1, echo=True)
    assert ids.choices[0].text.startswith("Hello world") and ids.usage.prompt_tokens == 2


def models(client: OpenAI, model: str):
    assert [card.id for card in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model


CASES = [models, plain_and_streamed, completions, refusals, tokens_and_alternatives, tools, structured]
