"""Runs of the Agents SDK over both of its model classes, and over LiteLLM where that is installed."""

import asyncio

from agents import (
    Agent, GuardrailFunctionOutput, InputGuardrailTripwireTriggered, OpenAIChatCompletionsModel, OpenAIResponsesModel,
    Runner, SQLiteSession, function_tool, input_guardrail, set_tracing_disabled)
from agents.model_settings import ModelSettings
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

set_tracing_disabled(True)
CALLS = []


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    CALLS.append(city)
    return "sunny"


def kinds(client: OpenAI, model: str):
    # A client of its own for each: every run has an event loop of its own.
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        yield kind(model=model, openai_client=AsyncOpenAI(base_url=str(client.base_url), api_key=client.api_key))
    try:
        from agents.extensions.models.litellm_model import LitellmModel
    except ImportError:
        print("NOT CHECKED: the Agents SDK over LiteLLM: litellm is not installed")
        return
    yield LitellmModel(model=f"openai/{model}", base_url=str(client.base_url), api_key=client.api_key)


def answers(client: OpenAI, model: str):
    for kind in kinds(client, model):
        agent = Agent(name="Sums", model=kind, model_settings=ModelSettings(temperature=0))
        result = asyncio.run(Runner.run(agent, "What is 17 + 25?"))
        assert "42" in result.final_output, (type(kind), result.final_output)


def streams(client: OpenAI, model: str):
    async def run(agent):
        result = Runner.run_streamed(agent, "What is 17 + 25?")
        text = ""
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                text += event.data.delta
        return text, result.final_output

    for kind in kinds(client, model):
        agent = Agent(name="Sums", model=kind, model_settings=ModelSettings(temperature=0))
        text, final = asyncio.run(run(agent))
        assert text == final and "42" in final, (type(kind), text, final)


def calls(client: OpenAI, model: str):
    for kind in kinds(client, model):
        CALLS.clear()
        # After a required call the SDK lets the model choose, so the run ends.
        settings = ModelSettings(temperature=0, tool_choice="required", max_tokens=400)
        agent = Agent(name="Weather", model=kind, model_settings=settings, tools=[get_weather])
        result = asyncio.run(Runner.run(agent, "What is the weather in Paris?", max_turns=4))
        assert CALLS and isinstance(CALLS[0], str), type(kind)
        assert isinstance(result.final_output, str), type(kind)


class City(BaseModel):
    # Bounded: a small model may not find the end of a text by itself.
    city: str = Field(max_length=24)


def final_outputs_have_their_type(client: OpenAI, model: str):
    for kind in kinds(client, model):
        # Bounded, so that a small model's reasoning leaves room for the answer.
        settings = ModelSettings(temperature=0, max_tokens=400)
        agent = Agent(name="Cities", model=kind, model_settings=settings, output_type=City)
        result = asyncio.run(Runner.run(agent, "What is the capital of France?"))
        assert isinstance(result.final_output, City), (type(kind), result.final_output)


def hand_offs(client: OpenAI, model: str):
    for kind in kinds(client, model):
        sums = Agent(name="Sums", model=kind, model_settings=ModelSettings(temperature=0))
        # A handoff is a function; with no other on offer, a required call is this one.
        settings = ModelSettings(temperature=0, tool_choice="required", max_tokens=400)
        desk = Agent(name="Desk", model=kind, model_settings=settings, handoffs=[sums])
        result = asyncio.run(Runner.run(desk, "What is 17 + 25?", max_turns=3))
        assert result.last_agent is sums and isinstance(result.final_output, str), type(kind)
        kinds_of_items = [item.type for item in result.new_items]
        assert "handoff_call_item" in kinds_of_items and "handoff_output_item" in kinds_of_items, kinds_of_items


def run_events(client: OpenAI, model: str):
    async def run(agent):
        result = Runner.run_streamed(agent, "What is the weather in Paris?", max_turns=4)
        names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
        return names, result.final_output

    for kind in kinds(client, model):
        settings = ModelSettings(temperature=0, tool_choice="required", max_tokens=400, parallel_tool_calls=False)
        agent = Agent(name="Weather", model=kind, model_settings=settings, tools=[get_weather])
        names, final = asyncio.run(run(agent))
        assert {"tool_called", "tool_output", "message_output_created"} <= set(names), (type(kind), names)
        assert names.index("tool_called") < names.index("tool_output") and isinstance(final, str)


def guardrails(client: OpenAI, model: str):
    @input_guardrail
    async def no_sums(_context, _agent, text):
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered="+" in str(text))

    for kind in kinds(client, model):
        agent = Agent(name="Guarded", model=kind, model_settings=ModelSettings(temperature=0), input_guardrails=[no_sums])

        async def both():
            try:
                await Runner.run(agent, "What is 17 + 25?")
                raise AssertionError("the guardrail held nobody")
            except InputGuardrailTripwireTriggered:
                return (await Runner.run(agent, "What is the capital of France?")).final_output

        assert asyncio.run(both())


def sessions(client: OpenAI, model: str):
    for kind in kinds(client, model):
        agent = Agent(name="Memory", model=kind, model_settings=ModelSettings(temperature=0))

        async def talk():
            session = SQLiteSession("a")
            await Runner.run(agent, "My name is Alice. Remember it.", session=session)
            # Twice, so that what the second turn sends back holds the first's reasoning and answer.
            await Runner.run(agent, "What is 17 + 25?", session=session)
            result = await Runner.run(agent, "What is my name?", session=session)
            return result, await session.get_items()

        result, items = asyncio.run(talk())
        assert isinstance(result.final_output, str) and len(items) >= 6, type(kind)


CASES = [answers, streams, calls, final_outputs_have_their_type, hand_offs, run_events, guardrails, sessions]
