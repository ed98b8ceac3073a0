"""What can go wrong. The text of each exception says what happened and what to do next."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DeviceError",
    "EngineBusyError",
    "EngineStoppedError",
    "HarmonyError",
    "InvalidRequestError",
    "OssmithError",
    "OutOfDeviceMemoryError",
    "PromptTooLongError",
    "QueueFullError",
    "RequestFailedError",
]


class OssmithError(RuntimeError):
    """The base of all errors of this package."""


class InvalidRequestError(OssmithError, ValueError):
    """A prompt, a setting or an option that can never be served as it stands."""


class PromptTooLongError(InvalidRequestError):
    """The prompt does not fit into the context."""


class QueueFullError(OssmithError):
    """Too many requests wait; the same request can be served later."""


class EngineBusyError(OssmithError):
    """The call needs an engine without requests in flight."""


class EngineStoppedError(OssmithError):
    """The engine was shut down or has stopped after a failure; load it again."""


class RequestFailedError(OssmithError):
    """A request failed after it was accepted. Other requests are not affected."""


class CheckpointError(OssmithError):
    """A model or its weights are missing, damaged, or belong to another model."""


class DeviceError(OssmithError):
    """A device or its driver is missing or has failed."""


class OutOfDeviceMemoryError(OssmithError, MemoryError):
    """There is not enough memory for the model and its limits."""


class HarmonyError(OssmithError, ValueError):
    """A text, a conversation or tokens that harmony refuses."""
