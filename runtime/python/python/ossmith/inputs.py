"""The forms of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Union

from . import _ossmith
from .errors import InvalidRequestError

if TYPE_CHECKING:
    from typing_extensions import NotRequired

__all__ = ["PromptType", "TextPrompt", "TokensPrompt"]


class TextPrompt(TypedDict):
    """A prompt as text, in which special tokens may stand by name."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt as token ids."""

    prompt_token_ids: list[int]
    prompt: NotRequired[str]


PromptType = Union[str, TextPrompt, TokensPrompt, Sequence[int]]
"""One prompt: a text, token ids, or either in a dictionary as vLLM has it."""


def tokens_of(prompt: PromptType) -> tuple[str | None, list[int]]:
    """The text of a prompt, if it has one, and its token ids."""
    if isinstance(prompt, str):
        return prompt, _ossmith.encode(prompt, None, [])
    if isinstance(prompt, dict):
        text: Any = prompt.get("prompt")
        ids: Any = prompt.get("prompt_token_ids")
        if ids is not None:
            return text, list(ids)
        if text is not None:
            return text, _ossmith.encode(text, None, [])
        raise InvalidRequestError(
            f"a prompt has the keys {sorted(prompt)}; it needs `prompt` or `prompt_token_ids`"
        )
    if is_tokens(prompt):
        return None, list(prompt)
    raise InvalidRequestError(
        f"a prompt is {type(prompt).__name__}; give a text, a list of token ids, or a dictionary with "
        "`prompt` or `prompt_token_ids`"
    )


def is_tokens(prompt: object) -> bool:
    """Whether it is token ids: a sequence whose first element is a number."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, (str, bytes)):
        # NumPy's arrays are no sequences by their type.
        return hasattr(prompt, "__array_interface__")
    return len(prompt) > 0 and hasattr(prompt[0], "__index__")


def each(prompts: PromptType | Sequence[PromptType]) -> Iterator[PromptType]:
    """The prompts of a call that takes one or several."""
    if isinstance(prompts, (str, dict)) or is_tokens(prompts):
        yield prompts  # type: ignore[misc]
    else:
        yield from prompts  # type: ignore[misc]
