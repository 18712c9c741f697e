"""The bytes of a file as a browser may show them: pictures of a few kinds, or the beginning as plain text.

Told by the bytes, never by the name. Invariants: nothing is sent that a browser could run, whatever a device of the
account put there; bytes that are not here are fetched for what a person opens, and only the ranges that are sent.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from blobfs.answers.paths import find
from blobfs.fs.filesystem import FileSystem
from blobfs.page.guard import Refused
from blobfs.page.wire import Request, Response
from blobfs.store.store import Store
from blobfs.values.documents import Kind
from blobfs.values.nodes import Inode, Node

TEXT: Final = 256 << 10
"""Bytes of a text that are shown."""
PICTURE: Final = 64 << 20
"""Bytes of the largest picture that is shown."""
THUMBNAIL: Final = 8 << 20
"""Bytes of the largest one that is shown small, in a list."""
_PIECE: Final = 256 << 10
_PROBE: Final = 4096
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
HEADERS: Final = {
    # No script, no form, no link of it does anything, were it ever taken for a page.
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Content-Disposition": "inline",
    "Accept-Ranges": "bytes",
}


def picture_type(head: bytes) -> str | None:
    """The media type of a picture that is shown, by its first bytes."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file read like text: UTF-8, as far as they go, without control characters."""
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return False
    try:
        head[:-3].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 6
    return True


class Previews:
    """Bytes of a mount's files, for a browser."""

    def __init__(self, store: Store, fs: FileSystem) -> None:
        self._store, self._fs = store, fs

    async def show(self, path: str, request: Request) -> Response:
        """A preview of a file, or a range of it. `small` in the query: for a list, so nothing is fetched for it.

        Raises:
            Refused: there is no preview of it. RemoteUnavailable, IntegrityError: its bytes cannot be had.
        """
        inode = find(self._store, path).inode
        node = self._fs.getattr(inode)
        if node.kind is not Kind.FILE:
            raise Refused(404, "Only files have a preview.")
        if "small" in request.query and not self._is_light(node):
            raise Refused(404, "It is not shown in a list.")
        head = await self._fs.read(inode, 0, _PROBE)
        kind, size = picture_type(head), node.size
        if kind is None:
            if not is_text(head):
                raise Refused(415, "There is no preview of this kind of file.")
            kind, size = "text/plain; charset=utf-8", min(size, TEXT)
        elif size > PICTURE:
            raise Refused(413, "The picture is too large to be shown here. Open it in the folder.")
        return await self._part(inode, request, kind, size)

    async def beginning(self, path: str, most: int) -> tuple[bytes, int]:
        """The first bytes of a file, fetched where they are not here, and its size. Raises as `show`."""
        inode = find(self._store, path).inode
        node = self._fs.getattr(inode)
        if node.kind is not Kind.FILE:
            raise Refused(404, "Only files can be compared.")
        return await self._fs.read(inode, 0, min(most, node.size)), node.size

    def _is_light(self, node: Node) -> bool:
        here = node.content is None or self._store.attachments.is_whole(node.content, node.size)
        return here and node.size <= THUMBNAIL

    async def _part(self, inode: Inode, request: Request, kind: str, size: int) -> Response:
        headers = HEADERS | {"Content-Type": kind}
        first, last, status = 0, size - 1, 200
        wanted = _RANGE.fullmatch(request.headers.get("range", ""))
        if wanted is not None and wanted[0] != "bytes=-":
            first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
            last = min(last, int(wanted[2])) if wanted[1] and wanted[2] else last
            if first > last:
                return Response(416, headers | {"Content-Range": f"bytes */{size}"})
            status, headers["Content-Range"] = 206, f"bytes {first}-{last}/{size}"
        length = last + 1 - first
        # Before the head is sent: what cannot be had is an answer of its own then, not one that breaks off.
        piece = b"" if request.method == "HEAD" else await self._fs.read(inode, first, min(_PIECE, length))
        return Response(status, headers, stream=self._pieces(inode, first, length, piece), length=length)

    async def _pieces(self, inode: Inode, offset: int, length: int, piece: bytes) -> AsyncIterator[bytes]:
        sent = 0
        while piece:
            yield piece
            sent += len(piece)
            piece = await self._fs.read(inode, offset + sent, min(_PIECE, length - sent))
