"""When each token was last used: kept in memory and written down now and then, so that a request costs no write.

Must not know HTTP. Invariant: the catalog's time of a token only grows, and is behind by no more than the time between
two upkeeps; a process that is killed loses what it had not written.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

from server.catalog import accounts


class Sightings:
    """The tokens that this process has seen since it last wrote down."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def note(self, token_id: int) -> None:
        """The token was used just now."""
        self._seen[token_id] = time.time_ns()

    def last(self, token_id: int, written_ns: int | None) -> int | None:
        """When it was last used, by what the catalog has and what this process knows; None: never."""
        return max(self._seen.get(token_id, 0), written_ns or 0) or None

    def write_down(self, connection: Connection) -> None:
        """Bring the catalog up to date."""
        seen, self._seen = self._seen, {}
        accounts.see_tokens(connection, seen)
