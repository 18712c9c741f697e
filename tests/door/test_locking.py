"""Locking by itself: after a time without use, and before the machine sleeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from blobfs import suspend
from blobfs.answers.options import OPTIONS, parse_time
from blobfs.errors import UsageError
from blobfs.fs.use import Use
from blobfs.locking import LOOK_S, AutoLock
from tests.bus import Bus, Logind, claim_sleep
from tests.door.conftest import Desk, has_ended, wait_until

LIMIT_S = 600


class Settings:
    """Options that nobody stores."""

    def __init__(self, **values: Any) -> None:
        self.changed = trio.Event()
        self._values = {"lock-after": None, "lock-on-suspend": False} | values

    def values(self) -> dict[str, Any]:
        return self._values

    def set(self, name: str, value: Any) -> None:
        self._values[name] = value
        self.changed.set()
        self.changed = trio.Event()


class Trial:
    """A mount that can only lock, and how long after the start it did; in seconds of a clock that runs by itself."""

    def __init__(self, limit_s: int | None = LIMIT_S) -> None:
        self.use, self.is_open = Use(), False
        self.settings = Settings(**{"lock-after": limit_s})
        self.locked_at: float | None = None

    async def run(self) -> None:
        start = trio.current_time()

        def lock(reason: str) -> None:
            assert reason == "nobody used it for 10 min"
            self.locked_at = trio.current_time() - start

        await AutoLock(self.settings, self.use, lambda: self.is_open, lock, trio.current_time).run()  # type: ignore[arg-type]


def try_out(trial: Trial, *steps: tuple[float, Any]) -> float | None:
    """When it locks, if after each (seconds, deed) the deed is done; None: not within a day."""

    async def main() -> None:
        with trio.move_on_after(86_400):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trial.run)
                for seconds, deed in steps:
                    await trio.sleep(seconds)
                    deed()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return trial.locked_at


def is_about(seconds: float | None, wanted: float) -> bool:
    return seconds is not None and wanted - LOOK_S <= seconds <= wanted + 2 * LOOK_S


def test_it_locks_when_nobody_used_it_for_so_long_and_a_use_begins_the_time_anew() -> None:
    assert is_about(try_out(Trial()), LIMIT_S)
    trial = Trial()

    def use() -> None:
        trial.use.is_new = True

    assert is_about(try_out(trial, (500, use), (500, use)), 1000 + LIMIT_S)


def test_an_open_file_and_a_call_that_runs_keep_it_open() -> None:
    trial = Trial()

    def switch(is_open: bool) -> Any:
        return lambda: setattr(trial, "is_open", is_open)

    assert is_about(try_out(trial, (1, switch(True)), (5000, switch(False))), 5001 + LIMIT_S)
    trial = Trial()
    used = try_out(trial, (1, trial.use.__enter__), (5000, lambda: trial.use.__exit__(None, None, None)))
    assert is_about(used, 5001 + LIMIT_S)


def test_without_the_option_it_never_locks_and_once_set_the_option_is_in_force() -> None:
    assert try_out(Trial(None)) is None
    trial = Trial(None)
    assert is_about(try_out(trial, (5000, lambda: trial.settings.set("lock-after", LIMIT_S))), 5000 + LIMIT_S)


@pytest.mark.parametrize(("text", "seconds"), [("15", 900), ("90s", 90), ("2 h", 7200), ("5MIN", 300), ("off", None)])
def test_a_time_is_read_as_it_is_written(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "1d", "1.5h", "soon", "9999999"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="minutes"):
        parse_time(text)


def test_a_mount_that_nobody_uses_goes_with_its_process_and_nothing_is_lost(desk: Desk) -> None:
    desk.up("--lock-after", "1h")
    process = os.pidfd_open(desk.status()["pid"])
    try:
        with (desk.mount / "file").open("w") as file:
            file.write("written")
            assert desk.run("config", desk.mount, "lock-after", "1s").returncode == 0
        wait_until(lambda: has_ended(process))
    finally:
        os.close(process)
    assert not os.path.ismount(desk.mount)
    assert desk.status()["state"] == "not mounted"
    assert "locking: nobody used it for 1 s" in (desk.store / "log").read_text()
    desk.up("--lock-after", "off")
    assert (desk.mount / "file").read_text() == "written"
    assert "lock-after      off" in desk.run("config", desk.mount).stdout
    assert "15 min" in desk.run("config", desk.mount, "lock-after", "15").stdout


# --- suspend ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path / "bus")
    yield bus
    bus.close()


@pytest.fixture
def logind(bus: Bus) -> Iterator[Logind]:
    logind = Logind(bus)
    yield logind
    logind.close()


def test_the_machine_sleeps_only_when_the_process_is_gone_and_open_files_keep_what_was_written(
    desk: Desk, bus: Bus, logind: Logind
) -> None:
    desk.environment = desk.environment | {"DBUS_SYSTEM_BUS_ADDRESS": bus.address}
    desk.up()
    assert desk.run("config", desk.mount, "lock-on-suspend", "on").returncode == 0
    logind.wait_until_asked()
    assert logind.asked == [("sleep", "blobfs", "locks the encrypted folder", "delay")]
    # Neither another program's word nor the word that the machine woke up is taken for it.
    claim_sleep(bus)
    logind.say(False)
    process = os.pidfd_open(desk.status()["pid"])
    file = os.open(desk.mount / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(file, b"written and not closed")
        assert not has_ended(process)
        logind.say(True)
        logind.wait_until_let_go()
        wait_until(lambda: has_ended(process))
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.write(file, b"more")
    finally:
        os.close(process)
        with suppress(OSError):
            os.close(file)
    assert not os.path.ismount(desk.mount)
    assert "locking: the machine goes to sleep" in (desk.store / "log").read_text()
    desk.up()
    assert (desk.mount / "file").read_bytes() == b"written and not closed"


def test_where_nobody_tells_of_suspend_the_option_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(suspend, "_BUS", tmp_path / "none")
    with pytest.raises(UsageError, match="no system bus"):
        OPTIONS["lock-on-suspend"].parse("on")
    assert OPTIONS["lock-on-suspend"].parse("off") is False
