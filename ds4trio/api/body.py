"""From a request body to a typed struct, or to an error that names the path; and the members that protocols share."""

import re
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from ds4trio.api.errors import InvalidRequestError, shown
from ds4trio.engine import Sampling

__all__ = ["SamplingMembers", "StopMember", "StreamOptions", "decode", "invalid", "stop_strings", "verbatim"]

T = TypeVar("T")
TOKEN_ID = re.compile(r"[0-9]{1,9}")
_SAMPLED = {field.name for field in fields(Sampling)} - {"logit_bias"}
MOST_STOPS = 16
MOST_MESSAGE = 200
CODES = (
    (
        re.compile(r"Expected `[^`]*` (?:[<>]=?|of length|matching)|Invalid (?:enum )?value|Number out of range"),
        "invalid_value",
    ),
    (re.compile("Object missing required field"), "missing_required_parameter"),
)
"""What msgspec says where nothing is of a wrong type."""

StopMember = str | Annotated[list[str], Meta(max_length=MOST_STOPS)] | None


class StreamOptions(Struct):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class SamplingMembers(Struct):
    """Members that say how to draw tokens: OpenAI's names, and llama.cpp's for what OpenAI has not.

    And ``priority``, which vLLM has in the same place: lower goes first, 0 is normal.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=0, le=65536)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    ignore_eos: bool | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] | None = None

    def overrides(self) -> dict[str, Any]:
        """The fields of `Sampling` that were given. Raises `InvalidRequestError` for a bad token id."""
        values: dict[str, Any] = {name: value for name in _SAMPLED if (value := getattr(self, name)) is not None}
        if self.logit_bias:
            values["logit_bias"] = _logit_bias(self.logit_bias)
        return values


def decode(decoder: msgspec.json.Decoder[T], body: bytes | Raw, *, at: str = "$") -> T:
    """Decode a body, or the part of it at a JSON path, into the decoder's type.

    Raises `InvalidRequestError` with the JSON path, never anything else.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error, at=at) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(error) from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply", code="invalid_json") from None


def invalid(error: msgspec.ValidationError, *, at: str) -> InvalidRequestError:
    """What clients are told of a value of the wrong type below the JSON path ``at``."""
    message, found, path = str(error).rpartition(" - at `$")
    if not found:
        message, path = path, ""
    if len(message) > MOST_MESSAGE:
        message = f"{message[:MOST_MESSAGE]}..."
    # It may quote the client's own text.
    message = message.encode("unicode_escape").decode()
    where = at + path.rstrip("`")
    code = next((code for kind, code in CODES if kind.match(message)), "invalid_type")
    if where == "$":
        return InvalidRequestError(message, code=code)
    return InvalidRequestError(f"{message} at {where}", code=code, param=where)


def verbatim(part: Raw) -> bytes:
    """A part of a body as its client wrote it, to be sent back. Raises `InvalidRequestError` if it is not UTF-8.

    It is a copy, because a slice would keep the whole body in memory.
    """
    copy = bytes(part)
    try:
        copy.decode()  # what is skipped while decoding was not checked
    except UnicodeDecodeError as error:
        raise _not_json(error) from None
    return copy


def _not_json(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"the body is not JSON: {error}", code="invalid_json")


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """One string or several, empty ones left out."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return tuple(string for string in strings if string)


def _logit_bias(biases: dict[str, float]) -> dict[int, float]:
    for token in biases:
        if not TOKEN_ID.fullmatch(token):
            raise InvalidRequestError(
                f"logit_bias: the keys are token ids in decimal, not {shown(token)}",
                code="invalid_value",
                param="logit_bias",
            )
    return {int(token): bias for token, bias in biases.items()}
