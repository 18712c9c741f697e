"""The configuration file: TOML, one table of keys, no key that is silently ignored. docs/OPERATIONS.md has them.

Must not know arguments or what a setting does. Invariant: what comes out are values that `Settings` takes, each of its
type and within its bounds.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from blobfs.protocol import is_server_url
from server.errors import ConfigBad
from server.settings import DAY_S

FILE_NAME: Final = "server.toml"
"""In the data directory, where it is looked for when no other file is named."""

_MAX_DAYS: Final = 36500


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text")
    return value


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError("a path from / on")
    return path


def _url(value: Any) -> str:
    if not is_server_url(_text(value)):
        raise ValueError("http(s)://HOST[:PORT][/PATH]")
    return _text(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _number(lowest: float, highest: float, unit: float = 1) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise ValueError(f"a number from {lowest:g} to {highest:g}")
        return value * unit

    return read


def _whole(lowest: int, highest: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return value

    return read


def _options(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("a table of texts")
    return value


KEYS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "data": ("data", _path),
    "listen.host": ("host", _text),
    "listen.port": ("port", _whole(0, 65535)),
    "listen.public_url": ("public_url", _url),
    "tls.certificate": ("tls_certificate", _path),
    "tls.key": ("tls_key", _path),
    "catalog.url": ("catalog_url", _text),
    "blobs.url": ("blobs_url", _text),
    "blobs.options": ("blobs_options", _options),
    "limits.requests_per_second": ("requests_per_s", _number(0.1, 1e6)),
    "limits.burst": ("burst", _whole(1, 10**6)),
    "limits.json_bytes": ("json_bytes", _whole(32 << 20, 1 << 40)),
    "limits.connections": ("connections", _whole(1, 100_000)),
    "limits.floor_bytes": ("floor", _whole(0, 1 << 60)),
    "limits.idle_seconds": ("idle_s", _number(1, 3600)),
    "upkeep.every_seconds": ("upkeep_s", _number(1, DAY_S)),
    "upkeep.grace_days": ("grace_s", _number(0, _MAX_DAYS, DAY_S)),
    "upkeep.retention_days": ("retention_s", _number(0, _MAX_DAYS, DAY_S)),
    "metrics.loopback": ("metrics_loopback", _truth),
}
"""Key in the file → (field of `Settings`, how its value is read)."""


def read_config(path: Path) -> dict[str, Any]:
    """The settings that the file gives, by field of `Settings`.

    Raises:
        ConfigBad: it cannot be read, is no TOML, has an unknown key or a value that cannot be, or holds the keys of an
            object store and is open to other users.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigBad(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigBad(f"The configuration {path} is no TOML: {error}.") from error
    found: dict[str, Any] = {}
    for key, value in _flatten(content).items():
        if key not in KEYS:
            raise ConfigBad(f"The configuration {path} has an unknown key {key}; there are {', '.join(KEYS)}.")
        field, read = KEYS[key]
        try:
            found[field] = read(value)
        except ValueError as error:
            raise ConfigBad(f"In the configuration {path}, {key} is {error}.") from error
    if mode & 0o077 and found.get("blobs_options"):
        raise ConfigBad(f"The configuration {path} holds blobs.options and is open to other users; chmod 600 it.")
    return found


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return flat
