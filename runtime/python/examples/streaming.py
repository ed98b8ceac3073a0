"""Two answers stream at once in an event loop; one of them is cancelled after a few tokens."""

import asyncio
from contextlib import aclosing

from ossmith import AsyncLLM, SamplingParams

SAMPLING = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True)


async def whole(llm: AsyncLLM, question: str) -> str:
    """Reads an answer to its end."""
    text = ""
    async for output in llm.chat([{"role": "user", "content": question}], SAMPLING):
        text = output.outputs[0].text
    return text


async def beginning(llm: AsyncLLM, question: str, tokens: int) -> list[int]:
    """Reads an answer's first tokens. What `aclosing` closes is cancelled, and its place is free for another request."""
    async with aclosing(llm.chat([{"role": "user", "content": question}], SAMPLING)) as outputs:
        async for output in outputs:
            answer = output.outputs[0]
            if len(answer.token_ids) >= tokens:
                return answer.token_ids[:tokens]
    raise AssertionError("an answer of 48 tokens has more than that")


async def main() -> None:
    llm = AsyncLLM("nano", max_num_seqs=2)
    try:
        text, first = await asyncio.gather(
            whole(llm, "What is 17 + 25?"), beginning(llm, "Sort these words: pear, apple, fig", 5)
        )
        print(f"the whole answer: {text!r}")
        print(f"the cancelled answer began with the tokens {first}")
    finally:
        llm.shutdown()


asyncio.run(main())
