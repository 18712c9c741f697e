"""What the process that holds a mount answers about the mount as a whole: its state, and sync of all until now.

Knows of no single file. Invariant: whoever asks to have everything sent hears of success only when the server has
confirmed it, and what programs wrote before the question counts.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from blobfs.answers.state import State
from blobfs.control import Command
from blobfs.errors import SyncTimeout
from blobfs.fs.filesystem import FileSystem
from blobfs.status import format_pending
from blobfs.sync.engine import SyncEngine
from blobfs.sync.inbox import Inbox
from blobfs.values.documents import Json

PATIENCE_S: Final = 30
"""Seconds that `sync --wait` without a time limit gives a server that does not answer."""


class MountAnswers:
    """The answers of one mount."""

    def __init__(self, state: State, engine: SyncEngine, fs: FileSystem, inbox: Inbox) -> None:
        self._state, self._engine, self._fs, self._inbox = state, engine, fs, inbox

    def commands(self) -> dict[str, Command]:
        """What each question is answered by."""
        return {"status": self.status, "sync": self.sync, "recover": self.recover}

    async def status(self, question: Json) -> Json:
        """The state as it is now."""
        return (await trio.to_thread.run_sync(self._state.now)).to_json()

    async def sync(self, question: Json) -> Json:
        """With `wait`: on return the server has confirmed everything local, of open files what was written till now."""
        await self._fs.flush_all()
        heard = self._engine.health.changed
        self._engine.retry()
        self._inbox.wake()
        if question.get("wait"):
            limit_s = question.get("limit_s")
            end = trio.current_time() + (float(limit_s) if isinstance(limit_s, int | float) else math.inf)
            if self._engine.health.worst is not None:
                # What was wrong may be mended by now: it counts only once it has been tried again.
                with trio.move_on_at(min(end, trio.current_time() + PATIENCE_S)):
                    await heard.wait()
            await self._settle(end)
            await self._fs.until_told()
        return await self.status(question)

    async def _settle(self, end: float) -> None:
        """Wait for the server as long as it answers; without an end in sight, not much longer than it does."""
        # The time is kept here: the engine's own end of it cannot be told from a server that is not there.
        while True:
            with trio.move_on_at(min(end, trio.current_time() + PATIENCE_S)):
                await self._engine.settle()
                return
            is_over = trio.current_time() >= end
            if self._engine.health.worst is not None and (end == math.inf or is_over):
                raise self._engine.health.worst
            if is_over:
                break
        pending = (await trio.to_thread.run_sync(self._state.now)).pending
        raise SyncTimeout(f"the time is over: {format_pending(pending)}; it goes on, wait longer with --timeout")

    async def recover(self, question: Json) -> Json:
        """Begins to send again what the server lost."""
        self._engine.recover()
        return await self.status(question)
