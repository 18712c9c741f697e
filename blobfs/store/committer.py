"""The thread that commits a batch when the journal has grown, so that no request has to.

Knows when it is asked and whom to ask; what a commit is, is the ledger's. Invariant: an error ends nothing here: the
batch is in the journal, and the next tick says what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from blobfs.errors import BlobfsError


class Committer:
    """A thread that is there from the first time that it is needed."""

    def __init__(self, commit: Callable[[], object]) -> None:
        self._commit = commit
        self._wanted = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Have a batch committed soon."""
        self._wanted.set()
        if self._thread is None and not self._is_closed:
            self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._is_closed:
                return
            with suppress(BlobfsError, OSError):
                self._commit()

    def close(self) -> None:
        """On return it does nothing any more. Not to be called with the ledger's lock held."""
        self._is_closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
