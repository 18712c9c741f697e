"""`config`: what a mount is told, in force at once."""

from __future__ import annotations

import argparse
import json
from typing import Any

from blobfs.commands.places import mounted
from blobfs.control import ask
from blobfs.errors import UsageError
from blobfs.wording import format_bytes, format_span, printable


def config(options: argparse.Namespace) -> int:
    """`config`: show all options, one, or set one."""
    store = mounted(options.dir).store
    if options.value is not None:
        answer = ask(store, "config", name=options.name, value=options.value)
    else:
        answer = ask(store, "config")
    values: dict[str, Any] = answer["values"]
    if options.name is not None and options.name not in values:
        raise UsageError(f"there is no option of that name; there are {', '.join(values)}")
    shown = values if options.name is None else {options.name: values[options.name]}
    if options.json:
        print(json.dumps(shown, indent=2))
        return 0
    for name, value in shown.items():
        print(f"{name:<15} {_told(name, value):<12} {answer['texts'][name]}")
    return 0


def _told(name: str, value: object) -> str:
    if value is None or value is False:
        return "off"
    if value is True:
        return "on"
    if isinstance(value, list):
        return printable(",".join(value)) or "off"
    if not isinstance(value, int) or name == "connections":
        return printable(str(value))
    return format_span(value) if name == "lock-after" else format_bytes(value)
