"""What comes back, as types: one for each document, for the description of the server and for the tests of it.

Answers are written by the protocols themselves, as plain dicts. These types only say what they look like; the tests
hold every answer against them. A member that may be missing has the default ``UNSET``.
"""
