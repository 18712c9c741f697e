"""Use: whether somebody works with what is mounted, be it a program in the mount or one at the API.

Knows nothing of clocks or of what follows from it. Invariant: what the kernel does by itself (giving references back,
after a change from another device, say) and what asks about the whole (`df`) is no use.
"""

from __future__ import annotations

from types import TracebackType


class Use:
    """Marked by whoever serves a request; as a context manager, while a longer one runs. On the loop."""

    __slots__ = ("_running", "is_new")

    def __init__(self) -> None:
        self.is_new = False
        """Set by each request. A plain attribute, since it costs every request of the kernel."""
        self._running = 0

    def take(self) -> bool:
        """Whether there was any since it was last asked, or is some at this moment."""
        was_new, self.is_new = self.is_new, False
        return was_new or self._running > 0

    def __enter__(self) -> None:
        self._running += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running -= 1
        self.is_new = True
