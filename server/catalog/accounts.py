"""Accounts and tokens. Must not know what a scope allows; tokens come here hashed and no text of one is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from server.catalog import schema
from server.catalog.blobs import batches
from server.errors import AccountExists, AccountMissing

USERS, TOKENS = schema.USERS, schema.TOKENS


@dataclass(frozen=True, slots=True)
class Account:
    """A user as the catalog has it. Sizes are bytes."""

    user_id: int
    name: str
    quota: int | None
    used: int
    reserved: int
    blobs: int
    seq: int
    created_ns: int
    removed: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the catalog has it: everything but its text."""

    token_id: int
    user_id: int
    user: str
    hash: bytes
    scopes: str
    label: str
    created_ns: int
    expires_ns: int | None
    seen_ns: int | None


_ACCOUNT = select(
    USERS.c.id,
    USERS.c.name,
    USERS.c.quota,
    USERS.c.used,
    USERS.c.reserved,
    USERS.c.blobs,
    USERS.c.seq,
    USERS.c.created_ns,
    USERS.c.removed,
)
_TOKEN = select(
    TOKENS.c.id,
    TOKENS.c.user_id,
    USERS.c.name,
    TOKENS.c.hash,
    TOKENS.c.scopes,
    TOKENS.c.label,
    TOKENS.c.created_ns,
    TOKENS.c.expires_ns,
    TOKENS.c.seen_ns,
).join(USERS, USERS.c.id == TOKENS.c.user_id)
_TOKEN_BY_HASH = _TOKEN.where(TOKENS.c.hash == bindparam("hash"), USERS.c.removed.is_(False))
_BY_ID = _ACCOUNT.where(USERS.c.id == bindparam("user_id"))
_LOCKED = _BY_ID.with_for_update()
_ALL_LOCKED = _ACCOUNT.where(USERS.c.id.in_(bindparam("ids", expanding=True))).order_by(USERS.c.id).with_for_update()


def find_token(connection: Connection, digest: bytes) -> Token | None:
    """The token with this hash, unless its account is gone or going."""
    row = connection.execute(_TOKEN_BY_HASH, {"hash": digest}).first()
    return None if row is None else Token(*row)


def lock_account(connection: Connection, user_id: int) -> Account:
    """The account, unchanged by others until this transaction ends.

    Raises:
        AccountMissing: it was removed meanwhile.
    """
    row = connection.execute(_LOCKED, {"user_id": user_id}).first()
    if row is None or row.removed:
        raise AccountMissing("The account was removed.")
    return Account(*row)


def lock_accounts(connection: Connection, user_ids: Iterable[int]) -> dict[int, Account]:
    """As `lock_account` for several, in one order for all; those removed are not among them, but locked too."""
    ids = sorted(set(user_ids))
    if len(ids) == 1:  # an IN is written out anew each time
        rows = connection.execute(_LOCKED, {"user_id": ids[0]})
    else:
        rows = connection.execute(_ALL_LOCKED, {"ids": ids})
    return {row.id: Account(*row) for row in rows if not row.removed}


def load_account(connection: Connection, user_id: int) -> Account:
    """The account as it is at this moment; nobody is held up.

    Raises:
        AccountMissing: it was removed meanwhile.
    """
    row = connection.execute(_BY_ID, {"user_id": user_id}).first()
    if row is None or row.removed:
        raise AccountMissing("The account was removed.")
    return Account(*row)


def list_accounts(connection: Connection) -> list[Account]:
    """Every account, by name."""
    return [Account(*row) for row in connection.execute(_ACCOUNT.order_by(USERS.c.name))]


def find_account(connection: Connection, name: str) -> Account:
    """The account of this name.

    Raises:
        AccountMissing: there is none.
    """
    row = connection.execute(_ACCOUNT.where(USERS.c.name == name)).first()
    if row is None:
        raise AccountMissing(f"There is no user {name}; `user list` shows them all.")
    return Account(*row)


