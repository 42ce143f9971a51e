"""``python -m ds4trio`` is the command line."""

from ds4trio.cli import main

main()
