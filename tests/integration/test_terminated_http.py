"""SIGTERM to what serves HTTP, while requests are open that would go on for minutes."""

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import peer_server
import psutil
import pytest
from chat_server import tuned_job
from openai.types.chat import ChatCompletionChunk
from processes import python
from servers import free_port
from stacks import stack
from talker import write_talker
from waiting import wait_for

from jobs import serving
from jobs.artifacts import ADAPTER_ARCHIVE, LocalStore
from jobs.db import connect, session_factory, transaction
from jobs.models import Checkpoint
from jobs.status import Status
from jobs.store import projects
from service.settings import ServiceSettings

pytestmark = pytest.mark.slow

# As compose gives them, and some for a busy machine.
SERVICE_SECONDS = 20 + 10
SERVING_SECONDS = 15 + 10
ARCHIVE_BYTES = 64 << 20
NUM_CHOICES = 16
HELLO = [{"role": "user", "content": "What is 2 + 3?"}]


@dataclass
class Processes:
    """A service and a serving process, and what a client needs to hold them up."""

    service: subprocess.Popen[bytes]
    serving: subprocess.Popen[bytes]
    settings: ServiceSettings
    url: str
    key: str
    talker: Path
    job_id: str
    log: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def num_open(self) -> int:
        where = serving.address(self.settings)
        assert where is not None
        headers = {"Authorization": f"Bearer {where.token}"}
        return int(httpx2.get(f"{where.url}/live", headers=headers).json()["num_open"])


@pytest.fixture
def processes(tmp_path: Path, migrated_database: Path) -> Iterator[Processes]:
    talker = write_talker(tmp_path / "models" / "talker")
    settings = ServiceSettings(data_dir=tmp_path / "data", port=free_port())
    settings.data_dir.mkdir()
    shutil.copy(migrated_database, settings.data_dir / "honed.db")
    store = LocalStore(settings.artifacts_dir)
    engine = connect(settings.sqlalchemy_url)
    with transaction(session_factory(engine)) as session:
        project = projects.ensure_project(session, "default")
        key = projects.issue_key(session, project, "test")
        job = tuned_job(session, project.id, store, talker, Status.SUCCEEDED)
        for checkpoint in session.query(Checkpoint):
            # More than what lies between two sockets.
            path = store.folder(checkpoint.folder) / ADAPTER_ARCHIVE
            path.write_bytes(bytes(ARCHIVE_BYTES))
            checkpoint.archive_bytes = ARCHIVE_BYTES
            checkpoint.archive_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    engine.dispose()
    shared = {
        "data_dir": settings.data_dir,
        "model_roots": talker.parent,
        "outbound_allow": "127.0.0.1",
    }
    log = tmp_path / "log"
    with (
        python("service.serve", log=log, port=settings.port, **shared) as service,
        python("slow_serving", log=log, pythonpath=Path(__file__).parent, **shared) as behind,
    ):
        url = settings.own_url
        wait_for(lambda: _is_up(settings), seconds=90, what="both processes")
        yield Processes(service, behind, settings, url, key.secret, talker, job.id, log)


def _is_up(settings: ServiceSettings) -> bool:
    try:
        is_ready = httpx2.get(f"{settings.own_url}/readyz", timeout=30).status_code == 200
    except httpx2.TransportError:
        return False
    return is_ready and serving.address(settings) is not None


