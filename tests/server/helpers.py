"""The openai package's helpers and habits: parsed streams, the async client, raw responses, allowed tools."""

import asyncio
import json

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

SUM = "What is 17 + 25?"
ASK = [{"role": "user", "content": SUM}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
FLAT = [{"type": "function", "name": name, "description": "About a city.", "strict": True, "parameters": CITY}
        for name in ("get_weather", "get_time")]
NESTED = [{"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in FLAT]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


class Sum(BaseModel):
    a: int
    b: int


class GetWeather(BaseModel):
    """The weather in a city."""
    city: str


def chat_stream_helper(client: OpenAI, model: str):
    seen = []
    with client.chat.completions.stream(
            model=model, messages=ASK, temperature=0, stream_options={"include_usage": True}) as stream:
        for event in stream:
            seen.append(event.type)
        final = stream.get_final_completion()
    assert "42" in final.choices[0].message.content and final.usage.completion_tokens > 0
    assert "content.delta" in seen and seen.count("content.done") == 1, seen

    with client.chat.completions.stream(
            model=model, messages=WEATHER, tools=[openai.pydantic_function_tool(GetWeather)],
            tool_choice="required", temperature=0) as stream:
        events = list(stream)
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, GetWeather), call
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == ["GetWeather"]
    assert json.loads(done[0].arguments) == call.function.parsed_arguments.model_dump()

    with client.chat.completions.stream(
            model=model, messages=ASK, response_format=Sum, max_tokens=200, seed=1,
            extra_body={"thinking_token_budget": 20}) as stream:
        parsed = [event.parsed for event in stream if event.type == "content.done"]
        assert isinstance(parsed[0], Sum) and stream.get_final_completion().choices[0].message.parsed == parsed[0]


def chat_parse_with_tools(client: OpenAI, model: str):
    answer = client.chat.completions.parse(
        model=model, messages=WEATHER, tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice="required", temperature=0)
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, GetWeather)


def responses_stream_helper(client: OpenAI, model: str):
    extra = {"thinking_token_budget": 20}
    with client.responses.stream(
            model=model, input=SUM, text_format=Sum, max_output_tokens=200, extra_body=extra) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Sum), final
    assert {"response.output_text.done", "response.completed", "response.content_part.done"} <= kinds

    with client.responses.stream(
            model=model, input=WEATHER, tools=[openai.pydantic_function_tool(GetWeather)],
            tool_choice="required", temperature=0) as stream:
        snapshot = ""
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                snapshot = event.snapshot
        call = stream.get_final_response().output[-1]
    assert call.type == "function_call" and call.arguments == snapshot
    assert isinstance(call.parsed_arguments, GetWeather), call


def tool_choices(client: OpenAI, model: str):
    """Every form of tool_choice, with parallel calls allowed and not: the names that may come, and that one must."""
    only = {"type": "function", "name": "get_time"}
    nested = {"type": "function", "function": {"name": "get_time"}}
    for choice, chat_choice, names in [
        ("required", "required", {"get_weather", "get_time"}),
        (only, nested, {"get_time"}),
        ({"type": "allowed_tools", "mode": "required", "tools": [only]},
         {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [nested]}}, {"get_time"}),
        ("none", "none", None),
    ]:
        for parallel in (True, False):
            chat = client.chat.completions.create(
                model=model, messages=WEATHER, tools=NESTED, tool_choice=chat_choice, temperature=0,
                parallel_tool_calls=parallel, max_tokens=300)
            answer = client.responses.create(
                model=model, input=WEATHER, tools=FLAT, tool_choice=choice, temperature=0,
                parallel_tool_calls=parallel, max_output_tokens=300)
            assert answer.parallel_tool_calls is parallel
            called = [item.name for item in answer.output if item.type == "function_call"]
            assert called == [call.function.name for call in chat.choices[0].message.tool_calls or []]
            assert (set(called) <= names and called) if names else not called, (choice, called)
            assert parallel or len(called) <= 1


