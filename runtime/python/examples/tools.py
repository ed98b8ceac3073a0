"""A chat with a tool: the model calls it, reads its result, and answers."""

import json
from typing import Any

from ossmith import LLM, SamplingParams

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

llm = LLM(model="nano")
sampling = SamplingParams(temperature=0.0, max_tokens=128)
messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]
for _ in range(4):
    message = llm.chat(messages, sampling, tools=[WEATHER])[0].outputs[0].message
    messages.append(message)
    for call in message.get("tool_calls", []):
        city = json.loads(call["function"]["arguments"])["city"]
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"It is sunny in {city}."})
    if "tool_calls" not in message:
        break
for message in messages:
    print(json.dumps(message))
