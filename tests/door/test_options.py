"""What `blobfs config` takes: each value is understood or refused with a sentence."""

from __future__ import annotations

import pytest

from blobfs.answers.options import OPTIONS, parse_connections, parse_programs
from blobfs.errors import UsageError
from blobfs.fs.keepout import PROGRAMS
from tests.door.conftest import Desk, tell, told


def test_a_number_of_connections_has_bounds() -> None:
    assert [parse_connections(text) for text in ("4", "16", "64")] == [4, 16, 64]
    for text in ("3", "65", "off", "-4", "1e1", "", "٤٤", "9" * 50):
        with pytest.raises(UsageError):
            parse_connections(text)


def test_a_list_of_programs_is_patterns_between_commas() -> None:
    assert parse_programs("tumblerd, my-indexer*") == ["tumblerd", "my-indexer*"]
    assert parse_programs("off") == []
    assert parse_programs("default") is None
    for text in ("", "a,,b", "/usr/bin/x", "a\nb", "x" * 65, ",".join("x" * 101)):
        with pytest.raises(UsageError):
            parse_programs(text)


def test_every_option_says_what_it_does() -> None:
    assert all(option.text for option in OPTIONS.values())


def test_connections_and_the_list_of_programs_are_set_shown_and_kept(account: Desk) -> None:
    assert told(account, "config", account.mount)["keep-out"] == list(PROGRAMS)
    assert told(account, "config", account.mount, "connections") == {"connections": 16}
    tell(account, "config", account.mount, "connections", "6")
    tell(account, "config", account.mount, "keep-out", "tumblerd,my-indexer*")
    shown = {line.split()[0]: line.split()[1] for line in tell(account, "config", account.mount).splitlines()}
    assert (shown["connections"], shown["keep-out"]) == ("6", "tumblerd,my-indexer*")
    assert account.run("config", account.mount, "connections", "1").returncode == 2
    tell(account, "config", account.mount, "connections", "16")
    tell(account, "config", account.mount, "keep-out", "default")
    assert told(account, "config", account.mount, "keep-out") == {"keep-out": list(PROGRAMS)}
