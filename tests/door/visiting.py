"""A visitor of the page that `blobfs browse` opens, without a browser: they see and send what they like."""

from __future__ import annotations

import html
import re
import struct
import zlib
from pathlib import Path
from urllib.parse import quote

import httpx

from tests.door.conftest import Desk, tell


class Visitor:
    """One session."""

    def __init__(self, account: Desk) -> None:
        self.link = tell(account, "browse", account.mount, "--no-open").strip()
        self.origin, _, self.token = self.link.partition("/open/")
        self.client = httpx.Client(base_url=self.origin, trust_env=False, timeout=60)

    def close(self) -> None:
        self.client.close()

    def enter(self) -> httpx.Response:
        return self.client.get(self.link)

    def get(self, room: str, path: str | bytes = "", **headers: str) -> httpx.Response:
        return self.client.get(f"/{room}/{quote(path)}", headers=headers)

    def shown(self, room: str, path: str = "") -> str:
        """A page as text, of which markup that was meant as such is gone."""
        answer = self.get(room, path)
        assert answer.status_code == 200, answer.text
        return html.unescape(re.sub(r"<[^>]*>", " ", answer.text))

    def form(self) -> str:
        """The session's secret, out of any page."""
        found = re.search(r'name="form" value="([^"]+)"', self.get("waiting").text)
        assert found is not None
        return found[1]

    def act(self, action: str, *, referer: str = "/trash/", **fields: str) -> str:
        """Press a button; what the next page says."""
        quoted = {name: quote(value) for name, value in fields.items()}
        headers = {"Origin": self.origin, "Referer": self.origin + referer}
        answer = self.client.post(f"/do/{action}", data={"form": self.form(), **quoted}, headers=headers)
        assert answer.status_code == 303, answer.text
        page = self.client.get(answer.headers["location"])
        found = re.search(r'id="notice">([^<]*)<', page.text)
        assert found is not None, page.text
        return html.unescape(found[1])


def inner(account: Desk, path: Path) -> str:
    """A path as the page names it."""
    return str(path.relative_to(account.mount))


def picture(size: int = 0, width: int = 48, height: int = 32) -> bytes:
    """A PNG, followed by as many bytes as make it `size`."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(
        b"\0" + b"".join(bytes((x * 5 % 256, y * 7 % 256, 160)) for x in range(width)) for y in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return made + bytes(index * 31 % 251 for index in range(max(0, size - len(made))))
