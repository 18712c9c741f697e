"""Browsing: listens on loopback while there is a link that was not opened, or a session; else there is nothing.

Owns the port and its connections. Invariants: only processes of this user are answered, as on the control socket; when
the nursery ends, so do the port and every session.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final

import h11
import trio

from blobfs.errors import BlobfsError, UsageError
from blobfs.page.guard import HOST, LINK_S, Guard
from blobfs.page.peers import is_own
from blobfs.page.site import Site
from blobfs.page.wire import attend
from blobfs.values.documents import Json

MAX_PEERS: Final = 32
"""Connections at a time: a browser opens up to six to one address."""
GRACE_S: Final = 1
"""How long connections last after the last session."""

log = logging.getLogger(__name__)


class Browsing:
    """The page of one mount, in a nursery that ends with it."""

    def __init__(self, nursery: trio.Nursery, build: Callable[[Guard], Site]) -> None:
        self._nursery, self._build = nursery, build
        self._guard: Guard | None = None

    async def link(self) -> Json:
        """The address of a new one-time link, and for how many seconds it can be opened."""
        if self._guard is None:
            listener = trio.socket.socket()
            try:
                await listener.bind((HOST, 0))
            except OSError as error:
                listener.close()
                raise UsageError(f"no port of this machine could be opened: {error.strerror}") from None
            listener.listen(MAX_PEERS)
            self._guard = Guard(listener.getsockname()[1], trio.current_time)
            self._nursery.start_soon(self._serve, listener, self._guard)
        # No await since the look at the guard: one that is about to end would be gone already.
        return {"url": self._guard.issue(), "seconds": LINK_S}

    async def _serve(self, listener: trio.socket.SocketType, guard: Guard) -> None:
        log.info("the page listens")
        try:
            async with trio.open_nursery() as peers:
                peers.start_soon(self._accept, listener, self._build(guard), peers)
                while (end := guard.end) > trio.current_time():
                    with trio.move_on_at(end):
                        await guard.changed.wait()
                self._guard = None
                listener.close()
                # What is on its way, such as the page that says that this one has ended, may arrive.
                peers.cancel_scope.deadline = trio.current_time() + GRACE_S
        finally:
            self._guard = None if self._guard is guard else self._guard
            listener.close()
            log.info("the page is closed")

    async def _accept(self, listener: trio.socket.SocketType, site: Site, peers: trio.Nursery) -> None:
        places = trio.CapacityLimiter(MAX_PEERS)
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                try:
                    peer, _ = await listener.accept()
                except OSError as error:
                    log.warning("the page could not take a connection: %s", error.strerror)
                    await trio.sleep(GRACE_S)
                    continue
                if places.available_tokens < 1:
                    log.warning("a connection to the page was dropped: one too many")
                    peer.close()
                    continue
                places.acquire_on_behalf_of_nowait(peer)
                peers.start_soon(self._attend, peer, site, places)

    async def _attend(self, peer: trio.socket.SocketType, site: Site, places: trio.CapacityLimiter) -> None:
        try:
            if not await trio.to_thread.run_sync(is_own, peer.getpeername(), peer.getsockname()):
                log.warning("a connection to the page was dropped: another user's, or gone again")
                return
            await attend(trio.SocketStream(peer), site.handle)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError):
            log.info("a connection to the page ended before its answer")
        except (BlobfsError, h11.LocalProtocolError) as error:
            log.warning("a preview broke off: %s", error)
        except Exception:
            # Whatever it was, it must not end the mount.
            log.exception("a connection to the page failed")
        finally:
            places.release_on_behalf_of(peer)
            peer.close()
