"""What may be said of an error: its cause, out of a group; and for the log its kind and its places.

Its message may quote a prompt.
"""

import traceback

__all__ = ["breakdown", "first_leaf"]


def first_leaf(group: BaseException) -> BaseException:
    """The first exception in a group that is no group itself; anything else is its own."""
    error = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def breakdown(error: BaseException) -> str:
    """The error's type and, line by line, where it was raised."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
