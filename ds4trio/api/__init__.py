"""Wire formats, one file a protocol. Sans-IO: request bytes become typed requests, events become bytes.

A protocol file turns a body into a `Task` (what to generate and how to answer) and gives the two `Answer`s that the
lifeline drives: a stream and a single document. It never sees a socket, a clock or an engine.
"""
