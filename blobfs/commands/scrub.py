"""Takes out of log lines what tells of a person: paths, addresses, hosts, users, quoted text, tokens, chosen ids.

Better too much than too little: what is left are the sentences of blobfs and numbers. Invariant: a thing is replaced by
the same word everywhere, so that a reader can still tell which lines belong together.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final

_RULES: Final = (
    ("url", re.compile(r"\b(?:https?|blobfs1?):[^\s'\"<>,;)]+")),
    ("ip", re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d+)?")),
    ("text", re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")),
    # To the end of the clause: a name may have spaces in it.
    ("path", re.compile(r"(?<![\w.<])~?/[^:,;)\n]+")),
    ("id", re.compile(r"(?<=document )[A-Za-z0-9_-]+")),
    ("id", re.compile(r"\b[0-9a-f]{16,}\b")),
    ("token", re.compile(r"\b[A-Za-z0-9_+/=-]{24,}")),
)
_SOURCE: Final = re.compile(r'File "[^"\n]*?/((?:blobfs|server|trio|httpx|httpcore)/[\w/]+\.py)"')
"""A line of a traceback in the source of blobfs or what it stands on, which is no secret."""
_JSON: Final = re.compile(r'^\s*"(?:name|ok|text|advice)": ')


class Scrubber:
    """Replaces what is private; one for one bundle."""

    def __init__(self) -> None:
        # Drawn anew for each bundle: what a word stands for cannot be tried out, nor followed from bundle to bundle.
        self._salt = secrets.token_bytes(16)
        self._hidden: dict[str, str] = {}
        for text, word in ((os.fspath(Path.home()), "HOME"), (socket.gethostname(), "HOST"), (_user(), "USER")):
            self.hide(text, word)

    def hide(self, text: str, word: str) -> None:
        """Replace `text` by `<word>` wherever it stands."""
        if len(text) > 2:
            self._hidden[text] = word

    def scrub(self, line: str) -> str:
        """A line without what is private."""
        for text in sorted(self._hidden, key=len, reverse=True):
            line = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", f"<{self._hidden[text]}>", line)
        line = _SOURCE.sub(r"File <\1>", line)
        match = _JSON.match(line)
        head, body = (line[: match.end()], line[match.end() :]) if match else ("", line)
        for word, pattern in _RULES:
            if match and word == "text":
                continue  # the quotes are JSON's
            body = pattern.sub(lambda found, word=word: self._stand_in(word, found[0]), body)  # type: ignore[misc]
        return head + body

    def _stand_in(self, word: str, text: str) -> str:
        return f"<{word} {hashlib.sha256(self._salt + text.encode('utf-8', 'replace')).hexdigest()[:6]}>"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
