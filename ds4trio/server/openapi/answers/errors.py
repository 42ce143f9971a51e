"""Errors, in the two shapes that clients know."""

from typing import Literal

from msgspec import UNSET, UnsetType

from ds4trio.server.openapi.answers.base import Answer

__all__ = ["MessagesError", "OpenAIError"]


class OpenAIErrorObject(Answer):
    """What is wrong and what to change. `param` is the path of the offending part."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: int | UnsetType = UNSET
    n_ctx: int | UnsetType = UNSET


class OpenAIError(Answer):
    """An error, for everything but Anthropic's endpoints."""

    error: OpenAIErrorObject


class MessagesErrorObject(Answer):
    """What is wrong and what to change. `param` is the path of the offending part."""

    type: str
    message: str
    code: str | UnsetType = UNSET
    param: str | UnsetType = UNSET
    n_prompt_tokens: int | UnsetType = UNSET
    n_ctx: int | UnsetType = UNSET


class MessagesError(Answer):
    """An error of Anthropic's endpoints."""

    type: Literal["error"]
    error: MessagesErrorObject
    request_id: str
