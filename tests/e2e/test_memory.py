"""What a daemon takes of memory, at rest and at its hardest work."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.devices import Device, Server

MIB = 1 << 20


def memory(device: Device, what: str) -> int:
    """MiB that the daemon takes (`VmRSS`), or took at most (`VmHWM`)."""
    text = Path(f"/proc/{device.status()['pid']}/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) // 1024


@pytest.fixture
def one(server: Server, device: Callable[..., Device]) -> Device:
    """A device of a server in another process."""
    made = device("one", server.add_user("alice")["invite"])
    made.up()
    return made


@pytest.mark.long
def test_a_large_file_written_and_sent_takes_less_than_300_mib(one: Device) -> None:
    block = os.urandom(8 * MIB)
    with open(one.mount / "large", "wb", buffering=0) as file:
        for number in range(256):
            file.write(number.to_bytes(8, "big") + block[8:])
    one.sync(600)
    assert memory(one, "VmHWM") < 300


@pytest.mark.long
def test_a_thousand_files_at_rest_take_less_than_100_mib(one: Device) -> None:
    for number in range(1000):
        (one.mount / str(number)).write_bytes(os.urandom(20_000))
    one.sync()
    end = time.monotonic() + 90
    while memory(one, "VmRSS") >= 90:
        assert time.monotonic() < end
        time.sleep(1)
    assert memory(one, "VmHWM") < 200
