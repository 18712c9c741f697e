"""The desktop's keyring: a store's passphrase, kept by whatever serves the Secret Service of this session.

The only module that speaks to it; the library is optional and imported when it is used. Knows nothing of what the
passphrase opens. Invariant: a passphrase is given only to a program of `SAFE`, all of which keep it encrypted.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from blobfs.errors import BlobfsError, UsageError

SERVICE: Final = "org.freedesktop.secrets"
SAFE: Final = frozenset(("gnome-keyring-d", "kwalletd5", "kwalletd6", "ksecretd", "keepassxc", "oo7-daemon"))
"""Names of processes, as the kernel has them: 15 characters at most. Others may keep what they get in the clear."""
UNLOCK_S: Final = 120
"""Seconds that a person has to unlock the keyring."""
_LABEL: Final = "Passphrase of a blobfs store"


class KeyringEntry:
    """One store's place in the keyring. Every method raises UsageError, with what to do, when there is none to use."""

    def __init__(self, store: Path) -> None:
        self._attributes = {"application": "blobfs", "store": str(store)}

    def read(self) -> str | None:
        """The passphrase that is kept, or None."""
        with _collection() as collection:
            found = next(collection.search_items(self._attributes), None)
            try:
                return None if found is None else bytes(found.get_secret()).decode("utf-8")
            except UnicodeDecodeError:
                return None

    def write(self, passphrase: str) -> None:
        """Keep it, in place of what was kept."""
        with _collection() as collection:
            collection.create_item(_LABEL, self._attributes, passphrase.encode("utf-8"), replace=True)

    def forget(self) -> bool:
        """Remove it; whether there was one."""
        with _collection() as collection:
            found = list(collection.search_items(self._attributes))
            for item in found:
                item.delete()
        return bool(found)


@contextlib.contextmanager
def _collection() -> Iterator[Any]:
    """The keyring that the desktop unlocks by itself, unlocked."""
    if importlib.util.find_spec("secretstorage") is None:
        raise UsageError("the keyring needs the package secretstorage; install it with `pip install 'blobfs[desktop]'`")
    import secretstorage

    try:
        with contextlib.closing(secretstorage.dbus_init()) as connection:
            _check_keeper(connection)
            collection = secretstorage.get_default_collection(connection)
            if collection.is_locked() and collection.unlock(timeout=UNLOCK_S):
                raise UsageError("the keyring stayed locked; unlock it, or leave --keyring out")
            yield collection
    except BlobfsError:
        raise
    except Exception as error:
        # The libraries have no common kind for a bus or a keeper that is not there, refuses or goes away.
        raise UsageError(
            f"the desktop's keyring cannot be used ({type(error).__name__}); start it, or leave --keyring out"
        ) from error


def _check_keeper(connection: Any) -> None:
    """Raises UsageError: what serves the Secret Service is not known to keep secrets encrypted."""
    from jeepney import message_bus
    from jeepney.io.blocking import Proxy

    bus = Proxy(message_bus, connection)
    if not bus.NameHasOwner(SERVICE)[0]:
        bus.StartServiceByName(SERVICE)
    number = bus.GetConnectionUnixProcessID(SERVICE)[0]
    try:
        name = Path(f"/proc/{int(number)}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = ""
    if name not in SAFE:
        raise UsageError(
            f"the keyring of this session ({name or 'unknown'}) is none that blobfs knows to keep secrets encrypted; "
            "use GNOME's, KDE's or KeePassXC's, or leave --keyring out"
        )
