"""Breaking a connection that nobody reads.

Hypercorn shields its ``send_all`` from cancellation, so a client that stops reading holds the sending task for ever and
no cancel scope can help. Shutting the socket down does: ``send_all`` fails and Hypercorn cleans up. The application
is not given the socket, only its two addresses, and these name it uniquely among the process's descriptors.
"""

import os
import socket

__all__ = ["break_connection"]

Address = tuple[str, int]


def break_connection(client: Address, server: Address) -> bool:
    """Shut down the TCP socket between these addresses, both ways; False where this process has none.

    Not a checkpoint: takes microseconds per open descriptor.
    """
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - names only, no paths are wanted
        try:
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with connection:
            try:
                if connection.getpeername()[:2] == client and connection.getsockname()[:2] == server:
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
            except OSError:
                continue
    return False
