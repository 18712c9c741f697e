"""The commands beside serving: accounts, tokens, quota, usage, collect, check, copy. They work on the catalog directly,
also while a server runs on it, and answer with plain values that `cli.py` prints.

Must not know arguments' text or exit codes beyond the parsed names. Invariant: a token's text leaves once, when made.
"""

from __future__ import annotations

import contextlib
import os
import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from blobfs.protocol import INVITE_LABEL, Invite, pack_invite
from server import auth, check, collect, move
from server.auth import Scope
from server.catalog import accounts
from server.catalog.accounts import Account
from server.catalog.engine import Catalog
from server.config import read_config
from server.errors import AccountNotEmpty, DataUnusable
from server.service import open_backend
from server.settings import DAY_S, Settings, lock_data, prepare_data, recall_address, recall_pin


def run(parsed: Namespace, settings: Settings) -> Any:
    """Do the command; answers what is to be printed.

    Raises:
        ServerError: one sentence for the person at the terminal.
    """
    if not settings.data.exists() and (parsed.noun, getattr(parsed, "verb", None)) != ("user", "add"):
        raise DataUnusable(f"There is no data directory {settings.data}; `user add` or the server makes one.")
    prepare_data(settings.data)
    verbs = {
        "user add": _add_user,
        "user list": _list_users,
        "user remove": _remove_user,
        "token add": _add_token,
        "token list": _list_tokens,
        "token revoke": _revoke_token,
        "quota set": _set_quota,
        "usage": _list_users,
        "collect": _collect,
        "check": _check,
        "copy": _copy,
    }
    with contextlib.closing(Catalog(settings.url_of_catalog)) as catalog:
        return verbs[" ".join(filter(None, (parsed.noun, getattr(parsed, "verb", None))))](parsed, settings, catalog)


def _invitation(settings: Settings, parsed: Namespace, token: str) -> dict[str, Any]:
    url = parsed.url or settings.public_url or recall_address(settings.data)
    pin = recall_pin(settings.data) if url.startswith("https://") else None
    invite = pack_invite(Invite(url.rstrip("/"), parsed.name, token, pin=pin))
    return {"user": parsed.name, "token": token, "invite": invite}


def _add_user(parsed: Namespace, settings: Settings, catalog: Catalog) -> Any:
    token = auth.new_token()
    with catalog.writing() as connection:
        user_id = accounts.add_account(connection, parsed.name, parsed.quota)
        accounts.add_token(connection, user_id, auth.hash_token(token), Scope.WRITE, "first", None)
    return _invitation(settings, parsed, token)


def _account_json(account: Account) -> dict[str, Any]:
    shown = {"user": account.name, "used": account.used, "quota": account.quota, "blobs": account.blobs}
    return shown | {"changes": account.seq, "created": _time(account.created_ns), "removed": account.removed}


def _time(when_ns: int | None) -> str | None:
    return None if when_ns is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when_ns // 10**9))


def _list_users(_parsed: Namespace, _settings: Settings, catalog: Catalog) -> Any:
    with catalog.reading() as connection:
        return [_account_json(account) for account in accounts.list_accounts(connection)]


def _remove_user(parsed: Namespace, settings: Settings, catalog: Catalog) -> Any:
    with catalog.writing() as connection:
        account = accounts.find_account(connection, parsed.name)
        account = accounts.lock_accounts(connection, [account.user_id]).get(account.user_id, account)
        if (account.used or account.blobs or account.seq) and not parsed.delete_data:
            raise AccountNotEmpty(f"The user {account.name} holds data; with --delete-data it goes for good.")
        accounts.close_account(connection, account.user_id)
    collect.remove_account(catalog, open_backend(settings), account.user_id, account.name)
    return {"user": account.name, "freed": account.used}


def _add_token(parsed: Namespace, settings: Settings, catalog: Catalog) -> Any:
    token = auth.new_token()
    scopes = auth.parse_scopes(parsed.scope or [Scope.WRITE])
    expires_ns = None if parsed.expires_days is None else time.time_ns() + int(parsed.expires_days * DAY_S * 1e9)
    with catalog.writing() as connection:
        account = accounts.find_account(connection, parsed.name)
        number = accounts.add_token(
            connection, account.user_id, auth.hash_token(token), scopes, parsed.label, expires_ns
        )
    return _invitation(settings, parsed, token) | {"number": number, "scopes": scopes.split()}


def _list_tokens(parsed: Namespace, _settings: Settings, catalog: Catalog) -> Any:
    with catalog.reading() as connection:
        account = accounts.find_account(connection, parsed.name)
        tokens = accounts.list_tokens(connection, account.user_id)
    return [
        {
            "number": token.token_id,
            "scopes": token.scopes.split(),
            "label": token.label,
            "created": _time(token.created_ns),
            "expires": _time(token.expires_ns),
            "seen": _time(token.seen_ns),
        }
        for token in tokens
    ]


def _revoke_token(parsed: Namespace, _settings: Settings, catalog: Catalog) -> Any:
    with catalog.writing() as connection:
        account = accounts.find_account(connection, parsed.name)
        accounts.drop_invites(connection, account.user_id, INVITE_LABEL, made_by=parsed.token)
        accounts.revoke_token(connection, account.user_id, parsed.token)
    return {"user": parsed.name, "revoked": parsed.token}


def _set_quota(parsed: Namespace, _settings: Settings, catalog: Catalog) -> Any:
    with catalog.writing() as connection:
        account = accounts.find_account(connection, parsed.name)
        accounts.set_quota(connection, account.user_id, parsed.bytes)
    return {"user": parsed.name, "quota": parsed.bytes, "used": account.used}


def _collect(parsed: Namespace, settings: Settings, catalog: Catalog) -> Any:
    done = collect.collect(catalog, open_backend(settings), settings.grace_s, settings.retention_s, parsed.dry_run)
    return asdict(done) | {"dry_run": parsed.dry_run}


def _check(parsed: Namespace, settings: Settings, catalog: Catalog) -> Any:
    return check.check(catalog, open_backend(settings), parsed.digests, parsed.repair)


def _copy(parsed: Namespace, settings: Settings, catalog: Catalog) -> Any:
    target = Settings(**read_config(parsed.to))
    prepare_data(target.data)
    done: dict[str, Any] = {"rows": 0}
    if target.url_of_catalog != settings.url_of_catalog:
        with contextlib.ExitStack() as stack:
            for data in {settings.data.resolve(), target.data.resolve()}:
                stack.callback(os.close, lock_data(data))
            new = stack.enter_context(contextlib.closing(Catalog(target.url_of_catalog)))
            done["rows"] = move.copy_catalog(catalog, new)
    done |= move.copy_blobs(catalog, open_backend(settings), open_backend(target))
    return done | {"clean": not done["missing"]}