def many_results(client: OpenAI, model: str):
    """Two calls in one message and their results, in any order, over both APIs: the same prompt."""
    calls = [("call_a", "Paris"), ("call_b", "Rome")]
    prompts = set()
    for order in (calls, calls[::-1]):
        history = WEATHER + [{"role": "assistant", "content": None, "tool_calls": [
            {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}
            for id, city in calls]}] + [{"role": "tool", "tool_call_id": id, "content": city} for id, city in order]
        items = WEATHER + [{"type": "function_call", "call_id": id, "name": "get_weather", "arguments": json.dumps(
            {"city": city})} for id, city in calls] + [
            {"type": "function_call_output", "call_id": id, "output": city} for id, city in order]
        chat = client.chat.completions.create(
            model=model, messages=history, tools=NESTED, temperature=0, max_tokens=100,
            extra_body={"return_token_ids": True})
        answer = client.responses.create(model=model, input=items, tools=FLAT, temperature=0, max_output_tokens=100)
        assert answer.usage.input_tokens == chat.usage.prompt_tokens
        prompts.add(tuple(chat.prompt_token_ids))
    assert len(prompts) == 1


def chains(client: OpenAI, model: str):
    """A tool round and a further question by `previous_response_id`, streamed and not; instructions do not go along."""
    first = client.responses.create(
        model=model, input=WEATHER, tools=FLAT, tool_choice="required", temperature=0, instructions="Be brief.",
        metadata={"run": "1"}, reasoning={"effort": "low", "summary": "auto"}, truncation="auto",
        include=["reasoning.encrypted_content"])
    assert first.metadata == {"run": "1"} and first.reasoning.effort == "low" and first.truncation == "auto"
    call = next(item for item in first.output if item.type == "function_call")
    outputs = [{"type": "function_call_output", "call_id": item.call_id, "output": [{"type": "input_text", "text": "sunny"}]}
               for item in first.output if item.type == "function_call"]
    second = client.responses.create(
        model=model, previous_response_id=first.id, input=outputs, tools=FLAT, tool_choice="none", temperature=0)
    assert second.previous_response_id == first.id and second.instructions is None and second.status == "completed"
    events = list(client.responses.create(
        model=model, previous_response_id=second.id, input=SUM, temperature=0, stream=True))
    third = events[-1].response
    assert events[-1].type == "response.completed"
    assert third.usage.input_tokens_details.cached_tokens >= 0
    # A branch from the first one does not see the second.
    branch = client.responses.create(model=model, previous_response_id=first.id, input=outputs, tools=FLAT,
                                     tool_choice="none", temperature=0)
    assert branch.usage.input_tokens == second.usage.input_tokens and branch.output_text == second.output_text
    assert call.call_id.startswith("call_")
    hidden = client.responses.create(model=model, input=SUM, store=False, temperature=0)
    # What was said before the question is part of its prompt, and a word is a token at least.
    said = f"{WEATHER[0]['content']} sunny {second.output_text}".split()
    assert third.usage.input_tokens - hidden.usage.input_tokens >= len(said)
    try:
        client.responses.retrieve(hidden.id)
        raise AssertionError("a response that was not to be stored was")
    except openai.NotFoundError:
        pass


def background_stream(client: OpenAI, model: str):
    whole = list(client.responses.create(model=model, input=SUM, temperature=0, background=True, stream=True))
    job = whole[-1].response
    assert whole[-1].type == "response.completed" and "42" in job.output_text
    rest = list(client.responses.retrieve(job.id, stream=True, starting_after=4))
    assert [event.sequence_number for event in rest] == [event.sequence_number for event in whole[5:]]
    assert client.responses.retrieve(job.id).output_text == job.output_text


