"""Connections to addresses that were checked: a name is resolved once, vetted, and connected to."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import httpcore2
from httpcore2 import NetworkBackend, NetworkStream

Resolve = Callable[[str, int], list[str]]

log = logging.getLogger(__name__)

# What IANA gives out to be reached by anybody; everything beside it is for insides, for tunnels or
# for nobody yet: https://www.iana.org/assignments/ipv6-address-space
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# In there: protocols' own (Teredo, which carries an IPv4 address, among them), documentation twice,
# and 6to4, which carries one too.
_NOT_REACHABLE = tuple(
    ipaddress.IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
CONNECT_SECONDS = 10.0
_WRITE_BYTES = 65536


class OutboundRefused(Exception):
    """The guard does not let a request go there; the message says why, and whom to ask."""


def vet(host: str, address: str) -> None:
    """Raise OutboundRefused for an address that is not out on the public internet."""
    if not _is_public(ipaddress.ip_address(address.partition("%")[0])):
        # The number would tell a user what the network inside looks like.
        log.warning("refused to call %s: it leads to %s", host, address)
        raise OutboundRefused(
            f"{host} leads to a private address; the operator can allow the host in "
            "HONED_OUTBOUND_ALLOW"
        )


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address not in _GLOBAL_UNICAST or any(address in net for net in _NOT_REACHABLE):
            return False
    return address.is_global and not address.is_multicast


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses a name stands for, by the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class VettedBackend(NetworkBackend):
    """Connects to vetted addresses only, and keeps each request's deadline on every read."""

    def __init__(self, is_allowed: Callable[[str, int], bool], resolve: Resolve) -> None:
        self._is_allowed = is_allowed
        self._resolve = resolve
        self._plain = httpcore2.SyncBackend()
        self._request = threading.local()
        self._lock = threading.Lock()
        self._open: set[_Timed] = set()
        self._is_cut = False

    @contextlib.contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """What this thread reads and writes within has until then."""
        self._request.deadline = deadline
        yield

    def left(self) -> float:
        left = float(self._request.deadline) - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the deadline has passed")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        addresses = self._looked_up(host, port, min(timeout or CONNECT_SECONDS, self.left()))
        if not self._is_allowed(host, port):
            for address in addresses:
                vet(host, address)
        last: Exception | None = None
        for address in addresses:
            try:
                seconds = min(timeout or CONNECT_SECONDS, self.left())
                stream = self._plain.connect_tcp(address, port, timeout=seconds)
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                last = error
                continue
            return self.opened(_Timed(stream, self))
        assert last is not None
        raise last

    def _looked_up(self, host: str, port: int, seconds: float) -> list[str]:
        found: Future[list[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(self._resolve(host, port))
            except Exception as error:
                found.set_exception(error)

        # The system's resolver knows no deadline; a thread that nobody waits for any more ends
        # when the resolver gives up.
        threading.Thread(target=look_up, name="resolver", daemon=True).start()
        try:
            addresses = found.result(seconds)
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"{host} was not found in time") from None
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} is not known: {error}") from None
        if not addresses:
            raise httpcore2.ConnectError(f"{host} has no address")
        return addresses

    def opened(self, stream: _Timed) -> _Timed:
        with self._lock:
            if self._is_cut:
                stream.close()
                raise httpcore2.ConnectError("this server is shutting down")
            self._open.add(stream)
        return stream

    def closed(self, stream: _Timed) -> None:
        with self._lock:
            self._open.discard(stream)

    def cut(self) -> None:
        """Wake every thread that waits on a socket; closing one would not."""
        with self._lock:
            self._is_cut = True
            streams = list(self._open)
        for stream in streams:
            stream.cut()


class _Timed(NetworkStream):
    def __init__(self, stream: NetworkStream, backend: VettedBackend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._stream.write(buffer[start : start + _WRITE_BYTES], self._backend.left())

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> NetworkStream:
        self._backend.closed(self)
        secured = self._stream.start_tls(ssl_context, server_hostname, self._backend.left())
        return self._backend.opened(_Timed(secured, self._backend))

    def close(self) -> None:
        self._backend.closed(self)
        self._stream.close()

    def cut(self) -> None:
        with contextlib.suppress(OSError):  # it was closed already
            self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
