"""A local HTTP server that plays judge, embedding service and grading endpoint, well or badly."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def last_text(self) -> str:
        """Of a chat: what the last message says."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


@dataclass
class Says:
    """What the server does with a request."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    raw: bytes | None = None
    hangs_up: bool = False
    drips_seconds: float = 0.0
    """Sends its answer a byte at a time, with this long between."""


Behaviour = Callable[[Asked], Says]


def completion(
    content: str | None,
    *,
    refusal: str | None = None,
    finish_reason: str = "stop",
    model: str = "judge-1",
    tokens: tuple[int, int, int] = (10, 5, 0),
) -> dict[str, Any]:
    """A chat completion; tokens are of prompt, completion, and prompt from the cache."""
    prompt, generated, cached = tokens
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def verdict(result: Any, **more: Any) -> dict[str, Any]:
    """A judge's structured answer."""
    return completion(json.dumps({"steps": [], "result": result}), **more)


class Peer:
    """The server, what it was asked, and how it behaves, which a test may change meanwhile."""

    def __init__(self, behaviour: Behaviour, *, port: int = 0) -> None:
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.num_busy = 0
        self.most_busy = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, asked: Asked) -> Says:
        with self._lock:
            self.asked.append(asked)
            self.num_busy += 1
            self.most_busy = max(self.most_busy, self.num_busy)
        try:
            says = self.behaviour(asked)
            time.sleep(says.delay_seconds)
            return says
        finally:
            with self._lock:
                self.num_busy -= 1

    def stop(self) -> None:
        """As if killed: connections that are open are cut."""
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()


@contextmanager
def serving(behaviour: Behaviour, *, port: int = 0) -> Iterator[Peer]:
    """A server with this behaviour for as long as the block runs."""
    peer = Peer(behaviour, port=port)
    try:
        yield peer
    finally:
        peer.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that give up are part of the play

    def cut(self) -> None:
        for request in list(self.open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _handler(peer: Peer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            says = peer.answer(Asked(self.path, headers, raw))
            if says.hangs_up:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            body = says.raw if says.raw is not None else json.dumps(says.body).encode()
            self.send_response(says.status)
            for name, value in {"Content-Type": "application/json", **says.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if says.drips_seconds:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(says.drips_seconds)
            else:
                self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
