"""A way to a server that can be cut: connections break, new ones are refused, until it is open."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Gate:
    """Listens on a port of its own and passes bytes on."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = _listener(0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._pass(self._accept, self._listener)

    def cut(self) -> None:
        """Break what is open, refuse what comes."""
        with self._lock:
            _end(self._listener)
            for connection in self._open:
                _end(connection)
            self._open.clear()

    def open(self) -> None:
        """Let through again."""
        self._listener = _listener(self.port)
        self._pass(self._accept, self._listener)

    def close(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join(30)

    def _pass(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the gate was cut
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(self._target, timeout=30)
                there.settimeout(None)
                with self._lock:
                    if listener.fileno() < 0:  # cut meanwhile
                        _end(here)
                        _end(there)
                        return
                    self._open |= {here, there}
                self._pass(self._pump, here, there)
                self._pass(self._pump, there, here)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
        with self._lock:
            for connection in (source, target):
                self._open.discard(connection)
                _end(connection)


@contextlib.contextmanager
def gate_to(port: int) -> Iterator[Gate]:
    """An open gate, closed afterwards."""
    gate = Gate(port)
    try:
        yield gate
    finally:
        gate.close()


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def _end(connection: socket.socket) -> None:
    """Wake whoever waits at it, too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
