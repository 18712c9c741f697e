"""A process that opens a store with the keys of a newer epoch, and is killed on the way.

    python -m tests.store.renewer PATH DATABASE SHARE

It kills itself when it is to begin with DATABASE and SHARE is 0, when the journal has SHARE percent of that database,
or, with 100, when it has the new key. With SHARE `full` no file may grow beyond half the size of that database.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from blobfs.errors import NoSpace
from blobfs.store import rekey
from blobfs.store.store import Store
from blobfs.values.keys import AccountId, derive_keys

SECRETS = (b"0" * 32, b"1" * 32, b"2" * 32)
OLD, NEWER, NEWEST = (derive_keys(AccountId("ab" * 16), SECRETS[at], SECRETS[:at]) for at in range(3))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Open the store, as far as it gets."""
    path, name, share = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

    def watch(database: Path, size: int, work: Callable[[], None]) -> None:
        if database.name != name or share == "full":
            return work()
        if share == "0":
            die()
        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():
            if share != "100" and rekey.progress(database) >= size * int(share) // 100:
                die()
        thread.join()
        die()

    if share == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, ((path / name).stat().st_size // 2, resource.RLIM_INFINITY))
    try:
        Store.open(path, NEWEST, watch)
    except NoSpace:
        sys.exit(9)


if __name__ == "__main__":
    main()
