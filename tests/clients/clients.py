"""Clients from PyPI against a scripted server: a streamed round with a tool each.

    python clients.py BASE_URL [case …]

The model calls `get_weather` once for each question, and answers with what it returned. Prints `ok CLIENT | VERSION | WHAT` for
each that went through.
"""

import asyncio
import importlib.metadata
import sys
import traceback

URL = sys.argv[1]
MODEL = "gpt-oss-20b"
QUESTION = "What is the weather in Paris?"
SUNNY = "It is sunny in Paris."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
NESTED = [{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}}]
ASK = [{"role": "user", "content": QUESTION}]
CASES = []


def case(client: str, package: str, what: str):
    def add(run):
        CASES.append((run, client, package, what))
        return run
    return add


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The city.
    """
    return f"It is sunny in {city}."


def check(answer: str):
    assert SUNNY in answer, answer


@case("OpenAI for Python, Chat Completions", "openai", "a streamed round with a tool")
def openai_chat():
    from openai import OpenAI
    client, messages = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), list(ASK)
    for last in (False, True):
        with client.chat.completions.stream(model=MODEL, messages=messages, tools=NESTED) as stream:
            text = "".join(event.delta for event in stream if event.type == "content.delta")
            message = stream.get_final_completion().choices[0].message
        assert text == (message.content or "")
        if last:
            return check(message.content)
        call = message.tool_calls[0]
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": get_weather("Paris")}]


@case("OpenAI for Python, Responses", "openai", "a streamed round with a tool, its reasoning sent back")
def openai_responses():
    from openai import OpenAI
    client, items = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), list(ASK)
    tool = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True}
    for last in (False, True):
        with client.responses.stream(model=MODEL, input=items, tools=[tool], store=False) as stream:
            for _ in stream:
                pass
            response = stream.get_final_response()
        if last:
            return check(response.output_text)
        call = next(item for item in response.output if item.type == "function_call")
        items += [item.model_dump(exclude_none=True) for item in response.output]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": get_weather("Paris")})


@case("Anthropic for Python", "anthropic", "a streamed round with a tool and its thinking, count_tokens, models, errors")
def anthropic_sdk():
    import anthropic
    client, messages = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0), list(ASK)
    tools = [{"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}]
    for last in (False, True):
        with client.messages.stream(model=MODEL, max_tokens=2000, messages=messages, tools=tools,
                                    thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
            kinds = [event.type for event in stream]
            message = stream.get_final_message()
        assert kinds[-1] == "message_stop" and message.content[0].type == "thinking", message
        counted = client.messages.count_tokens(model=MODEL, messages=messages, tools=tools)
        # An assistant's turn with a budget begins in the prompt.
        assert 0 <= message.usage.input_tokens - counted.input_tokens <= 3, (message.usage, counted)
        if last:
            check(message.content[-1].text)
            break
        assert message.stop_reason == "tool_use"
        call = message.content[-1]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": get_weather(**call.input)}
        messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert [model.id for model in client.models.list()] == [MODEL]
    try:
        client.messages.create(model="other", max_tokens=1, messages=ASK)
        raise AssertionError("an unknown model was accepted")
    except anthropic.NotFoundError as why:
        assert why.request_id and "other" in str(why)


@case("Anthropic for Python, tool runner", "anthropic", "a streamed run of a Python function as a tool")
def anthropic_runner():
    import anthropic
    client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
    runner = client.beta.messages.tool_runner(model="claude-sonnet-4-6", max_tokens=2000, messages=ASK,
                                              tools=[anthropic.beta_tool(get_weather)], stream=True)
    for stream in runner:
        message = stream.get_final_message()
    check(message.content[-1].text)


@case("Ollama for Python", "ollama", "a streamed round with a Python function as a tool, generate, list, show, ps, pull")
def ollama_client():
    from ollama import Client, ResponseError
    client, messages = Client(host=URL), list(ASK)
    for last in (False, True):
        text, thinking, calls = "", "", []
        for part in client.chat(model="gpt-oss:20b", messages=messages, tools=[get_weather], think="low", stream=True):
            text += part.message.content or ""
            thinking += part.message.thinking or ""
            calls += part.message.tool_calls or []
        assert part.done and part.eval_count > 0 and thinking
        if last:
            check(text)
            break
        result = get_weather(**calls[0].function.arguments)
        messages += [{"role": "assistant", "thinking": thinking, "tool_calls": calls},
                     {"role": "tool", "tool_name": calls[0].function.name, "content": result}]
    assert client.generate(model="gpt-oss:20b", prompt="Hi").response == "Hello, wörld!"
    assert "gpt-oss:20b" in [model.model for model in client.list().models]
    assert "tools" in client.show("gpt-oss:20b").capabilities and client.ps().models
    assert [part.status for part in client.pull("gpt-oss:20b", stream=True)][-1] == "success"
    try:
        client.pull("llama3")
        raise AssertionError("a model was fetched")
    except ResponseError as why:
        assert why.status_code == 404 and "llama3" in why.error


def agents_model(api: str):
    from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel, set_tracing_disabled
    from openai import AsyncOpenAI
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    return kind(model=MODEL, openai_client=client)


async def agents_two_turns(agent):
    from agents import Runner
    items = ASK
    for _ in range(2):
        result = Runner.run_streamed(agent, items)
        names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
        assert "tool_called" in names and "tool_output" in names, names
        check(result.final_output)
        items = result.to_input_list() + [{"role": "user", "content": "And now?"}]


@case("Agents SDK for Python, Responses", "openai-agents", "two streamed turns, each with a tool")
def agents_responses():
    from agents import Agent, function_tool
    asyncio.run(agents_two_turns(Agent(name="W", model=agents_model("responses"), tools=[function_tool(get_weather)])))


@case("Agents SDK for Python, Chat Completions", "openai-agents", "two streamed turns, each with a tool")
def agents_chat():
    from agents import Agent, function_tool
    asyncio.run(agents_two_turns(Agent(name="W", model=agents_model("chat"), tools=[function_tool(get_weather)])))


@case("Agents SDK for Python, MCP", "openai-agents", "two streamed turns, each with a tool of an MCP server over stdio")
def agents_mcp():
    from agents import Agent
    from agents.mcp import MCPServerStdio
    from pathlib import Path

    async def run():
        params = {"command": sys.executable, "args": [str(Path(__file__).with_name("mcp_server.py"))]}
        async with MCPServerStdio(params=params, client_session_timeout_seconds=60) as server:
            await agents_two_turns(Agent(name="W", model=agents_model("responses"), mcp_servers=[server]))
    asyncio.run(run())


def langchain_agent(model):
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    answer = ""
    agent = create_agent(model, [tool(get_weather)])
    for message, _ in agent.stream({"messages": ASK}, stream_mode="messages"):
        answer += message.text if message.type == "AIMessageChunk" else ""
    check(answer)


@case("LangChain, ChatOpenAI", "langchain-openai", "a streamed agent with a tool over Chat Completions")
def langchain_chat():
    from langchain_openai import ChatOpenAI
    langchain_agent(ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_retries=0, streaming=True))


@case("LangChain, ChatOpenAI with Responses", "langchain-openai", "a streamed agent with a tool over Responses")
def langchain_responses():
    from langchain_openai import ChatOpenAI
    langchain_agent(ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_retries=0, streaming=True,
                               use_responses_api=True))


@case("LangChain, ChatAnthropic", "langchain-anthropic", "a streamed agent with a tool over Messages")
def langchain_anthropic():
    from langchain_anthropic import ChatAnthropic
    langchain_agent(ChatAnthropic(model="claude-sonnet-4-6", base_url=URL, api_key="none", max_retries=0, streaming=True))


def litellm_round(model: str, base: str):
    import litellm
    litellm.suppress_debug_info = True
    messages = list(ASK)
    for last in (False, True):
        chunks = list(litellm.completion(model=model, api_base=base, api_key="none", messages=messages, tools=NESTED,
                                         stream=True, max_tokens=500))
        message = litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message
        if last:
            return check(message.content)
        call = message.tool_calls[0]
        messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": get_weather("Paris")}]


@case("LiteLLM, openai/", "litellm", "a streamed round with a tool over Chat Completions")
def litellm_openai():
    litellm_round(f"openai/{MODEL}", f"{URL}/v1")


@case("LiteLLM, hosted_vllm/", "litellm", "a streamed round with a tool over Chat Completions")
def litellm_vllm():
    litellm_round(f"hosted_vllm/{MODEL}", f"{URL}/v1")


@case("LiteLLM, anthropic/", "litellm", "a streamed round with a tool over Messages")
def litellm_anthropic():
    litellm_round("anthropic/claude-sonnet-4-6", URL)


@case("LiteLLM, ollama_chat/", "litellm", "a streamed round with a tool over Ollama's API")
def litellm_ollama():
    litellm_round("ollama_chat/gpt-oss:20b", URL)


def pydantic_agent(model):
    from pydantic_ai import Agent

    async def run():
        async with Agent(model, tools=[get_weather]).run_stream(QUESTION) as result:
            check(await result.get_output())
    asyncio.run(run())


@case("Pydantic AI, OpenAIChatModel", "pydantic-ai-slim", "a streamed agent with a tool over Chat Completions")
def pydantic_chat():
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider
    pydantic_agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none")))


@case("Pydantic AI, OpenAIResponsesModel", "pydantic-ai-slim", "a streamed agent with a tool over Responses")
def pydantic_responses():
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider
    pydantic_agent(OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none")))


@case("Pydantic AI, AnthropicModel", "pydantic-ai-slim", "a streamed agent with a tool over Messages")
def pydantic_anthropic():
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    pydantic_agent(AnthropicModel("claude-sonnet-4-6", provider=AnthropicProvider(base_url=URL, api_key="none")))


def main() -> int:
    failed = 0
    for run, client, package, what in CASES:
        if sys.argv[2:] and run.__name__ not in sys.argv[2:]:
            continue
        try:
            run()
            print(f"ok {client} | {importlib.metadata.version(package)} | {what}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {run.__name__}\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
