"""References: what the kernel, and open handles, still hold; decides when a deleted file's bytes may go.

Knows numbers only: not the store, not names. Invariant: an inode that was deleted is given back for purging once,
when neither a lookup nor a handle refers to it any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from blobfs.values.nodes import ROOT_INODE, Inode


class References:
    """Lookup counts of the kernel, and which deleted inodes wait for theirs to end."""

    __slots__ = ("_deleted", "_doomed", "lookups")

    def __init__(self) -> None:
        self.lookups: dict[Inode, int] = {ROOT_INODE: 1}
        """The kernel's references; an inode it does not know is not in here. It always knows the root."""
        self._deleted: set[Inode] = set()
        self._doomed: list[Inode] = []

    def look(self, inode: Inode) -> None:
        """One more reference: an entry was, or is just being, answered to the kernel."""
        lookups = self.lookups
        lookups[inode] = lookups.get(inode, 0) + 1

    def forget(self, inode: Inode, count: int) -> bool:
        """The kernel gives `count` references back. True when that were its last and the file is deleted."""
        left = self.lookups.get(inode, 0) - count
        if left > 0:
            self.lookups[inode] = left
            return False
        self.lookups.pop(inode, None)
        return inode in self._deleted

    def delete(self, inode: Inode) -> None:
        """The last name of the inode is gone."""
        self._deleted.add(inode)

    def revive(self, inode: Inode) -> None:
        """It has a name again."""
        self._deleted.discard(inode)

    def is_deleted(self, inode: Inode) -> bool:
        """Whether its last name is gone while something still refers to it."""
        return inode in self._deleted

    def doom(self, inode: Inode) -> int:
        """Nothing refers to this deleted inode any more; the number that waits for `take_doomed` now."""
        self._deleted.discard(inode)
        self._doomed.append(inode)
        return len(self._doomed)

    def take_doomed(self) -> list[Inode]:
        """What can be purged; each inode is handed out once."""
        doomed, self._doomed = self._doomed, []
        return doomed

    def put_back(self, doomed: Iterable[Inode]) -> None:
        """Their purging failed; it is due again."""
        self._doomed.extend(doomed)
