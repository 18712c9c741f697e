"""Who may ask: one-time links, the sessions that they open, and what a browser says about where a request is from.

Knows nothing of what is asked for. Invariants: a link opens one session and is dead then; a request that another site,
another port or another name of this machine had the browser send changes nothing and learns nothing; what is over is
forgotten.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from blobfs.page.wire import Request

LINK_S: Final = 300
"""How long a link waits to be opened."""
IDLE_S: Final = 1800
"""How long a session lasts after the last thing that a person did in it."""
LONGEST_S: Final = 12 * 3600
MAX_LINKS: Final = 8
MAX_SESSIONS: Final = 8
"""Of this user's own browsers; the oldest goes when there is one more."""
HOST: Final = "127.0.0.1"


class Refused(Exception):
    """A request that is not answered: a status, and a sentence for a person."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(slots=True)
class Session:
    """One browser."""

    made: float
    seen: float
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    form: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    """Stands in every form of it: no other site can know it."""
    notice: str = ""
    """What to say on the next page."""

    @property
    def end(self) -> float:
        return min(self.seen + IDLE_S, self.made + LONGEST_S)


class Guard:
    """The links and sessions of one listening port."""

    def __init__(self, port: int, clock: Callable[[], float]) -> None:
        self.host, self.origin, self.cookie = f"{HOST}:{port}", f"http://{HOST}:{port}", f"blobfs-{port}"
        self._clock = clock
        self._links: dict[str, float] = {}
        self._sessions: list[Session] = []
        self.changed = trio.Event()
        """Set, and made anew, when something may be over sooner."""

    @property
    def end(self) -> float:
        """When the last link and the last session are over; in the past when there is none."""
        self._forget()
        return max((*self._links.values(), *(session.end for session in self._sessions)), default=self._clock() - 1)

    def _forget(self) -> None:
        now = self._clock()
        self._links = {token: end for token, end in self._links.items() if end > now}
        self._sessions = [session for session in self._sessions if session.end > now]

    # --- links and sessions -------------------------------------------------------------------------------------

    def issue(self) -> str:
        """The address of a new link."""
        self._forget()
        while len(self._links) >= MAX_LINKS:
            del self._links[min(self._links, key=self._links.__getitem__)]
        token = secrets.token_urlsafe(32)
        self._links[token] = self._clock() + LINK_S
        return f"{self.origin}/open/{token}"

    def redeem(self, token: str) -> Session:
        """A link becomes a session. Raises Refused: it was used before, is too old, or never was."""
        self._forget()
        found = next((link for link in self._links if _same(link, token)), None)
        if found is None:
            raise Refused(403, "This link was used before, or is too old. Run `blobfs browse` again for a new one.")
        del self._links[found]
        now = self._clock()
        self._sessions = [*self._sessions[1 - MAX_SESSIONS :], Session(now, now)]
        self._tell()
        return self._sessions[-1]

    def session(self, request: Request, *, is_idle: bool) -> Session:
        """The session of a request. `is_idle`: no person asked for it, and it makes the session last no longer.

        Raises Refused: it has none.
        """
        self._forget()
        pairs = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
        # Other ports of this machine share our cookies: one of theirs by our name must not push ours aside.
        keys = [value for name, _, value in pairs if name == self.cookie]
        found = next((made for made in self._sessions for key in keys if _same(made.key, key)), None)
        if found is None:
            raise Refused(403, "This page has ended, or belongs to another browser. Run `blobfs browse` again.")
        if not is_idle:
            found.seen = self._clock()
        return found

    def close(self, session: Session) -> None:
        """It is over."""
        self._sessions.remove(session)
        self._tell()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # --- where a request is from ----------------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """Raises Refused: it is not one that our own page, or a person, had the browser send."""
        headers = request.headers
        if request.method not in ("GET", "HEAD", "POST"):
            raise Refused(405, "There is no such method here.")
        if headers.get("host") != self.host:
            # A name that another site had resolve to this machine (DNS rebinding).
            raise Refused(421, "This page is not at that address.")
        if headers.get("origin", self.origin) != self.origin:
            raise Refused(403, "Another site asked for this.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _is_link(request):
            raise Refused(403, "Another site asked for this.")
        if "sec-purpose" in headers or "purpose" in headers:
            raise Refused(403, "Nothing here is fetched ahead.")
        if request.method == "POST" and "origin" not in headers:
            raise Refused(403, "The browser did not say which site asked for this.")

    def check_form(self, request: Request, session: Session) -> None:
        """Raises Refused: the form is none of this session's."""
        if request.method != "POST":
            raise Refused(405, "This changes something, and needs its button.")
        if not _same(session.form, request.form.get("form", "")):
            raise Refused(403, "This form is none of this page's. Load the page again.")


def _is_link(request: Request) -> bool:
    """A person may follow a link from wherever it was shown to them: its token is proof enough."""
    headers = request.headers
    dest = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return request.room == "open" and request.method == "GET" and dest == ("navigate", "document")


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode("utf-8", "surrogatepass"))
