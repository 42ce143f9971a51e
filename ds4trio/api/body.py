"""From a request body to a typed struct, or to an error that names the path; and the members that protocols share."""

import re
from dataclasses import fields
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from ds4trio.api.errors import InvalidRequestError
from ds4trio.engine import Sampling

__all__ = ["SamplingMembers", "StopMember", "StreamOptions", "decode", "stop_strings"]

T = TypeVar("T")
TOKEN_ID = re.compile(r"[0-9]{1,9}")
_SAMPLED = {field.name for field in fields(Sampling)} - {"logit_bias"}
MOST_STOPS = 16

StopMember = str | Annotated[list[str], Meta(max_length=MOST_STOPS)] | None


class StreamOptions(Struct):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class SamplingMembers(Struct):
    """Members that say how to draw tokens: OpenAI's names, and llama.cpp's for what OpenAI has not."""

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

    def overrides(self) -> dict[str, Any]:
        """The fields of `Sampling` that were given. Raises `InvalidRequestError` for a bad token id."""
        values: dict[str, Any] = {name: value for name in _SAMPLED if (value := getattr(self, name)) is not None}
        if self.logit_bias:
            values["logit_bias"] = _logit_bias(self.logit_bias)
        return values


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode JSON into the decoder's type. Raises `InvalidRequestError` with the JSON path, never anything else."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).rpartition(" - at `$")
        path = f"${path.rstrip('`')}" if message else ""
        where = f" at {path}" if path else ""
        raise InvalidRequestError(f"{message or error}{where}", code="invalid_type", param=path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply", code="invalid_json") from None


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """One string or several, empty ones left out."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return tuple(string for string in strings if string)


def _logit_bias(biases: dict[str, float]) -> dict[int, float]:
    for token in biases:
        if not TOKEN_ID.fullmatch(token):
            raise InvalidRequestError(
                f"logit_bias: the keys are token ids in decimal, not {token[:20]!r}",
                code="invalid_value",
                param="logit_bias",
            )
    return {int(token): bias for token, bias in biases.items()}
