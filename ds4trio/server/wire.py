"""Breaking a connection that nobody reads.

Hypercorn shields its ``send_all`` from cancellation, so a client that stops reading holds the sending task for ever and
no cancel scope can help. Shutting the socket down does: ``send_all`` fails and Hypercorn cleans up. The application
is not given the socket, only its two addresses, and these name it uniquely among the process's descriptors.
"""

import os
import socket
import stat
from collections.abc import Iterator

__all__ = ["break_connection", "open_sockets"]

Address = tuple[str, int]


def open_sockets() -> Iterator[socket.socket]:
    """A duplicate of every socket that this process has open, closed again when the next one is asked for."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names only, no paths are wanted
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            duplicate = os.dup(int(name))
        except OSError:  # the descriptor of the listing itself, which is closed by now
            continue
        with socket.socket(fileno=duplicate) as connection:
            yield connection


def break_connection(client: Address, server: Address) -> None:
    """Shut down the TCP socket between these addresses, both ways, if this process has one.

    Not a checkpoint: takes microseconds per open descriptor.
    """
    for connection in open_sockets():
        try:
            if connection.getpeername()[:2] == client and connection.getsockname()[:2] == server:
                connection.shutdown(socket.SHUT_RDWR)
                return
        except OSError:  # not connected
            continue