def end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """It ends in time, with 0, and with everything that it has started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(seconds) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_a_service_with_a_download_a_stream_and_a_slow_judge(processes: Processes) -> None:
    grader = {
        "type": "python",
        "source": "def grade(sample, item):\n    return 1.0\n",
    }
    headers = {"Authorization": f"Bearer {processes.key}"}
    graders = f"{processes.url}/v1/fine_tuning/alpha/graders/run"
    ran = httpx2.post(
        graders, json={"grader": grader, "model_sample": "x"}, headers=headers, timeout=60
    )
    assert ran.json()["reward"] == 1.0, ran.text  # a sandbox stays open for the next one

    leave = threading.Event()

    def slow(asked: peer_server.Asked) -> peer_server.Says:
        leave.wait(120)
        return peer_server.Says({"reward": 1.0})

    adapter = f"{processes.url}/v1/fine_tuning/jobs/{processes.job_id}/adapter"
    with (
        peer_server.serving(slow) as peer,
        ThreadPoolExecutor() as pool,
        httpx2.stream("GET", adapter, headers=headers, timeout=60) as download,
        processes.client() as client,
    ):
        first = next(download.iter_bytes(65536))
        stream = iter(
            client.chat.completions.create(
                model=str(processes.talker), messages=HELLO, n=NUM_CHOICES, stream=True
            )
        )
        next(stream)
        asked = {"grader": {"type": "endpoint", "url": peer.url}, "model_sample": "x"}
        waiting = pool.submit(_post, graders, asked, headers)
        wait_for(lambda: peer.num_busy, seconds=30, what="the judge to be asked")
        end(processes.service, seconds=SERVICE_SECONDS)
        leave.set()
        waiting.result(60)
    wait_for(lambda: processes.num_open() == 0, seconds=60, what="nobody to be answered any more")

    again = {"model_roots": processes.talker.parent, "port": processes.settings.port}
    with python(
        "service.serve", log=processes.log, data_dir=processes.settings.data_dir, **again
    ) as service:
        wait_for(lambda: _is_up(processes.settings), seconds=90, what="the next service")
        rest = httpx2.get(adapter, headers=headers | {"Range": f"bytes={len(first)}-"}, timeout=60)
        assert rest.status_code == 206
        whole = hashlib.sha256(first + rest.content).hexdigest()
        assert rest.headers["ETag"] == f'"{whole}"'
        end(service, seconds=SERVICE_SECONDS)


def _post(url: str, body: Any, headers: dict[str, str]) -> int | None:
    """The status of the answer; None where the connection is cut."""
    try:
        return httpx2.post(url, json=body, headers=headers, timeout=90).status_code
    except httpx2.TransportError:
        return None


def assert_whole_or_broken_off(stream: Iterator[ChatCompletionChunk]) -> None:
    """What there was time for is answered whole, and nothing else looks as if it were."""
    try:
        chunks = list(stream)
    except openai.APIError:
        return
    ended = [one.index for chunk in chunks for one in chunk.choices if one.finish_reason]
    assert sorted(ended) == list(range(NUM_CHOICES))


def test_a_serving_process_with_open_answers_and_a_model_that_loads(processes: Processes) -> None:
    slow = processes.talker.parent / "slow"
    shutil.copytree(processes.talker, slow)
    with processes.client() as client, ThreadPoolExecutor() as pool:
        talker = str(processes.talker)
        client.chat.completions.create(model=talker, messages=HELLO, max_completion_tokens=1)
        loading = pool.submit(client.chat.completions.create, model=str(slow), messages=HELLO)
        wait_for((slow / "loading").exists, seconds=60, what="the slow model to load")
        # Last of all, so that its answers are not over before the process is told to end.
        stream = iter(
            client.chat.completions.create(model=talker, messages=HELLO, n=NUM_CHOICES, stream=True)
        )
        next(stream)
        end(processes.serving, seconds=SERVING_SECONDS)
        assert_whole_or_broken_off(stream)
        with pytest.raises(openai.APIError):
            loading.result(90)


def test_a_whole_stack_with_an_open_stream(tmp_path: Path) -> None:
    talker = write_talker(tmp_path / "models" / "talker")
    with stack(tmp_path / "data", model_roots=talker.parent) as running:
        key = (running.folder / "key").read_text().strip()
        url = f"http://127.0.0.1:{running.port}/v1"
        with openai.OpenAI(base_url=url, api_key=key, timeout=120) as client:
            stream = iter(
                client.chat.completions.create(
                    model=str(talker), messages=HELLO, n=NUM_CHOICES, stream=True
                )
            )
            next(stream)
            running.stop()
