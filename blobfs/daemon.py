"""The process that holds a mount: builds every object, owns the one top nursery, takes them down in order.

Knows how the rooms are wired and nothing of what happens in them. Invariant: however the mount ends, on a signal, by
`umount` or by an error, it goes control socket, mount, write buffers, sync, store, embedded server, and what was
acknowledged is in the store before the process ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import trio

from blobfs import control, mountpoint
from blobfs.account import connect, load_remote, move_remote
from blobfs.answers.devices import DeviceAnswers
from blobfs.answers.mount import MountAnswers
from blobfs.answers.options import LOCK_AFTER, Options, parse_time
from blobfs.answers.state import COPIED, State
from blobfs.answers.table import CHANGES, LOOKS, commands, refusing
from blobfs.api.reception import Reception
from blobfs.config import PENDING, SERVER_LOG, Config, Mount, remember
from blobfs.devices import Devices
from blobfs.embedded import EmbeddedServer
from blobfs.errors import ServerFailed
from blobfs.fs.filesystem import Owner
from blobfs.fs.mountpoint import MountOptions
from blobfs.fs.operations import serve
from blobfs.fs.space import Allowance
from blobfs.fs.use import Use
from blobfs.fs.views import ViewedFileSystem
from blobfs.locking import AutoLock
from blobfs.process import plain_errors
from blobfs.remote.box import Box
from blobfs.status import LiveLine, Pending, Status, format_pending, write_pending
from blobfs.store import beyond, upgrade
from blobfs.store.store import Store
from blobfs.sync.engine import SyncOptions
from blobfs.sync.inbox import Inbox
from blobfs.upkeep import TICK_S, Publisher, make_engine, tick
from blobfs.values.documents import Json
from blobfs.values.keys import Keys

if TYPE_CHECKING:
    from blobfs.page.browsing import Browsing

FETCH_DEADLINE_S: Final = 60
FLUSH_DEADLINE_S: Final = 600
"""Seconds for the last flush, on local disk; a disk that hangs longer must not keep the process for ever."""
FIRST_LOOK_S: Final = 60
"""Seconds that the first mount of a device waits for the names of what the account has."""
COUNT_S: Final = 0.5
"""Seconds between two counts of the names that have come."""
GRACE_S: Final = 2
"""Seconds from an unmounting to the end of the process that held the mount, if the kernel does not tell it to end."""
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_READ_ONLY: Final = "the mount is read-only; unmount it and mount it without --read-only to change something"

log = logging.getLogger(__name__)


def run(config: Config, keys: Keys, announce: Callable[[Status], None], live: LiveLine | None) -> Pending:
    """Mount, and stay until it ends; what still waits for the server then. On return no mount is left.

    Args:
        announce: called once, when the mount is ready for use.
        live: where to show the state while it lasts.
    Raises:
        BlobfsError kinds: it could not be mounted, or not be ended as promised.
    """
    if config.read_only and upgrade.newer(config.store, keys) is not None:
        with beyond.reading(config.store, keys) as store:
            return _run(Daemon(config, store, announce, live, is_copy=True))
    store = Store.open(config.store, keys)
    (config.store / PENDING).unlink(missing_ok=True)
    return _run(Daemon(config, store, announce, live))


def _run(daemon: Daemon) -> Pending:
    try:
        with plain_errors():
            trio.run(daemon.main)
    finally:
        daemon.close_store()
    if not daemon.was_ready:
        raise KeyboardInterrupt
    return daemon.pending


class Daemon:
    """One mount while it lasts."""

    def __init__(
        self,
        config: Config,
        store: Store,
        announce: Callable[[Status], None],
        live: LiveLine | None,
        *,
        is_copy: bool = False,
    ) -> None:
        """`is_copy`: of a store that a newer blobfs wrote; nothing of it may go to a server, nor come from one."""
        self._is_copy = is_copy
        self._config, self._store, self._announce, self._live = config, store, announce, live
        self._is_open = True
        self._start, self._mount = trio.CancelScope(), trio.CancelScope()
        self._unmounted = trio.Event()
        self._use = Use()
        self.was_ready = False
        self.pending = Pending(None, None)
        """What waits for the server; known once it has ended."""

    async def main(self) -> None:
        """Everything between the opening of the store and its closing, which it does, too."""
        # Open to the very end: a second Ctrl-C must not cut the flush short.
        with trio.open_signal_receiver(*ENDING) as signals:
            self._remote = load_remote(self._store.settings)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signal, signals)
                async with self._embedded():
                    try:
                        async with connect(self._remote) as self._client:
                            self._build()
                            await self._serve()
                    finally:
                        with trio.CancelScope(shield=True):
                            await trio.to_thread.run_sync(self.close_store)
                nursery.cancel_scope.cancel()

    def close_store(self) -> None:
        """Close the store, if that was not done yet: `main` does it before the embedded server ends."""
        if not self._is_open:
            return
        self._is_open = False
        self.pending = Pending(*self._store.documents.pending(self._store.blobs.staying()))
        self._store.close()
        if self._is_copy:
            return
        with contextlib.suppress(OSError):
            write_pending(self._config.store / PENDING, self.pending)
        log.info("ended: %s", format_pending(self.pending))

    def _build(self) -> None:
        self._engine = make_engine(self._config.store, self._store, self._client, SyncOptions())
        self._fs = ViewedFileSystem(
            self._store,
            fetch=self._engine.fetch,
            prefetch=self._engine.prefetch,
            owner=Owner(os.geteuid(), os.getegid(), os.geteuid() == 0),
            fetch_deadline_s=FETCH_DEADLINE_S,
            arrivals=self._engine,
        )
        self._inbox = Inbox(self._store, Box(self._client.transport, self._remote.user))
        self._options = Options(self._store.settings, self._engine, self._fs.keep_out)
        if self._config.lock_after is not None:
            self._options.set(LOCK_AFTER, parse_time(self._config.lock_after))
        self._options.apply()
        if self._is_copy:
            self._engine.pause()
        self._publisher = Publisher(self._client, self._store.settings, self._config.secrets)
        self._devices = Devices(self._store, self._engine, self._client)
        self._state = State(self._config, self._store, self._engine, self._devices, self._remote, is_copy=self._is_copy)
        self._fs.failure = self._engine.failure
        self._fs.allowance = self._allowance
        self._reception = Reception(self._store, self._engine, self._client, self._fs, self._use)
        self._engine.is_busy = lambda inode: self._fs.is_open(inode) or self._reception.is_open(inode)
        self._engine.on_applied = self._reception.applied

    def _allowance(self) -> Allowance | None:
        usage = self._engine.allowance.last
        return None if usage is None else Allowance(usage.used, usage.quota)

    @contextlib.asynccontextmanager
    async def _embedded(self) -> AsyncIterator[None]:
        """The embedded server, if there is one, around the block. Mounting goes on without it: offline is normal."""
        remote = self._remote
        if remote.port is None or self._is_copy:
            yield
            return
        server = EmbeddedServer(self._config.server, self._config.store / SERVER_LOG, remote.port)
        try:
            try:
                with self._start:
                    await server.start()
                    self._remote = move_remote(self._store.settings, remote, server.url, server.port)
            except ServerFailed as error:
                # Port 0: it never ran, so what is wrong is wrong with the set-up, and the user is here to see it.
                if remote.port == 0:
                    raise
                log.warning("%s", error)
            async with server.supervised():
                yield
        finally:
            await server.stop()

    async def _serve(self) -> None:
        async with trio.open_nursery() as top:
            syncing = trio.CancelScope()
            synced = trio.Event()
            if self._is_copy:
                synced.set()
            else:
                top.start_soon(self._sync, syncing, synced)
            top.start_soon(tick, self._store)
            if not self._is_copy:
                top.start_soon(self._publisher.run)
                top.start_soon(self._publish_changes)
                top.start_soon(self._devices.run)
                top.start_soon(self._inbox.run, self._engine.ready, self._reception.applied)
            top.start_soon(self._show)
            top.start_soon(self._end_when_unmounted)
            top.start_soon(AutoLock(self._options, self._use, self._has_open_files, self._lock).run)
            try:
                with self._mount:
                    async with trio.open_nursery() as pages:
                        commands = self._commands()
                        commands["browse"] = self._browse(pages, dict(commands))
                        if self._is_copy:
                            commands |= dict.fromkeys(commands.keys() - LOOKS, refusing(COPIED))
                        # Programs write through the API: of a read-only mount there is none.
                        api = contextlib.nullcontext() if self._config.read_only else self._reception.serving()
                        async with control.serving(self._config.store, commands), api:
                            await self._hold_mount()
                        pages.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + FLUSH_DEADLINE_S):
                    await self._fs.flush_all()
                    syncing.cancel()
                    await synced.wait()
                top.cancel_scope.cancel()

    async def _hold_mount(self) -> None:
        if self._store.tree.count() == 1 and not self._is_copy:
            # A device that joins shows the account's names from its first moment, unless the server is slow or away.
            with trio.move_on_after(FIRST_LOOK_S):
                async with trio.open_nursery() as counting:
                    counting.start_soon(self._count_names)
                    await self._engine.first_look()
                    counting.cancel_scope.cancel()
        options = MountOptions(allow_other=self._config.allow_other, read_only=self._config.read_only)
        # At the last moment: between a dead mount and the one in its place the bare directory is seen.
        mountpoint.prepare(self._config.mountpoint, in_place=self._config.is_healing)
        await serve(self._fs, self._config.mountpoint, options, ready=self._ready, use=self._use)

    async def _count_names(self) -> None:
        """On a terminal, how many have come, and of how many where the server says so."""
        from blobfs.screen import Bar

        with Bar("reading the account's names", None, noun="names") as bar:
            while True:
                await trio.sleep(COUNT_S)
                if (reading := self._engine.reading) is not None:
                    bar.reach(reading.done, reading.total)

    def _ready(self) -> None:
        try:
            remember(Mount(self._config.mountpoint, self._config.store))
        except OSError as error:
            log.warning("later commands will not find this mount by its directory: %s", error.strerror)
        self.was_ready = True
        log.info("mounted")
        self._announce(self._state.now())

    # --- tasks ------------------------------------------------------------------------------------------------

    async def _end_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("ending: %s", signal.Signals(number).name)
            self._start.cancel()
            self._mount.cancel()

    async def _end_when_unmounted(self) -> None:
        """The kernel ends a mount once it is gone from everywhere: a container may have been given a copy of it."""
        await self._unmounted.wait()
        await trio.sleep(GRACE_S)
        log.warning("the mount is still in another mount namespace, as of a container; it ends there, too")
        self._mount.cancel()

    def _has_open_files(self) -> bool:
        return self._fs.has_open_files() or self._reception.has_open_files()

    def _lock(self, reason: str) -> None:
        """End as on a signal: buffers are stored, the kernel's caches go, and the process with its keys."""
        log.info("locking: %s", reason)
        if self._live is not None:
            self._live.say(f"Locking: {reason}.")
        self._mount.cancel()

    async def _sync(self, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._engine.run)
        finally:
            ended.set()

    async def _publish_changes(self) -> None:
        while True:
            await self._options.changed.wait()
            self._publisher.wake()

    async def _show(self) -> None:
        while self._live is not None:
            start = trio.current_time()
            if self.was_ready:
                self._live.show(await trio.to_thread.run_sync(self._state.now))
            # Counting what waits takes time when it is much: never more than a tenth of a processor.
            await trio.sleep(max(TICK_S, 9 * (trio.current_time() - start)))

    # --- what the control socket answers -------------------------------------------------------------------------

    def _commands(self) -> dict[str, control.Command]:
        told = commands(self._store, self._engine, self._client, self._fs, self._options, self._config.secrets)
        return {
            **MountAnswers(self._state, self._engine, self._fs, self._inbox).commands(),
            "umount": self._answer_umount,
            "publish": self._publisher.answer,
            **DeviceAnswers(self._store, self._engine, self._client, self._devices).commands(),
            **{name: self._counted(command, is_change=name in CHANGES) for name, command in told.items()},
            **(dict.fromkeys(CHANGES, refusing(_READ_ONLY)) if self._config.read_only else {}),
        }

    def _counted(self, command: control.Command, *, is_change: bool) -> control.Command:
        async def answer(question: Json) -> Json:
            with self._use:
                result = await command(question)
                if is_change:
                    # Whoever asked reads the file next.
                    await self._fs.until_told()
                return result

        return answer

    async def _answer_umount(self, question: Json) -> Json:
        """Unmounts, unless files are in use; the rest of the end follows, and the asker waits for the process to go."""
        await self._fs.flush_all()
        if question.get("force"):
            self._mount.cancel()
        else:
            await trio.to_thread.run_sync(mountpoint.unmount, self._config.mountpoint)
            self._unmounted.set()
        return {"pid": os.getpid()}

    def _browse(self, pages: trio.Nursery, answers: dict[str, control.Command]) -> control.Command:
        """What opens the page; until somebody asks for it, there is nothing of it, not even its code."""
        opened: list[Browsing] = []

        async def answer(question: Json) -> Json:
            from blobfs.page.browsing import Browsing
            from blobfs.page.previews import Previews
            from blobfs.page.site import Site

            if not opened:
                name, previews = self._config.mountpoint.name, Previews(self._store, self._fs)
                opened.append(Browsing(pages, lambda guard: Site(name, answers, previews, guard)))
            return await opened[0].link()

        return answer
