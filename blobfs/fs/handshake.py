"""Handshake: what the kernel is promised as a mount begins, beyond what the binding and its library can say.

Stands between the two for the first request of a mount and its answer (FUSE_INIT), and then never again: the library
reads the request from a socket in place of the device, and its answer is amended on the way.
Invariant: whatever is not as expected goes to the kernel as the library wrote it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import Final

_INIT: Final = 26
_HANDLE_KILLPRIV_V2: Final = 1 << 28
"""Whoever writes, truncates or changes the owner of a file takes setuid and setgid from it by our doing, not by the
kernel's. It then asks for security.capability once, and not before each write. Linux 5.11."""
_INIT_EXT: Final = 1 << 30
_DIRECT_IO_ALLOW_MMAP: Final = 1 << 4
"""In the second word of flags. Of interest because of what else came with it, in Linux 6.6: before a write passes the
page cache by, the pages that it covers are dropped from it."""
_REQUEST: Final = struct.Struct("=II32xIIIII")
"""Length and kind of a request, and of this kind: major and minor version, read-ahead, flags and more flags
(linux/fuse.h)."""
_FLAGS: Final = struct.Struct("=I")
_FLAGS_AT: Final = 16 + 12
"""In the answer: behind its head, the versions and the read-ahead."""
_LONGEST: Final = 1 << 17
"""Bytes that the device wants to be given room for, whatever it has to say."""


class Handshake:
    """The first request on a descriptor of /dev/fuse. `begin` before it is read, `end` once it was answered."""

    def __init__(self) -> None:
        self.has_begun = False
        self.drops_pages = False
        """Whether what is read through the page cache stays true when another handle's writes pass it by."""
        self._descriptor = self._device = -1
        self._socket: socket.socket | None = None
        self._offered = 0

    def begin(self, descriptor: int) -> bool:
        """Take the first request and leave it to be read again; False, and nothing was done, when there is none yet."""
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        if not ready.poll(0):
            return False
        self.has_begun, self._descriptor, self._device = True, descriptor, os.dup(descriptor)
        request = os.read(self._device, _LONGEST)
        if len(request) >= _REQUEST.size:
            _, kind, _, _, _, flags, more = _REQUEST.unpack_from(request)
            self._offered = flags if kind == _INIT else 0
            self.drops_pages = bool(self._offered & _INIT_EXT and more & _DIRECT_IO_ALLOW_MMAP)
        theirs, self._socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), descriptor, inheritable=False)
        self._socket.send(request)
        return True

    def end(self) -> None:
        """Give the kernel the answer, and the descriptor the device. Raises OSError: there is no answer."""
        assert self._socket is not None
        answer = bytearray(self._socket.recv(_LONGEST, socket.MSG_DONTWAIT))
        if self._offered & _HANDLE_KILLPRIV_V2 and len(answer) >= _FLAGS_AT + _FLAGS.size:
            (flags,) = _FLAGS.unpack_from(answer, _FLAGS_AT)
            _FLAGS.pack_into(answer, _FLAGS_AT, flags | _HANDLE_KILLPRIV_V2)
        os.write(self._device, answer)
        os.dup2(self._device, self._descriptor, inheritable=False)
        self.close()

    def close(self) -> None:
        """Let go of what is held. Twice is once."""
        if self._socket is not None:
            self._socket.close()
            os.close(self._device)
            self._socket = None
