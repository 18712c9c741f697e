"""The first request of a mount and its answer: what is amended, and that all else passes as it is."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from blobfs.fs.handshake import Handshake

KILLPRIV_V2, INIT_EXT, ALLOW_MMAP = 1 << 28, 1 << 30, 1 << 4
INIT, GETATTR = 26, 3
LIBRARY_FLAGS = 0b1011
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """(the kernel's end, what the library believes to be the device)."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, device:
        yield kernel, device


def request(flags: int, more: int, kind: int = INIT) -> bytes:
    head = struct.pack("=IIQQIIII", 104, kind, 2, 0, 0, 0, 0, 0)
    return head + struct.pack("=IIIII44x", 7, 45, 1 << 17, flags, more)


def answer(flags: int) -> bytes:
    return struct.pack("=IiQ", 80, 0, 2) + struct.pack("=IIII48x", 7, 38, 1 << 17, flags)


def shake(ends: Ends, said: bytes, answered: bytes) -> tuple[Handshake, bytes]:
    """The handshake, and what the kernel was answered."""
    kernel, device = ends
    handshake = Handshake()
    kernel.send(said)
    assert handshake.begin(device.fileno())
    assert os.read(device.fileno(), 1 << 17) == said  # as the library reads it
    os.write(device.fileno(), answered)
    handshake.end()
    return handshake, kernel.recv(1 << 17)


def test_what_the_kernel_offers_is_taken_and_the_rest_stays_as_the_library_said(ends: Ends) -> None:
    handshake, heard = shake(ends, request(KILLPRIV_V2 | INIT_EXT, ALLOW_MMAP), answer(LIBRARY_FLAGS))
    assert heard == answer(LIBRARY_FLAGS | KILLPRIV_V2)
    assert handshake.drops_pages


def test_the_device_is_the_librarys_again_afterwards(ends: Ends) -> None:
    kernel, device = ends
    shake(ends, request(KILLPRIV_V2, 0), answer(0))
    kernel.send(b"the next request")
    assert os.read(device.fileno(), 100) == b"the next request"
    os.write(device.fileno(), b"its answer")
    assert kernel.recv(100) == b"its answer"
    assert not os.get_inheritable(device.fileno())


@pytest.mark.parametrize(
    "said",
    [
        request(INIT_EXT, ALLOW_MMAP),
        request(0, ALLOW_MMAP),
        request(KILLPRIV_V2 | INIT_EXT, ALLOW_MMAP, kind=GETATTR),
        request(KILLPRIV_V2, 0)[:40],
    ],
    ids=["an older kernel", "a word that means nothing yet", "another request", "a short one"],
)
def test_nothing_is_promised_that_was_not_offered(ends: Ends, said: bytes) -> None:
    handshake, heard = shake(ends, said, answer(LIBRARY_FLAGS))
    assert heard == answer(LIBRARY_FLAGS)
    assert handshake.drops_pages is (said == request(INIT_EXT, ALLOW_MMAP))


def test_a_refusal_passes_as_it_is(ends: Ends) -> None:
    refusal = struct.pack("=IiQ", 16, -71, 2)
    assert shake(ends, request(KILLPRIV_V2, 0), refusal)[1] == refusal


def test_where_nobody_has_said_anything_yet_nothing_is_done(ends: Ends) -> None:
    handshake = Handshake()
    assert not handshake.begin(ends[1].fileno())
    assert not handshake.has_begun
    handshake.close()
