"""The harmony format of gpt-oss: render conversations to tokens, parse tokens to messages, one by one or all at once.

The names are those of the package ``openai_harmony``, and so are the results, so a program that uses that one moves over by its
import. Nothing is downloaded: the vocabulary is part of this package. Beyond it, :func:`parse_lenient` reads whatever a model
wrote and never fails.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from . import _ossmith
from ._harmony_types import (
    Author,
    ChannelConfig,
    Content,
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Record,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    ToolNamespaceConfig,
)
from .errors import HarmonyError

__all__ = [
    "Author",
    "ChannelConfig",
    "Content",
    "Conversation",
    "DeveloperContent",
    "HarmonyEncoding",
    "HarmonyEncodingName",
    "HarmonyError",
    "LenientParse",
    "Message",
    "ReasoningEffort",
    "RenderConversationConfig",
    "RenderOptions",
    "Role",
    "StreamState",
    "StreamableParser",
    "SystemContent",
    "TextContent",
    "ToolDescription",
    "ToolNamespaceConfig",
    "load_harmony_encoding",
    "parse_lenient",
]


@dataclass
class RenderConversationConfig(Record):
    """How conversations are rendered."""

    auto_drop_analysis: bool = True
    """Leave out the reasoning before a final answer."""


@dataclass
class RenderOptions(Record):
    """How a single message is rendered."""

    conversation_has_function_tools: bool = False


class HarmonyEncoding:
    """The encoding of gpt-oss: the vocabulary ``o200k_harmony`` with harmony's special tokens."""

    @property
    def name(self) -> str:
        """``HarmonyGptOss``."""
        return HarmonyEncodingName.HARMONY_GPT_OSS.value

    @property
    def special_tokens_set(self) -> set[str]:
        """The names of all special tokens."""
        return set(_ossmith.special_tokens())

    def render_conversation_for_completion(
        self, conversation: Conversation, next_turn_role: Role, config: RenderConversationConfig | None = None
    ) -> list[int]:
        """The conversation's tokens, which end with the start of the next message: ``<|start|>assistant``."""
        return _ossmith.render(conversation.to_json(), Role(next_turn_role).value, False, _drops(config))

    def render_conversation(
        self, conversation: Conversation, config: RenderConversationConfig | None = None
    ) -> list[int]:
        """The conversation's tokens."""
        return _ossmith.render(conversation.to_json(), None, False, _drops(config))

    def render_conversation_for_training(
        self, conversation: Conversation, config: RenderConversationConfig | None = None
    ) -> list[int]:
        """The conversation's tokens, which end with ``<|return|>`` where the last message is the final answer."""
        return _ossmith.render(conversation.to_json(), None, True, _drops(config))

    def render(self, message: Message, render_options: RenderOptions | None = None) -> list[int]:
        """A single message's tokens."""
        has_tools = render_options is not None and render_options.conversation_has_function_tools
        return _ossmith.render_message(message.to_json(), has_tools)

    def parse_messages_from_completion_tokens(
        self, tokens: Sequence[int], role: Role | None = None, *, strict: bool = True
    ) -> list[Message]:
        """The messages of tokens; with a role, the first one's ``<|start|>`` and role are not in the tokens.

        Raises :class:`HarmonyError` for malformed headers; :func:`parse_lenient` repairs them instead.
        """
        parsed = _ossmith.parse(list(tokens), _role_name(role), strict)
        return [Message.from_dict(one) for one in json.loads(parsed)]

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | AbstractSet[str] = frozenset(),
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[int]:
        """The tokens of a text.

        Special tokens that stand in it by name become special tokens if they are among ``allowed_special``, are refused
        (:class:`HarmonyError`) if they are among ``disallowed_special``, and are ordinary text otherwise.
        """
        allowed = None if allowed_special == "all" else list(allowed_special)
        disallowed = None if disallowed_special == "all" else list(disallowed_special)
        try:
            return _ossmith.encode(text, allowed, disallowed)
        except UnicodeEncodeError:
            # Halves of surrogate pairs are joined, and those that are alone replaced.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return _ossmith.encode(text, allowed, disallowed)

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """The text of tokens; ``errors`` is what ``bytes.decode`` does with bytes that are not UTF-8."""
        return _ossmith.decode_bytes(list(tokens)).decode("utf-8", errors)

    def decode_utf8(self, tokens: Sequence[int]) -> str:
        """The text of tokens, whose bytes have to be UTF-8."""
        return _ossmith.decode(list(tokens))

    def is_special_token(self, token: int) -> bool:
        """Whether the id is a special token's."""
        return _ossmith.is_special_token(token)

    def stop_tokens(self) -> list[int]:
        """The tokens at which a message ends."""
        return [200002, 200007, 200012]

    def stop_tokens_for_assistant_actions(self) -> list[int]:
        """The tokens at which sampling for an assistant stops: ``<|return|>`` and ``<|call|>``."""
        return [200002, 200012]


