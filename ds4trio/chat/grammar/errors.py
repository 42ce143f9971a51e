"""What goes wrong when output is to be constrained: values only."""

__all__ = ["UnenforceableError"]


class UnenforceableError(Exception):
    """No grammar can hold the model to what was asked for; the message says what to change.

    ``param`` is the part of the request at fault: ``response_format``, ``tool_choice``, ``tools``, ``tools[i]`` or
    ``messages``.
    """

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param
