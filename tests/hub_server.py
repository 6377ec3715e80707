"""A model hub as far as `huggingface_hub` asks of one: repositories served from folders."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

CHUNK_BYTES = 1024 * 1024


@dataclass
class Repo:
    """One repository with one commit, to which `main` points."""

    folder: Path
    gated: bool = False

    def files(self) -> dict[str, Path]:
        return {path.name: path for path in sorted(self.folder.iterdir()) if path.is_file()}

    def commit(self) -> str:
        blobs = [f"{name} {blob_id(path)}" for name, path in self.files().items()]
        return hashlib.sha1("\n".join(blobs).encode()).hexdigest()


@dataclass
class Hub:
    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    seconds_a_chunk: float = 0.0
    """How slowly weights are sent."""
    failing: int = 0
    """Downloads of weights that still break off after their first chunk."""
    refusing: int | None = None
    """The status that everything is answered with."""
    requests: list[str] = field(default_factory=list)


def blob_id(path: Path) -> str:
    """What the hub names a file by: sha256 of weights, git's own hash of everything else."""
    return _blob_id(path, path.stat().st_mtime_ns)


@cache
def _blob_id(path: Path, changed_at: int) -> str:
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.refusing is not None:
            self.refuse(self.hub.refusing, "Refused")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self.api(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*match.groups())
        else:
            self.refuse(404, "EntryNotFound")

    def repo(self, name: str, revision: str | None) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self.refuse(401, "RepoNotFound")  # the hub does not tell strangers what is private
        elif revision not in (None, "main", repo.commit()):
            self.refuse(404, "RevisionNotFound")
        else:
            return repo
        return None

    def api(self, name: str, kind: str | None, revision: str | None) -> None:
        if (repo := self.repo(name, revision)) is None:
            return
        entries = [self.entry(file, path) for file, path in repo.files().items()]
        if kind == "tree":
            self.send([{"type": "file", "oid": e["blobId"], "path": e.pop("rfilename"), **e}
                       for e in entries])  # fmt: skip
        else:
            self.send({"id": name, "sha": repo.commit(), "siblings": entries})

    def entry(self, name: str, path: Path) -> dict[str, Any]:
        size, blob = path.stat().st_size, blob_id(path)
        entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
        if path.suffix == ".safetensors":
            entry["lfs"] = {"size": size, "sha256": blob, "oid": blob, "pointerSize": 130}
        return entry

    def file(self, name: str, revision: str, file: str) -> None:
        if (repo := self.repo(name, revision)) is None:
            return
        if repo.gated:
            self.refuse(401, "GatedRepo")
            return
        data = repo.files()[file].read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", repo.commit())
        self.send_header("ETag", f'"{blob_id(repo.files()[file])}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.body(data, is_weights=file.endswith(".safetensors"))

    def body(self, data: bytes, *, is_weights: bool) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            try:
                self.wfile.write(data[start : start + CHUNK_BYTES])
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
                return
            if is_weights:
                time.sleep(self.hub.seconds_a_chunk)
                if self.hub.failing:
                    self.hub.failing -= 1
                    self.close_connection = True
                    return

    def send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running() -> Iterator[Hub]:
    """A hub without repositories, on a free port of this machine."""
    handler = type("HubHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
