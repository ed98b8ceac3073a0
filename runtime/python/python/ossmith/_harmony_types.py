"""Conversations and what they consist of, in harmony's official form: the records of :mod:`ossmith.harmony`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeVar, Union

from . import _ossmith

_Self = TypeVar("_Self", bound="Record")


class Role(str, Enum):
    """Who wrote a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    DEVELOPER = "developer"
    TOOL = "tool"


class ReasoningEffort(str, Enum):
    """How much the model is to reason."""

    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class Record:
    """What all records have: plain data out of them, and copies."""

    def model_dump(self, *, exclude_none: bool = False) -> dict[str, Any]:
        """The fields as plain data."""
        pairs = ((one.name, getattr(self, one.name)) for one in fields(self))  # type: ignore[arg-type]
        return {name: _plain(value, exclude_none) for name, value in pairs if not (exclude_none and value is None)}

    def model_copy(self: _Self, *, update: Mapping[str, Any] | None = None) -> _Self:
        """A copy with some fields changed."""
        return replace(self, **(update or {}))  # type: ignore[type-var]


def _plain(value: Any, exclude_none: bool) -> Any:
    if isinstance(value, Record):
        return value.model_dump(exclude_none=exclude_none)
    if isinstance(value, dict):
        return {key: _plain(one, exclude_none) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one, exclude_none) for one in value]
    return value


@dataclass
class Author(Record):
    """A role, and the author's name where there is one."""

    role: Role
    name: str | None = None

    def __post_init__(self) -> None:
        self.role = Role(self.role)

    @classmethod
    def new(cls, role: Role, name: str) -> Author:
        """An author with a name; a tool's is the tool's, such as ``functions.get_weather``."""
        return cls(role=role, name=name)


class Content(Record):
    """A part of a message."""

    def to_dict(self) -> dict[str, Any]:
        """It in harmony's JSON form."""
        raise NotImplementedError


