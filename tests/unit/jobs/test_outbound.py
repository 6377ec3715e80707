"""The guard: no request ends up inside, whatever names, redirects and resolvers say."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peer_server import Says, serving

from jobs.outbound import Outbound, OutboundFailed, OutboundTooLarge
from jobs.vetted import OutboundRefused, vet

PUBLIC = "93.184.215.14"


@pytest.fixture
def make() -> Iterator[Callable[..., Outbound]]:
    """Makes an Outbound that is closed when the test ends."""
    made = []

    def make(**arguments: Any) -> Outbound:
        made.append(Outbound(**arguments))
        return made[-1]

    yield make
    for outbound in made:
        outbound.close()


def post(outbound: Outbound, url: str, *, seconds: float = 5.0, max_bytes: int = 10_000) -> bytes:
    return outbound.post(url, b"{}", headers={}, timeout_seconds=seconds, max_bytes=max_bytes).body


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1",
        "100.64.0.1", "169.254.169.254", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "::127.0.0.1", "::10.0.0.1",
        "::a9fe:a9fe", "::ffff:0:127.0.0.1", "fec0::1", "3fff::1", "5f00::1", "64:ff9b:1::1",
        "100::1", "2001:2::1", "2001:1ff::1", "4000::1",
    ],
)  # fmt: skip
def test_no_address_inside_is_let_through(address: str) -> None:
    with pytest.raises(OutboundRefused, match="host leads to a private address"):
        vet("host", address)


def test_the_number_of_a_private_address_is_for_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(OutboundRefused) as refused:
        vet("inside.example", "10.1.2.3")
    assert "10.1.2.3" not in str(refused.value)
    assert "inside.example: it leads to 10.1.2.3" in caplog.text


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_let_through(address: str) -> None:
    vet("host", address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("https:///nohost", "host"),
        ("https://user:pw@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://127.0.0.1/", "bare address"),
        ("https://8.8.8.8/", "bare address"),
        ("https://[::1]/", "bare address"),
        ("https://example.com:22/", "another protocol"),
        ("https://example.com:99999/", "not a URL"),
        ("https://exa mple.com/", "characters"),
        ("https://example.com/\r\nHost: x", "characters"),
        ("", "https://"),
    ],
)
def test_urls_that_are_refused_at_the_door(
    url: str, reason: str, make: Callable[..., Outbound]
) -> None:
    with pytest.raises(OutboundRefused, match=reason):
        make().check(url)


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
def test_a_name_that_the_systems_resolver_leads_to_loopback_is_refused(
    host: str, make: Callable[..., Outbound]
) -> None:
    with pytest.raises((OutboundRefused, OutboundFailed)):
        post(make(), f"https://{host}:8443/")


def test_every_address_of_a_name_must_be_public(make: Callable[..., Outbound]) -> None:
    outbound = make(resolve=lambda host, port: [PUBLIC, "127.0.0.1"])
    with pytest.raises(OutboundRefused, match="private address"):
        post(outbound, "https://both.example/")


def test_a_name_that_is_rebound_is_refused_when_it_is(make: Callable[..., Outbound]) -> None:
    """The look-up that is vetted is the one that is connected to; there is no second."""
    with serving(lambda asked: Says({})) as peer:
        looked_up = []

        def resolve(host: str, port: int) -> list[str]:
            looked_up.append(host)
            # What a rebinding server says: something public to whoever checks first.
            return [PUBLIC] if len(looked_up) == 1 else ["127.0.0.1"]

        outbound = make(resolve=resolve)
        with pytest.raises((OutboundFailed, OutboundRefused)):
            post(outbound, f"https://rebind.example:{peer.port}/", seconds=0.5)
        assert looked_up == ["rebind.example"]
        with pytest.raises(OutboundRefused, match="private address"):
            post(outbound, f"https://rebind.example:{peer.port}/", seconds=0.5)
        assert peer.asked == []


def test_a_redirect_to_loopback_is_an_answer_and_not_followed(
    make: Callable[..., Outbound],
) -> None:
    with (
        serving(lambda asked: Says({"secret": 1})) as inside,
        serving(lambda asked: Says(status=302, headers={"Location": inside.url})) as outside,
    ):
        outbound = make(allowed=[f"127.0.0.1:{outside.port}"])
        reply = outbound.post(outside.url, b"{}", headers={}, timeout_seconds=5, max_bytes=1000)
        assert reply.status == 302
        assert inside.asked == []


def test_what_the_operator_allows_may_be_private_plain_and_bare(
    make: Callable[..., Outbound],
) -> None:
    with serving(lambda asked: Says({"path": asked.path})) as peer:
        allowed = make(allowed=[f"127.0.0.1:{peer.port}"])
        assert post(allowed, f"{peer.url}/a?b=c") == b'{"path": "/a?b=c"}'
        with pytest.raises(OutboundRefused, match="https"):
            post(make(allowed=["127.0.0.1:1"]), peer.url)
        by_name = make(allowed=["inside.example"], resolve=lambda host, port: ["127.0.0.1"])
        assert post(by_name, f"http://inside.example:{peer.port}/x") == b'{"path": "/x"}'


def test_size_is_bounded(make: Callable[..., Outbound]) -> None:
    with serving(lambda asked: Says(raw=b"x" * 5_000_000)) as peer:
        outbound = make(allowed=["127.0.0.1"])
        with pytest.raises(OutboundTooLarge, match="10,000 bytes"):
            post(outbound, peer.url)


@pytest.mark.parametrize(
    "says", [Says({}, delay_seconds=3), Says({"a": "b" * 50}, drips_seconds=0.1)]
)
def test_time_is_bounded_as_a_whole(says: Says, make: Callable[..., Outbound]) -> None:
    """A peer that sends a byte now and then resets no clock."""
    with serving(lambda asked: says) as peer:
        outbound = make(allowed=["127.0.0.1"])
        with pytest.raises(OutboundFailed, match=r"within 0\.5 seconds") as failed:
            post(outbound, peer.url, seconds=0.5)
        assert failed.value.is_timeout


def test_the_look_up_of_a_name_is_bounded_too(make: Callable[..., Outbound]) -> None:
    given_up = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        given_up.wait(30)
        return [PUBLIC]

    with pytest.raises(OutboundFailed, match=r"within 0\.3 seconds") as failed:
        post(make(resolve=resolve), "https://slow.example/", seconds=0.3)
    assert failed.value.is_timeout
    given_up.set()


def test_hanging_up_is_a_failure_of_the_connection(make: Callable[..., Outbound]) -> None:
    with serving(lambda asked: Says(hangs_up=True)) as peer:
        with pytest.raises(OutboundFailed, match="connection failed") as failed:
            post(make(allowed=["127.0.0.1"]), peer.url)
        assert not failed.value.is_timeout
    with pytest.raises(OutboundFailed, match="connection failed"):
        post(make(allowed=["127.0.0.1"]), peer.url)


def test_closing_ends_requests_under_way(make: Callable[..., Outbound]) -> None:
    with serving(lambda asked: Says({}, delay_seconds=5)) as peer:
        outbound = make(allowed=["127.0.0.1"])

        def close_once_asked() -> None:
            while not peer.asked:
                time.sleep(0.01)
            outbound.close()

        closer = threading.Thread(target=close_once_asked)
        closer.start()
        with pytest.raises(OutboundFailed, match="connection failed"):
            post(outbound, peer.url, seconds=30)
        closer.join()


def test_connections_are_kept_for_the_next_request(make: Callable[..., Outbound]) -> None:
    with serving(lambda asked: Says({})) as peer:
        outbound = make(allowed=["127.0.0.1"])
        for _ in range(3):
            post(outbound, peer.url)
        assert len(outbound._pool.connections) == 1
        outbound.close()


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Outbound]
) -> None:
    with serving(lambda asked: Says({})) as peer:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
        assert post(make(allowed=["127.0.0.1"]), peer.url) == b"{}"
