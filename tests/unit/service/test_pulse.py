"""A serving process that hangs is killed, and one that answers is left alone."""

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from servers import free_port

from jobs.serving import Address, write_address
from service import pulse
from service.children import Command
from service.pulse import Pulse
from service.settings import ServiceSettings


class Hung:
    """Stands for a child: it runs, and is killed when it is."""

    command = Command("serving", ("x",))

    def __init__(self) -> None:
        self.started_at: float | None = time.monotonic() - 1000
        self.said: list[str] = []
        self.num_kills = 0

    def say(self, line: str) -> None:
        self.said.append(line)

    def kill(self) -> None:
        self.num_kills += 1


class Live(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == "Bearer secret"
        self.send_response(200 if is_known and self.path == "/live" else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def live() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Live)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Hung], None]:
    """Watches a child at an address for one asking more than it may miss."""
    monkeypatch.setattr(pulse, "EVERY_SECONDS", 0.0)
    settings = ServiceSettings(data_dir=tmp_path)

    def watch(url: str, child: Hung) -> None:
        write_address(settings, Address(url, "secret"))
        one = Pulse(settings, child)  # type: ignore[arg-type]
        for _ in range(pulse.MAX_MISSES + 1):
            one.watch()

    return watch


def test_one_that_is_silent_is_killed_once(watched: Callable[[str, Hung], None]) -> None:
    child = Hung()
    watched(f"http://127.0.0.1:{free_port()}", child)
    assert child.num_kills == 1
    assert "has not answered" in child.said[0]


def test_one_that_answers_lives(watched: Callable[[str, Hung], None], live: str) -> None:
    child = Hung()
    watched(live, child)
    assert child.num_kills == 0


@pytest.mark.parametrize("started_at", [None, time.monotonic() + 1e6])
def test_one_that_starts_or_does_not_run_is_given_time(
    watched: Callable[[str, Hung], None], started_at: float | None
) -> None:
    child = Hung()
    child.started_at = started_at
    watched(f"http://127.0.0.1:{free_port()}", child)
    assert child.num_kills == 0
