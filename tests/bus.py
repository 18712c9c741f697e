"""A D-Bus daemon of a test's own, and what lives on it: a logind that puts nothing to sleep."""

from __future__ import annotations

import os
import select
import subprocess
import threading
from pathlib import Path

from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

LOGIND = "org.freedesktop.login1"
MANAGER = "org.freedesktop.login1.Manager"
PATH = "/org/freedesktop/login1"
PATIENCE_S = 60

_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class Bus:
    """A bus on which anybody may own any name; `address` is for DBUS_*_BUS_ADDRESS."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self.address = f"unix:path={directory}/bus"
        (directory / "config").write_text(_CONFIG.format(path=directory / "bus"))
        self._process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={directory}/config", "--nofork", "--nopidfile", "--print-address"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the bus does not start"

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_S)


class Logind:
    """Answers `Inhibit` as logind does, with a descriptor, and tells when all whom it gave one to have let go."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._connection: DBusConnection = open_dbus_connection(bus.address, enable_fds=True)
        reply = self._connection.send_and_get_reply(message_bus.RequestName(LOGIND))
        assert reply.body == (1,)
        self._holds: list[int] = []
        self.asked: list[tuple[str, ...]] = []
        self._is_asked = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="logind", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                message = self._connection.receive()
            except (OSError, ConnectionError, ValueError, RuntimeError):
                return
            fields = message.header.fields
            if message.header.message_type is not MessageType.method_call:
                continue
            if fields.get(HeaderFields.member) == "End":
                return
            if fields.get(HeaderFields.member) != "Inhibit":
                self._connection.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))
                continue
            reading, writing = os.pipe()
            self._connection.send(new_method_return(message, "h", (writing,)))
            os.close(writing)
            self._holds.append(reading)
            self.asked.append(message.body)
            self._is_asked.set()

    def wait_until_asked(self) -> None:
        """Somebody wants to be told before the machine sleeps."""
        assert self._is_asked.wait(PATIENCE_S)

    def say(self, going: bool) -> None:
        """PrepareForSleep."""
        emitter = DBusAddress(PATH, interface=MANAGER)
        self._connection.send(new_signal(emitter, "PrepareForSleep", "b", (going,)))

    def wait_until_let_go(self) -> None:
        """The machine may sleep: nobody holds what it was given any more."""
        for hold in self._holds:
            assert select.select([hold], [], [], PATIENCE_S)[0], "still held"
            assert os.read(hold, 1) == b""

    def close(self) -> None:
        with open_dbus_connection(self._bus.address) as other:
            other.send(new_method_call(DBusAddress(PATH, LOGIND, MANAGER), "End"))
        self._thread.join(PATIENCE_S)
        self._connection.close()
        for hold in self._holds:
            os.close(hold)


def claim_sleep(bus: Bus) -> None:
    """Say to everybody on the bus that the machine goes to sleep, without being logind."""
    emitter = DBusAddress(PATH, interface=MANAGER)
    with open_dbus_connection(bus.address) as connection:
        connection.send(new_signal(emitter, "PrepareForSleep", "b", (True,)))
        # What comes back comes after: the signal is with everybody by now.
        connection.send_and_get_reply(message_bus.ListNames())


class Keyring:
    """GNOME's keyring on a bus and in a home of its own, unlocked."""

    def __init__(self, bus: Bus, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        environment = os.environ | {"DBUS_SESSION_BUS_ADDRESS": bus.address, "HOME": str(home)}
        environment |= {"XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        self._process = subprocess.Popen(
            ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets", f"--control-directory={home}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(b"the keyring's own")
        self._process.stdin.close()
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the keyring does not start"
        self._wait_until_known(bus)

    def _wait_until_known(self, bus: Bus) -> None:
        """It says that it runs before it has its name on the bus."""
        with open_dbus_connection(bus.address) as connection:
            changes = MatchRule(type="signal", member="NameOwnerChanged")
            connection.send_and_get_reply(message_bus.AddMatch(changes))
            while not connection.send_and_get_reply(message_bus.NameHasOwner("org.freedesktop.secrets")).body[0]:
                connection.receive(timeout=PATIENCE_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
