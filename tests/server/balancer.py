"""One address before several servers: forwards each connection to the next server that accepts it."""

import contextlib
import socket
import threading


class Balancer:
    """Listens on loopback until `close`; `url` is what clients use."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._next = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            if server is None:
                client.close()
                continue
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                # What comes in two pieces goes on in two, and the second one waits for nobody's confirmation.
                target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_pump, args=(source, target))
                self._threads.append(thread)
                thread.start()

    def _connect(self) -> socket.socket | None:
        for _ in self._ports:
            self._next = (self._next + 1) % len(self._ports)
            with contextlib.suppress(ConnectionError):
                return socket.create_connection(("127.0.0.1", self._ports[self._next]))
        return None

    def close(self) -> None:
        """Stop accepting and break every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for each in self._sockets:
            each.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
