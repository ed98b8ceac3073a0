"""Responses through the openai package: create, stream, state, tools, background."""

import json
import re
import time

import openai
from openai import OpenAI
from pydantic import BaseModel

WEATHER = {"type": "function", "name": "get_weather", "description": "The weather in a city.", "strict": True,
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
                          "additionalProperties": False}}


class Sum(BaseModel):
    a: int
    b: int


def plain(client: OpenAI, model: str):
    answer = client.responses.create(model=model, input="What is 17 + 25?", temperature=0)
    assert answer.status == "completed" and "42" in answer.output_text
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert "42" in answer.output[0].content[0].text
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert client.responses.retrieve(answer.id) == answer
    items = client.responses.input_items.list(answer.id)
    assert items.data[0].content[0].text == "What is 17 + 25?"
    client.responses.delete(answer.id)
    try:
        client.responses.retrieve(answer.id)
        raise AssertionError("a deleted response was found")
    except openai.NotFoundError:
        pass
    cut = client.responses.create(model=model, input="What is 17 + 25?", max_output_tokens=5)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


def streamed(client: OpenAI, model: str):
    text, last, added, done = "", -1, [], []
    with client.responses.stream(model=model, input="What is 17 + 25?", temperature=0) as stream:
        for event in stream:
            number = getattr(event, "sequence_number", None)
            if number is not None:
                assert number >= last, "numbers count up"
                last = number
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.output_item.added":
                added.append((event.output_index, event.item.id))
            if event.type == "response.output_item.done":
                done.append((event.output_index, event.item.id))
        final = stream.get_final_response()
    assert "42" in text and final.output_text == text
    assert added == done == [(index, item.id) for index, item in enumerate(final.output)]
    raw = list(client.responses.create(model=model, input="What is 17 + 25?", temperature=0, stream=True))
    assert [event.sequence_number for event in raw] == list(range(len(raw)))
    assert [raw[0].type, raw[1].type, raw[-1].type] == [
        "response.created", "response.in_progress", "response.completed"]
    assert raw[0].response.id == raw[-1].response.id


def state(client: OpenAI, model: str):
    ask = "My name is Alice. Remember it."
    first = client.responses.create(model=model, input=ask, temperature=0)
    by_id = client.responses.create(
        model=model, input="What is my name?", previous_response_id=first.id, temperature=0)
    replayed = client.responses.create(
        model=model, temperature=0, store=False,
        input=[{"role": "user", "content": ask}, *[item.model_dump() for item in first.output],
               {"role": "user", "content": "What is my name?"}])
    assert by_id.output_text == replayed.output_text and "Alice" in by_id.output_text, by_id.output_text
    assert by_id.usage.input_tokens == replayed.usage.input_tokens, "the same prompt"
    try:
        client.responses.create(model=model, input="Hi", previous_response_id="resp_none")
        raise AssertionError("an unknown previous response was accepted")
    except openai.NotFoundError as why:
        assert why.code == "previous_response_not_found"


def tools(client: OpenAI, model: str):
    ask = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = client.responses.create(
        model=model, input=ask, tools=[WEATHER], tool_choice={"type": "function", "name": "get_weather"}, temperature=0)
    call = answer.output[-1]
    assert call.type == "function_call" and call.name == "get_weather" and call.status == "completed"
    assert set(json.loads(call.arguments)) == {"city"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    replayed = client.responses.create(
        model=model, tools=[WEATHER], temperature=0,
        input=ask + [item.model_dump(exclude_none=True) for item in answer.output] + [result])
    by_id = client.responses.create(
        model=model, tools=[WEATHER], temperature=0, previous_response_id=answer.id, input=[result])
    assert by_id.output_text == replayed.output_text
    events = [event.type for event in client.responses.create(
        model=model, input=ask, tools=[WEATHER], tool_choice="required", temperature=0, stream=True)]
    assert events.count("response.function_call_arguments.done") == 1
    assert "response.function_call_arguments.delta" in events


def structured(client: OpenAI, model: str):
    answer = client.responses.parse(
        model=model, input="What is 17 + 25?", text_format=Sum, max_output_tokens=300,
        extra_body={"thinking_token_budget": 20, "seed": 1})
    assert isinstance(answer.output_parsed, Sum), answer


def background(client: OpenAI, model: str):
    job = client.responses.create(model=model, input="What is 17 + 25?", temperature=0, background=True)
    assert job.status in ("queued", "in_progress")
    for _ in range(3000):
        if job.status not in ("queued", "in_progress"):
            break
        time.sleep(0.1)
        job = client.responses.retrieve(job.id)
    assert "42" in job.output_text
    try:
        client.responses.cancel(job.id)
        raise AssertionError("a finished response was cancelled")
    except openai.BadRequestError:
        pass
    long = client.responses.create(
        model=model, input="Hi", background=True, max_output_tokens=20000, extra_body={"ignore_eos": True})
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"


def free_form_input_follows_its_grammar(client: OpenAI, model: str):
    grammar = 'start: NUMBER (" +\\n" NUMBER)~1..3\nNUMBER: /[0-9]{1,3}/'
    asked = dict(
        model=model, input="Add 17 and 25.", max_output_tokens=200,
        tools=[{"type": "custom", "name": "add", "description": "Adds numbers.",
                "format": {"type": "grammar", "syntax": "lark", "definition": grammar}}],
        tool_choice={"type": "custom", "name": "add"})
    for seed in range(3):
        answer = client.responses.create(**asked, extra_body={"seed": seed})
        with client.responses.stream(**asked, extra_body={"seed": seed}) as stream:
            deltas = "".join(e.delta for e in stream if e.type == "response.custom_tool_call_input.delta")
        call = answer.output[-1]
        assert answer.status == "completed" and call.type == "custom_tool_call", answer
        assert re.fullmatch(r"\d{1,3}( \+\n\d{1,3}){1,3}", call.input), call.input
        assert deltas == call.input, (deltas, call.input)


CASES = [plain, streamed, state, tools, structured, background, free_form_input_follows_its_grammar]
