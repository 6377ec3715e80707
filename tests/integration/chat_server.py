"""Service and serving process for tests of chat, with models that jobs have made."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
from processes import python
from servers import free_port
from talker import write_adapter, write_bert, write_talker
from transformers import BertForSequenceClassification, BertModel
from waiting import wait_for

from jobs import serving
from jobs.artifacts import ADAPTER_ARCHIVE, LocalStore, pack
from jobs.db import connect, session_factory, transaction
from jobs.ids import JOB
from jobs.models import Job
from jobs.names import tuned_checkpoint, tuned_model
from jobs.status import Status
from jobs.store import checkpoints, jobs, projects
from service.settings import ServiceSettings


@dataclass
class Server:
    settings: ServiceSettings
    url: str
    client: openai.OpenAI
    stranger: openai.OpenAI
    """Of another project."""
    other_project: str
    talker: str
    """A base that talks until it is stopped."""
    tuned: str
    checkpoint: str
    paused: str
    """A checkpoint of a job that is paused."""
    serving_log: Path

    def num_open(self) -> int:
        """Answers that the serving process works on."""
        where = serving.address(self.settings)
        assert where is not None
        headers = {"Authorization": f"Bearer {where.token}"}
        return int(httpx2.get(f"{where.url}/live", headers=headers).json()["num_open"])


def tuned_job(session: Any, project: str, store: LocalStore, base: Path, status: Status) -> Job:
    """A job with two checkpoints, as a worker leaves it."""
    job = jobs.add(
        session,
        Job(
            id=JOB + hashlib.sha256(status.encode()).hexdigest()[:24],
            project_id=project,
            spec={"suffix": "mine"},
            resolved={"model": {"name": str(base), "folder": str(base), "revision": None}},
            model=str(base),
            training_file="file-x",
            seed=1,
            status=status,
            step=2,
        ),
    )
    for step in (1, 2):
        seed = step

        def write(folder: Path, seed: int = seed) -> None:
            write_adapter(base, folder / "adapter", seed=seed)
            pack(folder / "adapter", folder / ADAPTER_ARCHIVE)

        relative = f"jobs/{job.id}/attempt-1/step-{step}"
        store.publish(relative, write)
        checkpoints.put(
            session,
            job.id,
            step=step,
            attempt=1,
            folder=relative,
            archive_sha256="",
            archive_bytes=0,
            metrics={},
        )
    return job


@contextmanager
def chat_server(folder: Path, migrated_database: Path) -> Iterator[Server]:
    """A service and a serving process on one folder, and jobs that have trained the talker."""
    encoder = write_bert(folder / "models" / "encoder", BertModel)
    write_bert(folder / "models" / "reward", BertForSequenceClassification)
    write_bert(folder / "models" / "labels", BertForSequenceClassification, num_labels=2)
    talker = write_talker(folder / "models" / "talker")
    shared = {
        "data_dir": folder / "data",
        "model_roots": talker.parent,
        "embedding_model": str(encoder),
    }
    settings = ServiceSettings(**shared | {"model_roots": (talker.parent,)})
    settings.data_dir.mkdir()
    shutil.copy(migrated_database, settings.data_dir / "honed.db")
    engine = connect(settings.sqlalchemy_url)
    store = LocalStore(settings.artifacts_dir)
    with transaction(session_factory(engine)) as session:
        project = projects.ensure_project(session, "default")
        key = projects.issue_key(session, project, "test")
        other = projects.issue_key(session, projects.ensure_project(session, "other"), "test")
        done = tuned_job(session, project.id, store, talker, Status.SUCCEEDED)
        paused = tuned_job(session, project.id, store, talker, Status.PAUSED)
        names = tuned_model(done), tuned_checkpoint(done, 1), tuned_checkpoint(paused, 2)
    serving_log = folder / "serving.log"
    engine.dispose()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        python("service.serve", log=folder / "service.log", port=port, **shared),
        python("worker.serve", log=serving_log, **shared),
        openai.OpenAI(base_url=f"{url}/v1", api_key=key.secret, max_retries=0) as client,
        openai.OpenAI(base_url=f"{url}/v1", api_key=other.secret, max_retries=0) as stranger,
    ):
        wait_for(lambda: _is_up(settings, url), seconds=60, what="both processes")
        yield Server(
            settings, url, client, stranger, other.project_id, str(talker), *names, serving_log
        )
    for log in (folder / "service.log", serving_log):
        assert "Traceback" not in log.read_text()


def _is_up(settings: ServiceSettings, url: str) -> bool:
    where = serving.address(settings)
    try:
        return where is not None and httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.TransportError:
        return False