@dataclass
class TextContent(Content):
    """A text."""

    text: str
    type: str = field(default="text", repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


@dataclass
class ToolDescription(Record):
    """A tool that the model may call."""

    name: str
    description: str
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments; the order of its keys is kept."""

    @classmethod
    def new(cls, name: str, description: str, parameters: dict[str, Any] | None = None) -> ToolDescription:
        """A tool."""
        return cls(name=name, description=description, parameters=parameters)


@dataclass
class ToolNamespaceConfig(Record):
    """Tools under one name."""

    name: str
    tools: list[ToolDescription]
    description: str | None = None

    def __post_init__(self) -> None:
        self.tools = [one if isinstance(one, ToolDescription) else ToolDescription(**one) for one in self.tools]

    @staticmethod
    def browser() -> ToolNamespaceConfig:
        """The browser that gpt-oss models were trained with."""
        return ToolNamespaceConfig(**json.loads(_ossmith.tool_namespace("browser")))

    @staticmethod
    def python() -> ToolNamespaceConfig:
        """The Python tool that gpt-oss models were trained with."""
        return ToolNamespaceConfig(**json.loads(_ossmith.tool_namespace("python")))


@dataclass
class ChannelConfig(Record):
    """The channels that the model may write to."""

    valid_channels: list[str]
    channel_required: bool

    @classmethod
    def require_channels(cls, channels: list[str]) -> ChannelConfig:
        """These channels, of which each message has to name one."""
        return cls(valid_channels=channels, channel_required=True)


def _channels() -> ChannelConfig:
    return ChannelConfig.require_channels(["analysis", "commentary", "final"])


def _namespaces(given: Any) -> dict[str, ToolNamespaceConfig] | None:
    if given is None:
        return None
    made = ((name, one) if isinstance(one, ToolNamespaceConfig) else (name, ToolNamespaceConfig(**one)) for name, one in given.items())
    return dict(made)


@dataclass
class SystemContent(Content):
    """The frame of a conversation: identity, dates, effort, channels, built-in tools."""

    model_identity: str | None = "You are ChatGPT, a large language model trained by OpenAI."
    reasoning_effort: ReasoningEffort | None = ReasoningEffort.MEDIUM
    conversation_start_date: str | None = None
    knowledge_cutoff: str | None = "2024-06"
    channel_config: ChannelConfig | None = field(default_factory=_channels)
    tools: dict[str, ToolNamespaceConfig] | None = None

    def __post_init__(self) -> None:
        if self.reasoning_effort is not None:
            self.reasoning_effort = ReasoningEffort(self.reasoning_effort)
        if isinstance(self.channel_config, Mapping):
            self.channel_config = ChannelConfig(**self.channel_config)
        self.tools = _namespaces(self.tools)

    @classmethod
    def new(cls) -> SystemContent:
        """What gpt-oss models were trained with."""
        return cls()

    def with_model_identity(self, model_identity: str) -> SystemContent:
        """Sets who the model is."""
        self.model_identity = model_identity
        return self

    def with_reasoning_effort(self, reasoning_effort: ReasoningEffort) -> SystemContent:
        """Sets how much the model is to reason."""
        self.reasoning_effort = reasoning_effort
        return self

    def with_conversation_start_date(self, conversation_start_date: str) -> SystemContent:
        """Sets the date, as ``2026-01-31``."""
        self.conversation_start_date = conversation_start_date
        return self

    def with_knowledge_cutoff(self, knowledge_cutoff: str) -> SystemContent:
        """Sets until when the model knows the world, as ``2024-06``."""
        self.knowledge_cutoff = knowledge_cutoff
        return self

    def with_channel_config(self, channel_config: ChannelConfig) -> SystemContent:
        """Sets the channels."""
        self.channel_config = channel_config
        return self

    def with_required_channels(self, channels: list[str]) -> SystemContent:
        """Sets the channels, of which each message has to name one."""
        return self.with_channel_config(ChannelConfig.require_channels(channels))

    def with_tools(self, ns_config: ToolNamespaceConfig) -> SystemContent:
        """Adds a namespace of tools, filed under its own name."""
        self.tools = {**(self.tools or {}), ns_config.name: ns_config}
        return self

    def with_browser_tool(self) -> SystemContent:
        """Adds the browser."""
        return self.with_tools(ToolNamespaceConfig.browser())

    def with_python_tool(self) -> SystemContent:
        """Adds the Python tool."""
        return self.with_tools(ToolNamespaceConfig.python())

    def to_dict(self) -> dict[str, Any]:
        return {**self.model_dump(exclude_none=True), "type": "system_content"}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SystemContent:
        """From harmony's JSON form."""
        return cls(**_known(cls, raw))


@dataclass
class DeveloperContent(Content):
    """The application's instructions and tools."""

    instructions: str | None = None
    tools: dict[str, ToolNamespaceConfig] | None = None

    def __post_init__(self) -> None:
        self.tools = _namespaces(self.tools)

    @classmethod
    def new(cls) -> DeveloperContent:
        """Neither instructions nor tools."""
        return cls()

    def with_instructions(self, instructions: str) -> DeveloperContent:
        """Sets what the model is to do."""
        self.instructions = instructions
        return self

    def with_tools(self, ns_config: ToolNamespaceConfig) -> DeveloperContent:
        """Adds a namespace of tools, filed under its own name."""
        self.tools = {**(self.tools or {}), ns_config.name: ns_config}
        return self

    def with_function_tools(self, tools: Sequence[ToolDescription]) -> DeveloperContent:
        """Sets the function tools."""
        return self.with_tools(ToolNamespaceConfig(name="functions", tools=list(tools)))

    def to_dict(self) -> dict[str, Any]:
        return {**self.model_dump(exclude_none=True), "type": "developer_content"}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DeveloperContent:
        """From harmony's JSON form."""
        return cls(**_known(cls, raw))


def _known(cls: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(cls)}
    return {name: value for name, value in raw.items() if name in names}


def _content(raw: Any) -> Content:
    kind = raw.get("type")
    if kind == "text":
        return TextContent(text=raw["text"])
    if kind == "system_content":
        return SystemContent.from_dict(raw)
    if kind == "developer_content":
        return DeveloperContent.from_dict(raw)
    raise ValueError(f"a content has the type {kind!r}: use text, system_content or developer_content")


def _text_or_content(content: Union[str, Content]) -> Content:
    return TextContent(text=content) if isinstance(content, str) else content


@dataclass
class Message(Record):
    """A header and its contents."""

    author: Author
    content: list[Content] = field(default_factory=list)
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    @classmethod
    def from_author_and_content(cls, author: Author, content: Union[str, Content]) -> Message:
        """A message with one content."""
        return cls(author=author, content=[_text_or_content(content)])

    @classmethod
    def from_role_and_content(cls, role: Role, content: Union[str, Content]) -> Message:
        """A message with one content, of an author without a name."""
        return cls.from_author_and_content(Author(role=role), content)

    @classmethod
    def from_role_and_contents(cls, role: Role, contents: Sequence[Content]) -> Message:
        """A message with several contents."""
        return cls(author=Author(role=role), content=list(contents))

    def adding_content(self, content: Union[str, Content]) -> Message:
        """Appends a content."""
        self.content.append(_text_or_content(content))
        return self

    def with_channel(self, channel: str) -> Message:
        """Sets the channel: ``analysis``, ``commentary`` or ``final``."""
        self.channel = channel
        return self

    def with_recipient(self, recipient: str) -> Message:
        """Sets whom it is for, such as ``functions.get_weather``."""
        self.recipient = recipient
        return self

    def with_content_type(self, content_type: str) -> Message:
        """Sets what the content is, such as ``<|constrain|>json``."""
        self.content_type = content_type
        return self

    def to_dict(self) -> dict[str, Any]:
        """It in harmony's JSON form."""
        out: dict[str, Any] = {**self.author.model_dump(), "content": [one.to_dict() for one in self.content]}
        for name in ("channel", "recipient", "content_type"):
            value = getattr(self, name)
            if value is not None:
                out[name] = value
        return out

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """From harmony's JSON form, in which a single text may be a string."""
        raw = data["content"]
        contents = [TextContent(text=raw)] if isinstance(raw, str) else [_content(one) for one in raw]
        return cls(
            author=Author(role=Role(data["role"]), name=data.get("name")),
            content=list(contents),
            channel=data.get("channel"),
            recipient=data.get("recipient"),
            content_type=data.get("content_type"),
        )


@dataclass
class Conversation(Record):
    """Messages, oldest first."""

    messages: list[Message] = field(default_factory=list)

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> Conversation:
        """A conversation of these messages."""
        return cls(messages=list(messages))

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def to_dict(self) -> dict[str, Any]:
        """It in harmony's JSON form."""
        return {"messages": [one.to_dict() for one in self.messages]}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, payload: str) -> Conversation:
        """From harmony's JSON form."""
        return cls(messages=[Message.from_dict(one) for one in json.loads(payload)["messages"]])
