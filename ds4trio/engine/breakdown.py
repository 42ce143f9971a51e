"""What the log may say of a fault of the server: its kind and its places. Its message may quote a prompt."""

import traceback

__all__ = ["breakdown"]


def breakdown(error: BaseException) -> str:
    """The error's type and, line by line, where it was raised."""
    return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"
