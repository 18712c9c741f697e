"""The machine's sleep: systemd-logind says over the bus that it is about to come, and is made to wait.

The only module that knows D-Bus of the machine; the library for it is optional and imported when it is needed.
Invariant: only the process that owns logind's name on the bus is believed, and the bus sees to it who may own it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Final

import trio

from blobfs.errors import BlobfsError, UsageError

LOGIND: Final = "org.freedesktop.login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
PATH: Final = "/org/freedesktop/login1"
BUS: Final = "org.freedesktop.DBus"
ANSWER_S: Final = 10
"""Seconds that the bus and logind have for an answer."""
_BUS: Final = Path("/run/dbus/system_bus_socket")


def check() -> None:
    """Raises UsageError, with what to do, where nobody would say that the machine goes to sleep."""
    if importlib.util.find_spec("jeepney") is None:
        raise UsageError("locking at suspend needs jeepney; install it with `pip install 'blobfs[desktop]'`")
    if "DBUS_SYSTEM_BUS_ADDRESS" not in os.environ and not _BUS.exists():
        raise UsageError("locking at suspend needs systemd-logind, and this machine has no system bus")


async def wait_for_sleep() -> None:
    """Return when the machine is about to sleep. It waits for this process to end, as long as logind lets it.

    Raises:
        BlobfsError: logind is not there, or went away.
    """
    try:
        await _wait_for_sleep()
    except BlobfsError:
        raise
    except Exception as error:
        # The library has no common kind for what it raises, in groups or bare: refusals, a bus that hangs up.
        raise BlobfsError(f"systemd-logind cannot be asked about suspend ({type(error).__name__})") from error


async def _wait_for_sleep() -> None:
    from jeepney import DBusAddress, HeaderFields, MatchRule, message_bus, new_method_call
    from jeepney.io.trio import Proxy, open_dbus_router
    from jeepney.wrappers import unwrap_msg

    async with open_dbus_router("SYSTEM", enable_fds=True) as router:
        bus = Proxy(message_bus, router)
        heard, news = trio.open_memory_channel[Any](8)
        with trio.fail_after(ANSWER_S):
            owner = (await bus.GetNameOwner(LOGIND))[0]
            # A signal sent to us alone may come from anybody, so what counts is who sent it.
            going = MatchRule(type="signal", sender=owner, interface=MANAGER, member="PrepareForSleep", path=PATH)
            gone = MatchRule(type="signal", sender=BUS, interface=BUS, member="NameOwnerChanged")
            gone.add_arg_condition(0, LOGIND)
            await bus.AddMatch(going)
            await bus.AddMatch(gone)
        async with router.filter(going, channel=heard), router.filter(gone, channel=heard.clone()):
            with trio.fail_after(ANSWER_S):
                words = ("sleep", "blobfs", "locks the encrypted folder", "delay")
                call = new_method_call(DBusAddress(PATH, LOGIND, MANAGER), "Inhibit", "ssss", words)
                hold = unwrap_msg(await router.send_and_get_reply(call))[0].to_raw_fd()
            os.set_inheritable(hold, False)
            try:
                async for message in news:
                    if message.header.fields[HeaderFields.member] != "PrepareForSleep":
                        raise BlobfsError("systemd-logind went away")
                    if message.body[0] is True:
                        hold = -1
                        return
            finally:
                # Kept on purpose when the machine sleeps: it waits until this process is gone, and its keys with it.
                if hold >= 0:
                    os.close(hold)