def add_account(connection: Connection, name: str, quota: int | None) -> int:
    """Create an account; answers its number.

    Raises:
        AccountExists: the name is taken.
    """
    row = {"name": name, "quota": quota, "used": 0, "reserved": 0, "blobs": 0, "seq": 0}
    row |= {"created_ns": time.time_ns(), "removed": False}
    try:
        result = connection.execute(insert(USERS), row)
    except IntegrityError as error:
        raise AccountExists(f"There is a user {name} already; `token add` gives another token.") from error
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def set_quota(connection: Connection, user_id: int, quota: int | None) -> None:
    """Change what the account may hold; less than it holds only stops it from growing."""
    connection.execute(update(USERS).where(USERS.c.id == user_id).values(quota=quota))


def close_account(connection: Connection, user_id: int) -> None:
    """Begin a removal: from the commit on no token works."""
    connection.execute(update(USERS).where(USERS.c.id == user_id).values(removed=True))
    connection.execute(delete(TOKENS).where(TOKENS.c.user_id == user_id))


def forget_account(connection: Connection, user_id: int) -> None:
    """End a removal: every row of the account goes and its name is free. Its blobs' bytes went before."""
    tables = (schema.BLOBS, schema.RESERVATIONS, schema.DELETIONS, schema.DOCUMENTS)
    for table in (*tables, schema.REVISIONS, schema.REFS, schema.SECRETS, TOKENS):
        connection.execute(delete(table).where(table.c.user_id == user_id))
    connection.execute(delete(USERS).where(USERS.c.id == user_id))


def add_token(
    connection: Connection,
    user_id: int,
    digest: bytes,
    scopes: str,
    label: str,
    expires_ns: int | None,
    made_by: int | None = None,
) -> int:
    """Store a token's hash; answers the token's number."""
    row = {"user_id": user_id, "hash": digest, "scopes": scopes, "label": label, "made_by": made_by}
    result = connection.execute(insert(TOKENS), row | {"created_ns": time.time_ns(), "expires_ns": expires_ns})
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def list_tokens(connection: Connection, user_id: int) -> list[Token]:
    """The account's tokens, oldest first."""
    rows = connection.execute(_TOKEN.where(TOKENS.c.user_id == user_id).order_by(TOKENS.c.id))
    return [Token(*row) for row in rows]


def list_all_tokens(connection: Connection) -> list[Token]:
    """The tokens of all accounts, oldest first."""
    return [Token(*row) for row in connection.execute(_TOKEN.order_by(TOKENS.c.id))]


_SEEN = (
    update(TOKENS)
    .where(TOKENS.c.id == bindparam("token"), func.coalesce(TOKENS.c.seen_ns, 0) < bindparam("when"))
    .values(seen_ns=bindparam("when"))
)


def see_tokens(connection: Connection, seen: Mapping[int, int]) -> None:
    """Write down when tokens were last used; an older time changes nothing."""
    if seen:
        # In one order, so that two processes which do this at once never wait for each other in a circle.
        connection.execute(_SEEN, [{"token": token, "when": seen[token]} for token in sorted(seen)])


def living_tokens(connection: Connection, token_ids: Iterable[int]) -> set[int]:
    """Those of these tokens that are good now."""
    alive = or_(TOKENS.c.expires_ns.is_(None), TOKENS.c.expires_ns > time.time_ns())
    living: set[int] = set()
    for batch in batches(token_ids):
        living.update(connection.execute(select(TOKENS.c.id).where(TOKENS.c.id.in_(batch), alive)).scalars())
    return living


def drop_invites(connection: Connection, user_id: int, label: str, made_by: int | None = None) -> None:
    """Forget tokens of this label that nobody can use any more; with `made_by`, all that this token asked for."""
    which = TOKENS.c.expires_ns <= time.time_ns() if made_by is None else TOKENS.c.made_by == made_by
    connection.execute(delete(TOKENS).where(TOKENS.c.user_id == user_id, TOKENS.c.label == label, which))


def revoke_token(connection: Connection, user_id: int, token_id: int) -> None:
    """From the commit on the token is unknown.

    Raises:
        AccountMissing: the account has no such token.
    """
    found = connection.execute(delete(TOKENS).where(TOKENS.c.user_id == user_id, TOKENS.c.id == token_id))
    if found.rowcount == 0:
        raise AccountMissing("The user has no token of this number; `token list` shows them.")
