"""Whether a machine and a model go together, before a server is started: findings, each with what to do.

`findings` says what a finding is, `machine` looks at Python, the build, cores, memory and the disk, `model` at a GGUF
file, `network` at the port, who answers there, and what clients are told by the environment; `rounds` makes all of
them. `rehearsal` lets llama.cpp open a model without its weights, in a process of its own, so importing this package
imports nothing. All of it blocks, and leaves nothing changed.
"""
