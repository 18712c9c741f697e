"""Who asks, and may they: tokens, scopes, and the one place that decides.

Must not know routes. Invariant: the answer depends on (token, user, scope, resource) as the catalog has them at this
moment; nothing is cached, so a revoked token is refused by the next request. Whether another account or a thing in it
exists changes neither the answer nor what is done to find it.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from blobfs.protocol import parse_authorization_header
from server.catalog import accounts
from server.errors import Forbidden, Unauthorized


class Scope(enum.StrEnum):
    """What a token is for."""

    READ = "read"
    WRITE = "write"
    APPEND_ONLY = "append-only"
    INCOMING = "incoming"
    ADMIN = "admin"


class Action(enum.Enum):
    """What a request does to the account that it names."""

    READ = enum.auto()
    CREATE = enum.auto()
    """Adds what was not there and changes nothing that was."""
    CHANGE = enum.auto()
    """Replaces or deletes."""
    DROP = enum.auto()
    """Leaves something in the incoming namespace."""
    DELEGATE = enum.auto()
    """Lets other devices in, and out."""
    OPERATE = enum.auto()
    """Looks at the server as a whole: for whoever runs it."""


ALLOWED: Final[dict[Scope, frozenset[Action]]] = {
    Scope.READ: frozenset({Action.READ}),
    Scope.APPEND_ONLY: frozenset({Action.READ, Action.CREATE}),
    Scope.WRITE: frozenset(Action) - {Action.OPERATE},
    Scope.INCOMING: frozenset({Action.DROP}),
    Scope.ADMIN: frozenset(Action),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated request's account and what it may do there."""

    user_id: int
    user: str
    token_id: int
    actions: frozenset[Action]

    def covers(self, scopes: str) -> bool:
        """Whether a token of these scopes, in the catalog's form, may do nothing that this one may not."""
        return actions_of(scopes) <= self.actions

    def require(self, action: Action) -> None:
        """Refuse what the token is not for.

        Raises:
            Forbidden: none of its scopes allows `action`.
        """
        if action not in self.actions:
            raise Forbidden("This token may not do that; ask for one with another scope.")


def new_token() -> str:
    """The text of a fresh token: 32 random bytes."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> bytes:
    """What the catalog keeps of a token. It has 256 random bits, so a fast hash without salt is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def parse_scopes(names: Iterable[str]) -> str:
    """The catalog's form of a set of scopes.

    Raises:
        ValueError: a name that is no scope, or none at all.
    """
    scopes = sorted({Scope(name) for name in names})
    if not scopes:
        raise ValueError("a token needs a scope")
    return " ".join(scopes)


def authenticate(connection: Connection, header: str | None, user: str | None = None) -> Principal:
    """The principal of a request for something of `user`.

    Args:
        header: the value of `Authorization`, None when there is none.
        user: the user that the request's path names; None when it names none.
    Raises:
        Unauthorized: no token, or an unknown, expired or revoked one, or not that of the user it came with.
        Forbidden: the token is another user's than the path's.
    """
    credentials = None if header is None else parse_authorization_header(header)
    if credentials is None:
        raise Unauthorized("A token is needed: Authorization: Token base64(user:token).")
    name, text = credentials
    token = accounts.find_token(connection, hash_token(text))
    if token is None or token.user != name or _is_expired(token):
        raise Unauthorized("The token is unknown, expired or revoked.")
    if user is not None and name != user:
        raise Forbidden("This token is for another user.")
    return Principal(token.user_id, token.user, token.token_id, actions_of(token.scopes))


def actions_of(scopes: str) -> frozenset[Action]:
    """What a token of these scopes, in the catalog's form, may do."""
    return frozenset[Action]().union(*(ALLOWED[Scope(scope)] for scope in scopes.split()))


def _is_expired(token: accounts.Token) -> bool:
    return token.expires_ns is not None and token.expires_ns <= time.time_ns()
