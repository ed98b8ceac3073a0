"""Settings of a request, under the names that vLLM gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from .errors import InvalidRequestError

__all__ = ["RequestOutputKind", "SamplingParams"]


class RequestOutputKind(Enum):
    """What a stream yields."""

    CUMULATIVE = 0
    """All of the answer so far, each time."""
    DELTA = 1
    """What is new since the last time."""
    FINAL_ONLY = 2
    """The whole answer, once."""


@dataclass
class SamplingParams:
    """How tokens are sampled and when an answer ends.

    Values out of range are refused by the engine, as :class:`ossmith.InvalidRequestError`, before anything runs.
    """

    n: int = 1
    """Answers to the prompt."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that the answer contains, in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time the answer contains it, in [-2, 2]."""
    repetition_penalty: float = 1.0
    """Divides the positive logits, and multiplies the others, of tokens of the prompt and the answer; above 0."""
    temperature: float = 1.0
    """Divides the logits, at least 0; 0 always takes the most likely token."""
    top_p: float = 1.0
    """Keeps the smallest set of most likely tokens with this much probability, in (0, 1]."""
    top_k: int = 0
    """Keeps this many of the most likely tokens; 0 and -1 keep all."""
    min_p: float = 0.0
    """Drops tokens less likely than this share of the most likely one, in [0, 1]."""
    seed: int | None = None
    """The same prompt, settings and seed give the same tokens. ``None`` takes another seed each time."""
    stop: str | Sequence[str] | None = None
    """Texts that end the answer where they begin."""
    stop_token_ids: Sequence[int] | None = None
    """Token ids that end the answer, besides the model's own."""
    ignore_eos: bool = False
    """Go on past the model's own stop tokens."""
    max_tokens: int | None = 16
    """The most tokens to generate, the stop token included; ``None`` is all that fit into the context."""
    min_tokens: int = 0
    """No stop token is sampled before this many tokens."""
    logprobs: int | None = None
    """Report the log probability of each token, and this many of the most likely tokens besides."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens."""
    detokenize: bool = True
    """Whether outputs have text. Stop strings need it."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    include_stop_str_in_output: bool = False
    """Leave the stop string that ended the answer in its text."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of single tokens; ``-inf`` forbids a token."""
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    """What a stream yields."""
    extra_args: Mapping[str, Any] | None = field(default=None, repr=False)
    """Accepted for vLLM's sake; anything in it is refused."""

    def __post_init__(self) -> None:
        if self.stop is None:
            self.stop = []
        elif isinstance(self.stop, str):
            self.stop = [self.stop]
        else:
            self.stop = list(self.stop)
        self.stop_token_ids = list(self.stop_token_ids or [])
        if self.top_k < -1:
            raise InvalidRequestError(f"top_k is {self.top_k}; give a number of tokens, or 0 or -1 for all of them")
        if self.extra_args:
            names = ", ".join(sorted(self.extra_args))
            raise InvalidRequestError(f"extra_args has {names}, which this engine does not know")

    @property
    def _logit_bias(self) -> list[tuple[int, float]] | None:
        if self.logit_bias is None:
            return None
        return [(int(token), float(bias)) for token, bias in self.logit_bias.items()]

    def clone(self) -> SamplingParams:
        """A copy of its own."""
        return replace(self)