def _drops(config: RenderConversationConfig | None) -> bool:
    return config is None or config.auto_drop_analysis


def _role_name(role: Role | None) -> str | None:
    return None if role is None else Role(role).value


class StreamState(Enum):
    """Where a parser is."""

    EXPECT_START = "ExpectStart"
    HEADER = "Header"
    CONTENT = "Content"


_STATES = {"start": StreamState.EXPECT_START, "header": StreamState.HEADER, "content": StreamState.CONTENT}


class StreamableParser:
    """Reads an answer token by token."""

    def __init__(self, encoding: HarmonyEncoding, role: Role | None, *, strict: bool = True) -> None:
        self._inner = _ossmith.ReferenceParser(_role_name(role), strict)
        self._delta: str | None = None

    def process(self, token: int) -> StreamableParser:
        """Takes the next token; raises :class:`HarmonyError` for a malformed header."""
        self._delta = self._inner.push(token)
        return self

    def process_eos(self) -> StreamableParser:
        """Ends the input."""
        self._delta = None
        self._inner.finish()
        return self

    @property
    def current_content(self) -> str:
        """The text so far of the message being read."""
        return self._inner.content

    @property
    def current_role(self) -> Role | None:
        """The role of the message being read."""
        role = self._inner.role
        return None if role is None else Role(role)

    @property
    def current_channel(self) -> str | None:
        """The channel of the message whose content is being read."""
        return self._inner.channel

    @property
    def current_recipient(self) -> str | None:
        """The recipient of the message whose content is being read."""
        return self._inner.recipient

    @property
    def current_content_type(self) -> str | None:
        """The content type of the message whose content is being read."""
        return self._inner.content_type

    @property
    def last_content_delta(self) -> str | None:
        """The text that the last token added."""
        return self._delta

    @property
    def messages(self) -> list[Message]:
        """The messages that are complete."""
        return [Message.from_dict(one) for one in json.loads(self._inner.messages)]

    @property
    def tokens(self) -> list[int]:
        """The tokens taken so far."""
        return self._inner.tokens

    @property
    def state(self) -> StreamState:
        """Where the parser is."""
        return _STATES[self._inner.state]

    @property
    def state_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"state": self.state.value}


class HarmonyEncodingName(str, Enum):
    """The encodings that there are."""

    HARMONY_GPT_OSS = "HarmonyGptOss"

    def __str__(self) -> str:
        return str(self.value)


def load_harmony_encoding(name: str | HarmonyEncodingName) -> HarmonyEncoding:
    """The encoding of this name; nothing is loaded or downloaded."""
    if str(name) != HarmonyEncodingName.HARMONY_GPT_OSS.value:
        raise HarmonyError(f"there is no encoding {str(name)!r}: use HarmonyEncodingName.HARMONY_GPT_OSS")
    return HarmonyEncoding()


@dataclass
class LenientParse:
    """What :func:`parse_lenient` found."""

    messages: list[Message]
    """All messages; the last one may be cut off."""
    repairs: list[tuple[int, str]]
    """Index of the token and kind of each repair, such as ``(4, "missing_channel")``."""
    stop: str | None
    """How the last message ended: ``end``, ``return``, ``call`` or ``cut``."""


def parse_lenient(tokens: Sequence[int], role: Role | None = Role.ASSISTANT) -> LenientParse:
    """The messages of tokens, repaired by stated rules where they are malformed. It never fails."""
    found = json.loads(_ossmith.parse_lenient(list(tokens), _role_name(role)))
    messages = [Message.from_dict(one) for one in found["messages"]]
    return LenientParse(messages, [(position, kind) for position, kind in found["repairs"]], found["stop"])
