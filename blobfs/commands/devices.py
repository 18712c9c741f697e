"""`invite` and `device`: who belongs to the account, who may join, who is out."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from typing import Any, Final

from blobfs.commands.places import mounted
from blobfs.control import ask
from blobfs.errors import UsageError
from blobfs.wording import format_ago, format_date, printable

_ASK_S: Final = 60.0
_DAY_S: Final = 86400
_KINDS: Final = {
    "drop-address": "a drop address",
    "invite": "an invite",
    "operator": "made by the server's operator",
}
"""Tokens that are no device's."""


def invite(options: argparse.Namespace) -> int:
    """`invite`: the text, and on a terminal the same as a QR code."""
    store = mounted(options.dir).store
    answer = ask(store, "invite", timeout_s=_ASK_S, lifetime_s=int(options.days * _DAY_S), pin=options.pin)
    print(answer["invite"])
    if sys.stdout.isatty():
        print(draw_code(answer["invite"], os.get_terminal_size(sys.stdout.fileno()).columns))
    for line in _remarks(answer):
        print(f"blobfs: {line}", file=sys.stderr)
    return 0


def _remarks(answer: dict[str, Any]) -> list[str]:
    lines = ["it is for one device, and needs the passphrase, too"]
    if answer["expires"] is not None:
        lines[0] += f"; unused it expires on {format_date(answer['expires'])}"
    if answer["embedded"]:
        lines.append(
            "this server listens on this machine only; a device elsewhere needs a server of its own address, "
            "see `blobfs-server --help`"
        )
    return lines


def draw_code(text: str, columns: int) -> str:
    """`text` as a QR code for a window so wide; 0: as wide as it needs. Or a line that says how wide it has to be."""
    import segno  # for this alone

    code = segno.make(text, error="l", micro=False)
    drawn = io.StringIO()
    code.terminal(drawn, compact=True, border=2)
    width = code.symbol_size(border=2)[0]
    if 0 < columns < width:
        return f"(a window of {width} columns would show it as a QR code, too)"
    return drawn.getvalue().rstrip("\n")


def device(options: argparse.Namespace) -> int:
    """`device`: list the account's devices, name this one, revoke another."""
    store, name = mounted(options.dir).store, options.name or options.rename
    if (options.name is not None) + (options.rename is not None) + (options.revoke is not None) > 1:
        raise UsageError("one thing at a time: a name for this device, or one to revoke")
    if options.revoke is not None:
        return _revoke(options, ask(store, "revoke-device", timeout_s=_ASK_S, which=options.revoke))
    if name is not None:
        answer = ask(store, "rename-device", name=name)
        print(json.dumps(answer, indent=2) if options.json else printable(answer["name"]))
        return 0
    answer = ask(store, "devices", timeout_s=_ASK_S)
    print(json.dumps(answer, indent=2) if options.json else _list(answer))
    return 0


def _revoke(options: argparse.Namespace, answer: dict[str, Any]) -> int:
    if options.json:
        print(json.dumps(answer, indent=2))
        return 0
    print(f"{printable(answer['revoked'])} is revoked: the server lets it in no more.")
    if not answer["tokens"]:
        print("It had no access of its own at the server; if it still syncs, ask the server's operator.")
    if answer["id"] is not None:
        print(
            "What it had read it can still read, and it knows the account's keys: if it is lost or stolen, change the "
            "passphrase with `blobfs passwd`, too."
        )
    return 0


def _list(answer: dict[str, Any]) -> str:
    now_s, lines = time.time(), []
    for entry in answer["devices"]:
        heard = "this device" if entry["this"] else f"last heard from {format_ago(max(0.0, now_s - entry['seen']))}"
        state = "revoked, " if entry["revoked"] else ""
        lines.append(f"{printable(entry['name']):<24} {printable(entry['id'])}  {state}{heard}")
    for entry in answer["access"] or ():
        used = "never used" if entry["seen"] is None else f"last used {format_ago(max(0.0, now_s - entry['seen']))}"
        ends = "" if entry["expires"] is None else f", expires on {format_date(entry['expires'])}"
        what = _KINDS.get(entry["kind"], "of a kind that a newer blobfs knows")
        lines.append(f"{'(no device)':<24} token {entry['id']}: {what}, {used}{ends}")
    if answer["access"] is None:
        lines.append("the server does not answer now, so invites that wait for a device are not shown")
    return "\n".join(lines) or "no device has told of itself yet; this one does once it has reached the server"
