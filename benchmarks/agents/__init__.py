"""Real agent clients against a real server that is slow on purpose.

`clients` is the table of clients and their configurations, `play` lets one of them ask one question, `tap` listens on
the wire between the two, `__main__` installs, isolates, runs and prints.
"""
