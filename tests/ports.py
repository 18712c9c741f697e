"""A port of loopback that stays a test's own, also while nobody listens there."""

from __future__ import annotations

import socket
import weakref


class Port:
    """Bound and never listened at: the kernel gives `number` to nobody who asks for any port, and a server that sets
    SO_REUSEADDR, as ours does, gets it. Otherwise it would be anybody's between that server's end and its next start.
    """

    def __init__(self) -> None:
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        self.number = int(holder.getsockname()[1])
        weakref.finalize(self, holder.close)
