"""What every keeper of blobs promises: `BlobsBackend`. Knows nothing of accounts, quota, HTTP or the catalog.

The catalog says which blobs exist; a backend only holds bytes. One blob goes in like this:

    staged = backend.stage()            bytes nobody can see yet
    staged.write(...)                   as often as needed
    backend.sync([staged])              flushed, still invisible
    backend.publish([(key, staged)])    under their keys, durably; what stood there is replaced

The server calls `publish` and `delete` inside the catalog transaction that makes the same change, so for one key they
never run at the same time; everything else may. All methods block and are called from worker threads: an
implementation is thread-safe and need not be quick. `tests/contract/` holds the suite that an implementation passes.
The contract on failure: an `OSError` (with ENOSPC or EDQUOT when there is no room), and nothing half done is visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BlobKey:
    """The name of a blob. Each part has passed `protocol.is_id`, so it is safe in paths and keys."""

    user: str
    namespace: str
    blob_id: str

    def __str__(self) -> str:
        return f"{self.user}/{self.namespace}/{self.blob_id}"


class Staged(Protocol):
    """Bytes on their way in. Used by one thread at a time."""

    def write(self, data: bytes) -> None:
        """Append `data`."""

    def discard(self) -> None:
        """Free everything; harmless after `publish` and when repeated."""


class BlobReader(Protocol):
    """An open blob. Once it is deleted or replaced, `read` goes on with the old bytes or fails; it never mixes."""

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset`, at most `length`; fewer only at the end of the blob.

        Raises:
            FileNotFoundError: the blob is not there any more, and this backend does not hold on to it.
        """

    def close(self) -> None:
        """Free the handle; harmless when repeated."""


class BlobsBackend(Protocol):
    """Keeps blobs. See the module's docstring for the order of calls."""

    def stage(self) -> Staged:
        """A new, empty, invisible item."""

    def sync(self, items: Sequence[Staged]) -> None:
        """On return whatever can be done before `publish` towards durability is done; nothing more is written."""

    def publish(self, items: Sequence[tuple[BlobKey, Staged]]) -> None:
        """On return each item stands under its key and survives power loss; readers see all of it or nothing.

        The items were synced; the keys are distinct.
        """

    def open(self, key: BlobKey) -> BlobReader | None:
        """The blob, or None when there is none."""

    def stat(self, key: BlobKey) -> int | None:
        """Bytes of the blob, or None when there is none."""

    def delete(self, keys: Iterable[BlobKey]) -> None:
        """On return none of the blobs is there; those that were not are no error."""

    def list(self) -> Iterator[tuple[BlobKey, int]]:
        """Every blob with its size, in no order. What comes and goes meanwhile may or may not be among them."""

    def sweep(self) -> int:
        """Free what a dead process left staged; called once, before the first `stage`. Returns how many items."""