def asynchronous(client: OpenAI, model: str):
    async def run():
        async with AsyncOpenAI(base_url=str(client.base_url), api_key=client.api_key, max_retries=0) as many:
            ask = [many.chat.completions.create(
                model=model, messages=ASK, temperature=0, seed=1) for _ in range(8)]
            answers = {answer.choices[0].message.content for answer in await asyncio.gather(*ask)}
            assert len(answers) == 1 and "42" in answers.pop(), "the same request, the same answer"
            text = ""
            async with many.responses.stream(model=model, input=SUM, temperature=0) as stream:
                async for event in stream:
                    text += event.delta if event.type == "response.output_text.delta" else ""
            assert "42" in text
            # A client that goes away in the middle disturbs nobody.
            long = await many.chat.completions.create(
                model=model, messages=ASK, stream=True, max_tokens=4000, extra_body={"ignore_eos": True})
            async for _ in long:
                await long.close()
                break
            return (await many.models.retrieve(model)).id
    assert asyncio.run(run()) == model


def raw_responses(client: OpenAI, model: str):
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=ASK, max_tokens=4, extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1" and raw.request_id == "mine-1"
    assert raw.headers["content-type"] == "application/json" and raw.parse().id == "chatcmpl-mine-1"
    plain = client.responses.create(model=model, input=SUM, max_output_tokens=4)
    assert plain._request_id, "one is made where none was sent"
    with client.chat.completions.with_streaming_response.create(
            model=model, messages=ASK, max_tokens=4, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])
    try:
        client.with_options(timeout=0.05).chat.completions.create(
            model=model, messages=ASK, max_tokens=4000, extra_body={"ignore_eos": True})
        raise AssertionError("there was no timeout")
    except openai.APITimeoutError:
        pass
    try:
        client.chat.completions.create(model="other", messages=ASK)
        raise AssertionError("an unknown model was accepted")
    except openai.NotFoundError as why:
        assert why.code == "model_not_found" and why.request_id


def sampling_fields(client: OpenAI, model: str):
    """seed, logit_bias, stop while streaming, logprobs while streaming, n while streaming, cut answers."""
    samples = [client.chat.completions.create(model=model, messages=ASK, seed=seed, max_tokens=30).choices[0].message
             for seed in (3, 3)]
    assert samples[0] == samples[1]
    plain = {"messages": ASK, "model": model, "temperature": 0, "extra_body": {"thinking_token_budget": 0}}
    whole = client.chat.completions.create(**plain).choices[0].message.content
    # A token that is pushed up comes, a token that is pushed down does not.
    ids = client.completions.create(model=model, prompt="Hi", max_tokens=3, logit_bias={"1234": 100}, temperature=0,
                                    extra_body={"return_token_ids": True}).choices[0].token_ids
    assert ids == [1234] * 3
    middle = whole[len(whole) // 2:][:3]
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(
        **plain, stop=[middle, "@@", "##", "$$"], stream=True))
    assert middle not in streamed and whole.startswith(streamed)

    reference = client.chat.completions.create(**plain, logprobs=True, top_logprobs=2).choices[0]
    tokens, texts = [], ""
    for chunk in client.chat.completions.create(**plain, logprobs=True, top_logprobs=2, stream=True):
        tokens += chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else []
        texts += chunk.choices[0].delta.content or ""
    assert texts == reference.message.content
    assert [t.token for t in tokens] == [t.token for t in reference.logprobs.content]
    assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in tokens)

    # With reasoning before it, they are still those of the text.
    said = client.chat.completions.create(messages=ASK, model=model, temperature=0, logprobs=True).choices[0]
    assert "".join(t.token for t in said.logprobs.content) == said.message.content, said

    roles, reasons, usage = [], [], None
    for chunk in client.chat.completions.create(
            model=model, messages=ASK, n=3, seed=5, stream=True, max_tokens=20, stream_options={"include_usage": True}):
        roles += [choice.index for choice in chunk.choices if choice.delta.role]
        reasons += [choice.index for choice in chunk.choices if choice.finish_reason]
        usage = chunk.usage or usage
    assert sorted(roles) == sorted(reasons) == [0, 1, 2] and usage.completion_tokens <= 60


CASES = [chat_stream_helper, chat_parse_with_tools, responses_stream_helper, tool_choices, many_results, chains,
         background_stream, asynchronous, raw_responses, sampling_fields]
