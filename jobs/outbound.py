"""HTTP to addresses that users name: one guard for every request that leaves this machine.

A name is resolved once, each of its addresses is vetted, and the connection goes to the vetted
address while TLS and `Host` keep the name; a second look-up cannot send it elsewhere. No redirect
is followed, no proxy or cookie is read from anywhere, and size and time are bounded.
"""

from __future__ import annotations

import functools
import ipaddress
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpcore2

from jobs.vetted import CONNECT_SECONDS, OutboundRefused, Resolve, VettedBackend, addresses_of

_HTTPS_PORT = 443
_LAST_WELL_KNOWN_PORT = 1023


class OutboundFailed(Exception):
    """The other side could not be reached, hung up, or was too slow: it may work next time."""

    def __init__(self, sentence: str, *, is_timeout: bool = False) -> None:
        super().__init__(sentence)
        self.is_timeout = is_timeout


class OutboundTooLarge(Exception):
    """The other side sends more than was asked for; it would do so again."""


@dataclass(frozen=True)
class Reply:
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


class Outbound:
    """A bounded pool of connections that go to public addresses, and where an operator allows.

    `allowed` holds `host` or `host:port`; only those may be private, speak plain HTTP, or be
    named by a bare address.
    """

    def __init__(
        self,
        *,
        allowed: Iterable[str] = (),
        max_connections: int = 64,
        resolve: Resolve | None = None,
    ) -> None:
        self._allowed = frozenset(entry.lower() for entry in allowed)
        self._backend = VettedBackend(self._is_allowed, resolve or addresses_of)
        self._max_connections = max_connections

    def check(self, url: str) -> None:
        """Raise OutboundRefused for a URL that can be told to be out of bounds by its looks."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise OutboundRefused(f"it is not a URL: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise OutboundRefused("it must be an https:// URL with a host")
        if parts.username is not None or parts.password is not None:
            raise OutboundRefused("it carries a user name or password; send a header instead")
        if not url.isascii() or any(char.isspace() for char in url):
            raise OutboundRefused("it holds characters that no URL holds: encode them")
        if self._is_allowed(host, port or _default_port(parts.scheme)):
            return
        if parts.scheme == "http":
            raise OutboundRefused(f"it must be https, unless the operator allows {host}")
        if port not in (None, _HTTPS_PORT) and port <= _LAST_WELL_KNOWN_PORT:
            raise OutboundRefused(f"port {port} belongs to another protocol than https")
        if _is_address(host):
            raise OutboundRefused(
                f"it names a bare address, {host}: use a host name, or have the operator allow it "
                "in HONED_OUTBOUND_ALLOW"
            )

    def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float,
        max_bytes: int,
    ) -> Reply:
        """The reply to a POST, redirects and errors as they are.

        Raises OutboundRefused, OutboundFailed, OutboundTooLarge. All of it, connecting included,
        takes at most `timeout_seconds`.
        """
        self.check(url)
        sent: dict[bytes | str, bytes | str] = {
            "accept-encoding": "identity",
            "user-agent": "honed",
        }
        sent.update(headers.items())
        timeouts = {
            "connect": min(CONNECT_SECONDS, timeout_seconds),
            "read": timeout_seconds,
            "write": timeout_seconds,
            "pool": timeout_seconds,
        }
        try:
            with (
                self._backend.until(time.monotonic() + timeout_seconds),
                self._pool.stream(
                    "POST", url, headers=sent, content=body, extensions={"timeout": timeouts}
                ) as response,
            ):
                received = bytearray()
                for chunk in response.iter_stream():
                    received += chunk
                    if len(received) > max_bytes:
                        raise OutboundTooLarge(f"its answer is larger than {max_bytes:,} bytes")
                return Reply(response.status, _text(response.headers), bytes(received))
        except httpcore2.TimeoutException:
            raise OutboundFailed(
                f"it did not answer within {timeout_seconds:g} seconds", is_timeout=True
            ) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError, RuntimeError) as error:
            # A pool that was closed under a request raises RuntimeError.
            said = str(error) or type(error).__name__
            raise OutboundFailed(f"the connection failed: {said}") from None

    def close(self) -> None:
        """Cut every connection; requests under way fail at once."""
        self._backend.cut()
        if "_pool" in self.__dict__:
            self._pool.close()

    @functools.cached_property
    def _pool(self) -> httpcore2.ConnectionPool:
        # Made when first used: most processes call nobody, and certificates take time to read.
        return httpcore2.ConnectionPool(
            ssl_context=httpcore2.default_ssl_context(),
            max_connections=self._max_connections,
            max_keepalive_connections=self._max_connections,
            keepalive_expiry=30.0,
            network_backend=self._backend,
        )

    def _is_allowed(self, host: str, port: int) -> bool:
        host = host.lower().rstrip(".")
        return host in self._allowed or f"{host}:{port}" in self._allowed


def host_of(url: str) -> str:
    """`host:port` of a URL, as an allow-list names it."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or _default_port(parts.scheme)}"


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _default_port(scheme: str) -> int:
    return _HTTPS_PORT if scheme == "https" else 80
