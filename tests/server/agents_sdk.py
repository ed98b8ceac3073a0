"""Runs of the Agents SDK over both of its model classes, and over LiteLLM where that is installed."""

import asyncio

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from agents.model_settings import ModelSettings
from openai import AsyncOpenAI, OpenAI

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


CASES = [answers, streams, calls]
