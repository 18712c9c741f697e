"""HTML in which text can only be text: whatever is not `Html` is escaped when it is put in. Pure.

Knows nothing of what is drawn. Invariant: the one way from a string to markup is `tag`, and it escapes.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable
from typing import Final, TypeAlias
from urllib.parse import quote, urlencode

from blobfs.values.documents import name_from_text

_VOID: Final = frozenset(("img", "input", "link", "meta", "br"))
_UNSEEN: Final = frozenset(("Cc", "Cs", "Zl", "Zp"))
_TURNS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What changes the direction of the text after it: a name could show another extension than it has."""


class Html(str):
    """Markup."""

    __slots__ = ()


Child: TypeAlias = "str | int | Html | Iterable[Child] | None"
"""A string is text; None is nothing."""


def tag(element: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. `class_` is class, `data_path` is data-path; True is an attribute without a value, None is none."""
    opened = f"<{element}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(opened if element in _VOID else f"{opened}{join(children)}</{element}>")


def join(children: Child) -> Html:
    """Children, one behind the other."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str | int):
        return Html(html.escape(shown(str(children))))
    return Html("".join(join(child) for child in children))


def _attribute(key: str, value: str | int | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(shown(str(value)))}"'


def shown(text: str) -> str:
    """`text` with all that has no picture of its own, or turns what follows, replaced; line ends and tabs stay."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if letter in _TURNS or (unicodedata.category(letter) in _UNSEEN and letter not in "\n\t")
        else letter
        for letter in text
    )


def quoted(path: str) -> str:
    """A path as it stands in an address or a form; names in it can hold any byte."""
    return quote(name_from_text(path))


def address(room: str, path: str, **query: str | int) -> str:
    """The address of a path in a room of the site."""
    return f"/{room}/{quoted(path)}" + (f"?{urlencode(query, errors='surrogateescape')}" if query else "")
