"""``python -m ds4trio`` is the command line."""

import sys

__all__ = ["run"]

INTERRUPTED = 130
"""What shells call a program that Ctrl-C has ended."""


def run() -> None:
    """Be the command line; Ctrl-C ends it without a traceback even while Python still reads it."""
    try:
        from ds4trio.cli import main  # noqa: PLC0415 - see above

        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
