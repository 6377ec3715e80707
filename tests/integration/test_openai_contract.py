"""The whole contract through the unmodified `openai` package: sync, async and strict."""

import asyncio
import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from either_client import awaited, chat, walked
from processes import python
from served import Served, served
from sqlalchemy import update

from jobs import results
from jobs.db import transaction
from jobs.models import Job
from jobs.status import Status
from jobs.store import attempts, checkpoints, events, metrics, projects, validation

ROWS = [{"messages": [{"role": "user", "content": f"{n} + 1"}], "answer": n + 1} for n in range(3)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


@dataclass
class Server:
    served: Served
    other_project: str

    def train(self, job_id: str) -> None:
        """What a worker does: two steps, a checkpoint at each, and the end."""
        with transaction(self.served.sessions) as session:
            numbers = {"batch_size": 3, "n_epochs": 2, "learning_rate_multiplier": 1.0}
            validation.admit(session, job_id, resolved={"hyperparameters": numbers})
            session.execute(update(Job).where(Job.id == job_id).values(priority=100))
        with transaction(self.served.sessions) as session:
            claimed = attempts.claim(session, worker="w", lease_seconds=600)
            assert claimed is not None
            assert claimed.job_id == job_id
            for step in (1, 2):
                row = {"train_mean_reward": step / 4, "full_valid_mean_reward": step / 8}
                metrics.put(session, job_id, step=step, attempt=1, data=row)
                data = {"step": step, **row}
                events.add(session, job_id, f"Step {step}/2 ", type="metrics", data=data)
                checkpoints.put(
                    session,
                    job_id,
                    step=step,
                    attempt=1,
                    folder=f"jobs/{job_id}/attempt-1/step-{step}",
                    archive_sha256="0",
                    archive_bytes=1,
                    metrics=row,
                )
            attempts.fence(session, claimed, step=2, trained_tokens=9)
            attempts.conclude(session, claimed, Status.SUCCEEDED)
            results.write_if_over(session, self.served.artifacts, job_id)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with (
        served(folder, migrated_database) as service,
        python("worker.serve", log=folder / "serving.log", data_dir=service.settings.data_dir),
    ):
        with transaction(service.sessions) as session:
            other_project = projects.ensure_project(session, "other").id
        yield Server(service, other_project)


Client = openai.OpenAI | openai.AsyncOpenAI


@pytest.mark.parametrize("is_strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI], ids=["sync", "async"])
def test_every_call(server: Server, kind: type[Client], is_strict: bool) -> None:
    """Each noun in turn; a strict client also refuses answers outside OpenAI's own types."""

    async def run() -> None:
        client = kind(
            base_url=server.served.url,
            api_key=server.served.key.secret,
            organization="org-ignored",
            project="proj-ignored",
            max_retries=0,
            _strict_response_validation=is_strict,
        )
        try:
            training = await _files(client)
            await _uploads(client)
            await _graders(client)
            job = await _jobs(client, server, training)
            await _progress(client, job.id)
            await _models(client, server, job)
            await chat(client)
        finally:
            await awaited(client.close())

    asyncio.run(run())


async def _files(client: Any) -> str:
    files = client.files
    made = await awaited(
        files.create(
            file=("rows.jsonl", JSONL),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    )
    assert made.status == "processed"
    assert made.expires_at - made.created_at in (3600, 3601)
    assert (await awaited(files.wait_for_processing(made.id))).id == made.id
    content = await awaited(files.content(made.id))
    assert content.content == JSONL
    listed = await walked(files.list(limit=1, order="asc", purpose="fine-tune"))
    assert made.id in [one.id for one in listed]
    spare = await awaited(files.create(file=b"raw", purpose="user_data"))
    assert (await awaited(files.delete(spare.id))).deleted
    return str(made.id)


async def _uploads(client: Any) -> None:
    uploads = client.uploads
    whole = await awaited(
        uploads.upload_file_chunked(
            file=JSONL,
            filename="rows.jsonl",
            bytes=len(JSONL),
            mime_type="application/jsonl",
            purpose="fine-tune",
            part_size=100,
            md5=hashlib.md5(JSONL, usedforsecurity=False).hexdigest(),
        )
    )
    assert (whole.status, whole.file.bytes) == ("completed", len(JSONL))
    assert (await awaited(client.files.content(whole.file.id))).content == JSONL
    announced = {"bytes": 9, "filename": "a", "mime_type": "text/plain", "purpose": "evals"}
    begun = await awaited(uploads.create(**announced))
    part = await awaited(uploads.parts.create(begun.id, data=b"x"))
    assert (part.object, part.upload_id) == ("upload.part", begun.id)
    with pytest.raises(openai.BadRequestError, match="come to 1 bytes"):
        await awaited(uploads.complete(begun.id, part_ids=[part.id]))
    assert (await awaited(uploads.cancel(begun.id))).status == "cancelled"


async def _graders(client: Any) -> None:
    graders = client.fine_tuning.alpha.graders
    assert (await awaited(graders.validate(grader=EXACT))).grader.type == "string_check"
    run = await awaited(graders.run(grader=EXACT, model_sample="4", item={"answer": 4}))
    assert run.reward == 1.0


async def _jobs(client: Any, server: Server, training: str) -> Any:
    jobs = client.fine_tuning.jobs
    asked = {
        "model": server.served.model,
        "training_file": training,
        "validation_file": training,
        "suffix": "mine",
        "seed": None,
        "metadata": {"team": "a/b", "id": training},
        "method": {"type": "reinforcement", "reinforcement": {"grader": EXACT}},
    }
    stopped = await awaited(jobs.create(**asked))
    assert stopped.status == "validating_files"
    for call, word in ((jobs.pause, "validating_files"), (jobs.resume, "validating_files")):
        with pytest.raises(openai.BadRequestError, match=word) as refused:
            await awaited(call(stopped.id))
        assert refused.value.code == "wrong_state"
    cancelled = await awaited(jobs.cancel(stopped.id))
    assert (cancelled.status, cancelled.error) == ("cancelled", None)

    made = await awaited(jobs.create(**asked))
    server.train(made.id)
    job = await awaited(jobs.retrieve(made.id))
    assert (job.status, job.trained_tokens, job.seed) == ("succeeded", 9, made.seed)
    assert (job.hyperparameters.batch_size, job.hyperparameters.n_epochs) == (3, 2)
    mine = await walked(jobs.list(limit=1, metadata={"team": "a/b", "id": training}))
    assert [one.id for one in mine] == [made.id, stopped.id]
    (result,) = job.result_files
    table = (await awaited(client.files.content(result))).text
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["step"], row["train_mean_reward"]) for row in rows] == [
        ("1", "0.25"),
        ("2", "0.5"),
    ]
    return job


async def _progress(client: Any, job_id: str) -> None:
    jobs = client.fine_tuning.jobs
    told = [event.message for event in await walked(jobs.list_events(job_id, limit=2))][::-1]
    assert told[0] == f"Created fine-tuning job: {job_id}"
    assert told[1].startswith("Validating training file: file-")
    assert told[2:4] == ["Files validated, moving job to queued state", "Fine-tuning job started"]
    page = await awaited(jobs.list_events(job_id, limit=1))
    assert page.data[0].data["full_valid_mean_reward"] == 0.25
    found = await walked(jobs.checkpoints.list(job_id, limit=1))
    assert [one.step_number for one in found] == [2, 1]
    assert found[0].metrics.train_mean_reward == 0.5


async def _models(client: Any, server: Server, job: Any) -> None:
    name, checkpoint = job.fine_tuned_model, f"{job.fine_tuned_model}:ckpt-step-1"
    assert name == f"ft:{server.served.model}:{server.served.key.project_id}:mine:{job.id[6:]}"
    listed = [model.id for model in await walked(client.models.list())]
    assert {"honed/starter", server.served.model, name, checkpoint} <= set(listed)
    assert (await awaited(client.models.retrieve(checkpoint))).id == checkpoint
    permissions = client.fine_tuning.checkpoints.permissions
    page = permissions.create(checkpoint, project_ids=[server.other_project])
    (granted,) = await walked(page)
    assert granted.project_id == server.other_project
    assert [one.id for one in await walked(permissions.list(checkpoint, limit=1))] == [granted.id]
    gone = await awaited(permissions.delete(granted.id, fine_tuned_model_checkpoint=checkpoint))
    assert gone.deleted
    assert await walked(permissions.list(checkpoint, order="ascending")) == []
    assert (await awaited(client.models.delete(name))).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        await awaited(client.models.retrieve(name))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("call", ["pause", "resume", "cancel"])
def test_posts_without_a_body_are_sent_as_json(server: Server, call: str) -> None:
    """As the client sends them: a JSON content type and nothing in it."""
    for headers in ({"Content-Type": "application/json"}, {}):
        answer = httpx2.post(
            f"{server.served.url}/fine_tuning/jobs/ftjob-x/{call}",
            headers={"Authorization": f"Bearer {server.served.key.secret}", **headers},
        )
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "fine_tune_not_found"


class FlakyTransport(httpx2.BaseTransport):
    """Delivers each POST, and loses the answer of the first."""

    def __init__(self) -> None:
        self.inner = httpx2.HTTPTransport()
        self.num_lost = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self.inner.handle_request(request)
        if request.method == "POST" and not self.num_lost:
            response.read()
            self.num_lost += 1
            raise httpx2.ReadError("the connection broke")
        return response

    def close(self) -> None:
        self.inner.close()


def test_an_answer_that_was_lost_makes_no_second_job(server: Server) -> None:
    auth = {"base_url": server.served.url, "api_key": server.served.key.secret}
    with openai.OpenAI(**auth) as client:
        training = client.files.create(file=("rows.jsonl", JSONL), purpose="fine-tune").id
    transport = FlakyTransport()
    with openai.OpenAI(**auth, http_client=httpx2.Client(transport=transport)) as client:
        job = client.fine_tuning.jobs.create(
            model=server.served.model,
            training_file=training,
            metadata={"lost": training},
            method={"type": "reinforcement", "reinforcement": {"grader": EXACT}},
        )
        assert transport.num_lost == 1
        made = [one.id for one in client.fine_tuning.jobs.list(metadata={"lost": training})]
    assert made == [job.id]
