"""The secrets file on disk: two generations of the wrapped storage secret, each replaced whole or not at all.

Owns the bytes and their durability; knows nothing of slots, passphrases or keys (`values/keys.py` does). Invariant:
at every moment, power loss included, `secrets.json` or `secrets.json.old` is a whole file that was once written here,
and nobody but its owner can read either.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from blobfs.errors import StoreDamaged, StoreMissing
from blobfs.protocol import MAX_SECRETS
from blobfs.values.documents import Json, dump, load

OLD_SUFFIX: Final = ".old"
"""The generation before the newest, as a name beside it."""


def read_secrets(path: Path) -> Json:
    """The newest generation that is whole.

    Raises:
        StoreMissing: neither generation is there.
        StoreDamaged: neither is whole, or one is a link, a special file, another user's or open to others.
    """
    damage: StoreDamaged | None = None
    for candidate in (path, _old(path)):
        try:
            return _read_one(candidate)
        except FileNotFoundError:
            continue
        except StoreDamaged as error:
            damage = damage or error
    if damage is not None:
        raise damage
    raise StoreMissing("there is no secrets file in the store; check --store, or mount with --connect to join again")


def write_secrets(path: Path, body: Json) -> None:
    """Make `body` the newest generation and keep the one before; on return both survive power loss.

    Raises:
        OSError: what the disk said; the newest generation is then still the one from before.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if _is_whole(path):
            _copy_to_old(path, directory)
        _replace(path, dump(body) + b"\n", directory)
    finally:
        os.close(directory)


def _read_one(path: Path) -> Json:
    data = _read_private(path)
    try:
        return load(data)
    except (ValueError, RecursionError):
        raise StoreDamaged("the secrets file is damaged; restore it from a backup or from the server") from None


def _read_private(path: Path) -> bytes:
    """Bytes of a regular file that is ours alone. Raises FileNotFoundError, StoreDamaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreDamaged(f"the secrets file cannot be read ({error.strerror}); check its owner and type") from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise StoreDamaged("the secrets file is not a plain file of yours; check its owner and type")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise StoreDamaged("the secrets file is open to other users; check who changed it, then chmod 600 it")
        data = file.read(MAX_SECRETS + 1)
    if len(data) > MAX_SECRETS:
        raise StoreDamaged("the secrets file is far too long to be one of blobfs; check --store")
    return data


def _is_whole(path: Path) -> bool:
    try:
        _read_one(path)
    except (OSError, StoreDamaged):
        return False
    return True


def _copy_to_old(path: Path, directory: int) -> None:
    # A copy, not a rename: `path` itself must never be absent.
    _replace(_old(path), _read_private(path), directory)


def _replace(path: Path, data: bytes, directory: int) -> None:
    temporary = f".{path.name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def _old(path: Path) -> Path:
    return path.with_name(path.name + OLD_SUFFIX)
