"""`honed doctor` says what is broken and how to mend it, of every process too, and never hangs."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from broken import assert_broken
from servers import free_port
from typer.testing import CliRunner

from jobs import alive
from jobs.serving import Address, write_address
from service.cli import app as cli
from service.doctor import checkup, processes
from service.doctor.checkup import Check, Finding, ok
from service.settings import ServiceSettings


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(cli, ("doctor", "--json", *arguments), catch_exceptions=False)
    said = json.loads(done.stdout)
    return done.exit_code, {one.pop("name"): one for one in said["checks"]} | {"ok": said["ok"]}


@pytest.mark.on_both_databases
def test_a_stack_whose_parts_are_well(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONED_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("HONED_PORT", str(free_port()))
    before = sorted(path.name for path in settings.artifacts_dir.glob("*"))
    code, said = run("--data", str(settings.data_dir))
    assert (code, said.pop("ok")) == (0, True)
    absent = ("service", "sweeper", "workers")
    assert {name for name, one in said.items() if one["status"] != "ok"} == set(absent)
    assert all("Start" in said[name]["mend"] for name in absent)
    assert sorted(path.name for path in settings.artifacts_dir.glob("*")) == [*before, "tmp"]
    text = CliRunner().invoke(cli, ("doctor", "--data", str(settings.data_dir))).stdout
    assert text.endswith("Nothing is broken.\n")


def test_a_folder_where_nothing_was_started_stays_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONED_PORT", str(free_port()))
    code, said = run("--data", str(tmp_path))
    assert (code, said["ok"], said["database"]["status"]) == (1, False, "fail")
    assert "honed migrate" in said["database"]["mend"]
    assert not (tmp_path / "honed.db").exists()


@contextmanager
def answering(status: int, body: Any) -> Iterator[int]:
    """The port of a server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class TestProcesses:
    def test_a_service_that_cannot_do_its_work(self, settings: ServiceSettings) -> None:
        checks = {"database": "ok", "broker": "it is away"}
        with answering(503, {"status": "not_ready", "checks": checks}) as port:
            found = processes.service(settings.model_copy(update={"port": port}))
        assert_broken(found, "answers 503: broker: it is away", "goes on by itself")

    def test_another_program_at_its_port(self, settings: ServiceSettings) -> None:
        with answering(404, {"detail": "Not Found"}) as port:
            found = processes.service(settings.model_copy(update={"port": port}))
        assert_broken(found, "answers 404", "HONED_PORT")

    def test_a_worker_that_gives_no_sign_any_more(self, settings: ServiceSettings) -> None:
        path = alive.file_of(settings, "worker", "gpu-7")
        path.parent.mkdir(parents=True)
        path.touch()
        assert processes.workers(settings).status == "ok"
        os.utime(path, (1.0, 1.0))
        found = processes.workers(settings)
        assert found.status == "warn"
        assert "gpu-7" in found.found
        assert f"rm {path}" in (found.mend or "")

    def test_jobs_that_nobody_is_there_for(self, settings: ServiceSettings, job_id: str) -> None:
        assert_broken(processes.workers(settings), "1 jobs wait", "python -m worker")

    def test_a_serving_process_with_another_token(self, settings: ServiceSettings) -> None:
        with answering(401, {}) as port:
            write_address(settings, Address(f"http://127.0.0.1:{port}", "wrong"))
            found = processes.chat(settings)
        assert_broken(found, "answers 401", "HONED_SERVING_TOKEN")

    def test_a_serving_process_that_is_gone(self, settings: ServiceSettings) -> None:
        write_address(settings, Address(f"http://127.0.0.1:{free_port()}", "token"))
        assert processes.chat(settings).status == "warn"


def test_what_hangs_is_left_behind_and_the_rest_is_told(settings: ServiceSettings) -> None:
    never = threading.Event()

    def hang(_: ServiceSettings) -> Finding:
        never.wait()
        return ok("at last")

    def crash(_: ServiceSettings) -> Finding:
        raise RuntimeError("nobody thought of this")

    checks = (Check("hangs", hang), Check("crashes", crash), Check("well", lambda _: ok("well")))
    try:
        found = checkup.examine(settings, checks, limit_seconds=0.5)
    finally:
        never.set()
    assert list(found) == ["hangs", "crashes", "well"]
    assert_broken(found["hangs"], "did not answer within 0.5 seconds", "hangs")
    assert_broken(found["crashes"], "RuntimeError: nobody thought of this", "message")
    assert found["well"].status == "ok"


@pytest.mark.slow
def test_servers_that_take_connections_and_say_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        environ = os.environ | {
            "HONED_DATABASE_URL": f"postgresql://honed@127.0.0.1:{port}/honed",
            "HONED_BROKER_URL": f"redis://127.0.0.1:{port}/0",
            "HONED_PORT": str(port),
        }
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", "doctor", "--data", str(tmp_path)],
            capture_output=True,
            text=True,
            env=environ,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1
    assert "Broken: database, broker" in done.stdout.splitlines()[-1]
