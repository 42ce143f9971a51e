"""What the tests of requests ask of a parsed one, whatever its protocol is."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import pytest

from ds4trio.api.errors import InvalidRequestError
from ds4trio.api.task import Task

__all__ = ["answer_of", "described", "refused"]


def answer_of(task: Task) -> tuple[Any, Any]:
    """How the task is answered: the class, and its options."""
    assert isinstance(task.answer, partial)
    return task.answer.func, task.answer.keywords["options"]


def described(task: Task) -> dict[str, object]:
    """All that a request asks for, to compare it."""
    return {field.name: getattr(task, field.name) for field in fields(task)} | {"answer": answer_of(task)}


def refused(parse: Callable[[bytes], Task], request: bytes) -> InvalidRequestError:
    """What the client of a request that cannot be taken is told."""
    with pytest.raises(InvalidRequestError) as caught:
        parse(request)
    assert caught.value.status == 400
    return caught.value
