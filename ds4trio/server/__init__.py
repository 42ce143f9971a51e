"""HTTP: the application, its connection, and the lifeline that keeps a waiting client and its computation together.

`app` builds it, `host` owns the engine, `routes` are the endpoints, `lifeline` is a response whose nursery computes
beside a heartbeat, `connection` ties that nursery to the client's presence, `wire` breaks what nobody reads, `serve`
opens sockets and runs Hypercorn. Only this room imports Quart and Hypercorn; nothing below imports this room.
"""
