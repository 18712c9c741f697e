"""Answers as JSON, taken apart within limits: the first look at what a server says, before anything is believed.

Knows no route. Invariant: what parsing builds is bounded as the answer is, and what is none of the protocol's is a
`ProtocolError`.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeGuard

from blobfs import protocol
from blobfs.errors import ProtocolError
from blobfs.remote.refusals import ADVICE
from blobfs.values.revisions import MAX_DEVICES

_MOST_VALUES: Final = 2 * protocol.MAX_CHANGES * (MAX_DEVICES + 20)
"""Values in an answer, by its commas and brackets, of which the longest revisions alone have half as many. Each takes
some 100 bytes: without a bound, a page of nothing but `{},` would become thirty times as large."""


def broken(what: str) -> ProtocolError:
    """For an answer that is none; `what` is a word of ours."""
    return ProtocolError(f"{ADVICE[ProtocolError]} ({what})")


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys or NaN. Raises ProtocolError."""
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MOST_VALUES:
        raise broken("JSON")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise broken("JSON") from None
    return members(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate keys")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def members(value: Any) -> dict[str, Any]:
    """An object. Raises ProtocolError."""
    if not isinstance(value, dict):
        raise broken("JSON")
    return value


def array(value: Any, most: int) -> list[Any]:
    """An array of at most so many. Raises ProtocolError."""
    if not isinstance(value, list) or len(value) > most:
        raise broken("JSON")
    return value


def texts(value: Any, most: int) -> list[str]:
    """An array of at most so many texts. Raises ProtocolError."""
    found = array(value, most)
    # Text is never made of anything else: of what is nested deep that takes more stack than parsing it did.
    if not all(isinstance(one, str) for one in found):
        raise broken("JSON")
    return found


def number(value: Any) -> int:
    """A number from 0 on. Raises ProtocolError."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise broken("number")
    return value


def is_count(value: Any) -> TypeGuard[int]:
    """Whether this is a number from 1 on, of 63 bits."""
    return type(value) is int and 0 < value < 1 << 63
