"""Bad input in quantities: what no client should send, and whether the server minds. See ``__main__``."""
