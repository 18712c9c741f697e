"""Whose process is at the other end of a connection on loopback: the kernel knows, and tells in `/proc/net/tcp`.

Invariant: when it cannot be told for certain, it is nobody's.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_TABLE: Final = "/proc/net/tcp"
_ESTABLISHED: Final = b"01"

Address = tuple[str, int]


def is_own(peer: Address, here: Address) -> bool:
    """Whether `peer`, connected to `here`, is a process of this user or of root."""
    return owner(peer, here) in (os.geteuid(), 0)


def owner(peer: Address, here: Address) -> int | None:
    """The user of the socket `peer` that is connected to `here`; None when it is gone. IPv4."""
    wanted = [_written(peer), _written(here), _ESTABLISHED]
    try:
        with open(_TABLE, "rb") as table:
            for line in table:
                fields = line.split()
                # A socket that its process has closed belongs to root: only what is established counts.
                if fields[1:4] == wanted:
                    return int(fields[7])
    except OSError:
        return None
    return None


def _written(address: Address) -> bytes:
    host, port = address
    return b"%08X:%04X" % (struct.unpack("=I", socket.inet_aton(host))[0], port)
