"""The secrets file of a newer epoch, which another device left at the server: kept beside the store until it opens.

Owns that file, and when it takes the place of the store's own. Invariant: it does so only when its secrets have the one
that this store is sealed with among the older ones, so a server cannot put another account, or an older epoch, there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blobfs.config import NEWER, PASSPHRASE, SECRETS
from blobfs.errors import StoreDamaged, StoreMissing
from blobfs.store.secrets import read_secrets, write_secrets
from blobfs.values.documents import Json
from blobfs.values.epochs import claimed_epoch
from blobfs.values.keys import Keys

_STRANGE: Final = (
    "the newer keys that the server has are not those of this store, so they were not taken; tell the server's "
    "operator, and mount with the old passphrase"
)


def keep_newer(store: Path, body: Json) -> None:
    """Keep what the server has, if it claims to be a newer secrets file of this store's account."""
    if is_newer(body, read_secrets(store / SECRETS)) and body != read_newer(store):
        write_secrets(store / NEWER, body)


def read_newer(store: Path) -> Json | None:
    """What was kept, if anything."""
    try:
        return read_secrets(store / NEWER)
    except (StoreMissing, StoreDamaged):
        return None


def is_newer(body: Json, ours: Json) -> bool:
    """Whether a secrets file claims the same account and a later epoch. Raises StoreDamaged, StoreTooNew."""
    return bool(claimed_epoch(body) > claimed_epoch(ours) and body["account"] == ours["account"])


def adopt(store: Path, body: Json, keys: Keys) -> None:
    """Make `body`, which opened to `keys`, the secrets file of `store`; on return no older one is left.

    The databases get their new keys when the store is next opened.

    Raises:
        StoreInUse: a process has the store open.
        StoreDamaged: it is not a newer one of this store; nothing was changed.
    """
    # They bring the whole store along, which most commands have no use for.
    from blobfs.store import rekey
    from blobfs.store.store import holding

    with holding(store):
        try:
            ours = read_secrets(store / SECRETS)
            # The databases know whose secret is theirs; the store's own file does not open with what was given.
            if not is_newer(body, ours) or rekey.find(store, keys)[0].epoch != claimed_epoch(ours):
                raise StoreDamaged(_STRANGE)
        except StoreDamaged:
            forget_newer(store)
            raise StoreDamaged(_STRANGE) from None
        replace_all(store, body)


def replace_all(store: Path, body: Json) -> None:
    """Make `body` both generations of the secrets file; what was kept beside it goes."""
    write_secrets(store / SECRETS, body)
    write_secrets(store / SECRETS, body)
    (store / PASSPHRASE).unlink(missing_ok=True)
    forget_newer(store)


def forget_newer(store: Path) -> None:
    """Remove what was kept."""
    for path in store.glob(f"{NEWER}*"):
        path.unlink(missing_ok=True)
