"""`drop` and `drop-address`: leaving files for somebody, and the address that it takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import trio

from blobfs.commands.places import mounted
from blobfs.control import ask
from blobfs.errors import RemoteUnavailable, UsageError
from blobfs.remote.box import Box
from blobfs.remote.retry import Backoff
from blobfs.remote.transport import Limits, Transport
from blobfs.values import drops
from blobfs.values.drops import Address
from blobfs.wording import printable

_TRIES: Final = 5


def address(options: argparse.Namespace) -> int:
    """`drop-address`."""
    answer = ask(mounted(options.dir).store, "drop-address", timeout_s=60, days=options.days)
    print(answer["address"])
    if answer["embedded"]:
        print(
            "blobfs: this server listens on this machine only; a sender elsewhere needs a server of its own address, "
            "see `blobfs-server --help`",
            file=sys.stderr,
        )
    return 0


def drop(options: argparse.Namespace) -> int:
    """`drop`."""
    to = drops.parse_address(_text(options.to))
    for path in options.files:
        _check(path)
    trio.run(_send, to, options.files)
    return 0


def _text(argument: str) -> str:
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UsageError(f"the file with the address cannot be read: {error}") from None


def _check(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; nothing was sent") from None
    if not path.is_file():
        raise UsageError(f"{path} is no file; nothing was sent. Make an archive of a folder, and send that")
    if size > drops.MAX_ITEM:
        raise UsageError(f"{path} is larger than {drops.MAX_ITEM >> 20} MiB; nothing was sent. Send it in parts")


async def _send(to: Address, paths: list[Path]) -> None:
    async with Transport(to.url, to.user, to.token, limits=Limits()) as transport:
        box = Box(transport, to.user)
        for path in paths:
            item_id = drops.new_item_id()
            item = await trio.to_thread.run_sync(_seal, to, item_id, path)
            await _leave(box, item_id, item)
            print(f"left {printable(path.name)}")


def _seal(to: Address, item_id: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    return b"".join(drops.seal_item(to, item_id, path.name, content))


async def _leave(box: Box, item_id: str, item: bytes) -> None:
    backoff = Backoff()
    for left in reversed(range(_TRIES)):
        try:
            # The same id each time: what arrived, though nobody heard the answer, is not left twice.
            await box.leave(item_id, item)
            return
        except RemoteUnavailable as error:
            if not left:
                raise
            await trio.sleep(backoff.fail(error))
