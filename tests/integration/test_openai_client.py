"""The unmodified `openai` package against a real server: only `base_url` differs."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from processes import python
from served import served
from servers import free_port
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.store import attempts, events, validation

ROWS = [{"messages": [{"role": "user", "content": f"{n} + 1"}], "answer": n + 1} for n in range(3)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
MULTI = {"type": "multi", "graders": {"exact": EXACT}, "calculate_output": "2 * exact"}


@dataclass
class Server:
    client: openai.OpenAI
    sessions: sessionmaker[Session]
    model: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    """A client with a key."""
    with (
        served(tmp_path_factory.mktemp("server"), migrated_database) as service,
        openai.OpenAI(base_url=service.url, api_key=service.key.secret) as client,
    ):
        yield Server(client, service.sessions, service.model)


def create(server: Server, **changes: object) -> FineTuningJob:
    files = server.client.files
    training, held_out = (
        files.create(file=("rows.jsonl", JSONL), purpose="fine-tune").id for _ in range(2)
    )
    return server.client.fine_tuning.jobs.create(
        **{
            "model": server.model,
            "training_file": training,
            "validation_file": held_out,
            "method": {"type": "reinforcement", "reinforcement": {"grader": MULTI}},
            **changes,
        }
    )


def test_files(server: Server, tmp_path: Path) -> None:
    files = server.client.files
    made = files.create(file=("rows.jsonl", JSONL), purpose="fine-tune")
    assert (made.status, made.bytes, made.filename) == ("processed", len(JSONL), "rows.jsonl")
    assert files.wait_for_processing(made.id).id == made.id
    assert files.retrieve(made.id) == made
    assert files.content(made.id).read() == JSONL
    files.content(made.id).write_to_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == JSONL
    assert next(iter(files.list(limit=1))).id == made.id
    raw = files.create(file=b"raw bytes", purpose="user_data")
    assert raw.filename == "upload"
    assert files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {made.id}") as caught:
        files.retrieve(made.id)
    assert (caught.value.param, caught.value.code) == ("id", None)
    assert caught.value.request_id.startswith("req_")


def test_a_jobs_life_as_the_client_sees_it(server: Server) -> None:
    jobs = server.client.fine_tuning.jobs
    job = create(server, suffix="mine", metadata={"team": "a"})
    assert (job.status, job.object) == ("validating_files", "fine_tuning.job")
    assert isinstance(job.seed, int)
    assert job.error is None
    assert job._request_id.startswith("req_")
    grader = job.method.reinforcement.grader
    assert (grader.type, grader.graders["exact"]["operation"]) == ("multi", "eq")
    assert jobs.retrieve(job.id).metadata == {"team": "a"}

    with transaction(server.sessions) as session:
        validation.admit(session, job.id, resolved={"hyperparameters": {"batch_size": 3}})
    assert jobs.retrieve(job.id).hyperparameters.batch_size == 3
    with transaction(server.sessions) as session:
        claimed = attempts.claim(session, worker="w", lease_seconds=60)
        data = {"step": 1, "train_mean_reward": 0.5}
        events.add(session, job.id, "Step 1/10", type="metrics", data=data)
    assert claimed.job_id == job.id

    assert jobs.pause(job.id).status == "pausing"
    with transaction(server.sessions) as session:
        attempts.stopped(session, claimed)
    assert jobs.retrieve(job.id).status == "paused"
    assert jobs.resume(job.id).status == "queued"
    assert jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="already cancelled") as caught:
        jobs.cancel(job.id)
    assert caught.value.code == "wrong_state"

    latest = jobs.list_events(job.id, limit=1).data[0]
    assert (latest.message, latest.type) == ("Fine-tuning job cancelled", "message")
    walked = [event.message for event in jobs.list_events(job.id, limit=2)]
    assert walked[-1] == f"Created fine-tuning job: {job.id}"
    assert len(walked) == len(set(walked)) == 9
    (metrics_event,) = [e for e in jobs.list_events(job.id) if e.type == "metrics"]
    assert metrics_event.data["train_mean_reward"] == 0.5
    assert list(jobs.checkpoints.list(job.id)) == []


def test_lists_end(server: Server) -> None:
    made = [create(server).id for _ in range(5)]
    walked = [job.id for job in server.client.fine_tuning.jobs.list(limit=2)]
    assert walked[:5] == made[::-1]
    assert len(walked) == len(set(walked))


def test_strict_clients_parse_a_job(server: Server) -> None:
    with openai.OpenAI(
        base_url=server.client.base_url,
        api_key=server.client.api_key,
        _strict_response_validation=True,
    ) as strict:
        made = create(server, method={"type": "reinforcement", "reinforcement": {"grader": EXACT}})
        job = strict.fine_tuning.jobs.retrieve(made.id)
        assert job.id == made.id
        assert strict.fine_tuning.jobs.list_events(job.id).data
        assert strict.fine_tuning.alpha.graders.run(grader=EXACT, model_sample="1").reward == 0
        assert strict.models.list().data
        assert strict.files.list().data


def test_hyperparameters_of_ours_ride_along(server: Server) -> None:
    reinforcement = {
        "grader": EXACT,
        "hyperparameters": {"group_size": 4, "batch_size": 2, "lora": {"rank": 4}},
    }
    job = create(server, method={"type": "reinforcement", "reinforcement": reinforcement})
    shown = job.method.reinforcement.hyperparameters
    assert (shown.batch_size, shown.group_size, shown.lora["rank"]) == (2, 4, 4)
    assert job.rollouts_per_step == 8


def test_errors_are_the_clients_own(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="`num_generations` is `group_size` here"):
        create(
            server,
            method={
                "type": "reinforcement",
                "reinforcement": {"grader": EXACT, "hyperparameters": {"num_generations": 8}},
            },
        )
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune: ftjob-x"):
        server.client.fine_tuning.jobs.retrieve("ftjob-x")
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.models.retrieve("ft:org/model:acme:x:abc:ckpt-step-10")
    assert caught.value.code == "model_not_found"
    with (
        openai.OpenAI(base_url=server.client.base_url, api_key="hk-wrong") as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.files.list()
    assert refused.value.code == "invalid_api_key"


def test_graders(server: Server) -> None:
    graders = server.client.fine_tuning.alpha.graders
    assert graders.validate(grader=EXACT).grader.name == "exact"
    answer = graders.run(grader=MULTI, model_sample="4", item={"answer": "4"})
    assert answer.reward == 2.0
    assert answer.sub_rewards == {"exact": 1.0}
    python = {"type": "python", "name": "p", "source": "def grade(s, i): return 1 / 4"}
    assert graders.run(grader=python, model_sample="").reward == 0.25
    with pytest.raises(openai.BadRequestError, match="NameError"):
        graders.validate(grader={**python, "source": "x"})


def test_models(server: Server) -> None:
    ids = [model.id for model in server.client.models.list()]
    assert ids == ["honed/starter", server.model]
    assert server.client.models.retrieve("honed/starter").owned_by == "honed"


def test_a_burst_of_requests_is_answered(server: Server) -> None:
    """More requests at once than threads and connections, half of them writing."""
    training = server.client.files.create(file=("rows.jsonl", JSONL), purpose="fine-tune").id
    method = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}

    def one(index: int) -> str:
        jobs = server.client.with_options(max_retries=0).fine_tuning.jobs
        if index % 2:
            return jobs.list(limit=1).object
        return jobs.create(model=server.model, training_file=training, method=method).object

    with ThreadPoolExecutor(60) as pool:
        answers = Counter(pool.map(one, range(120)))
    assert answers == {"list": 60, "fine_tuning.job": 60}


def test_a_file_is_deleted_or_read_by_a_new_job_never_both(server: Server) -> None:
    client = server.client.with_options(max_retries=0)
    method = {"type": "reinforcement", "reinforcement": {"grader": EXACT}}

    def succeeds(request: Callable[[], object]) -> bool:
        try:
            request()
        except (openai.BadRequestError, openai.NotFoundError):
            return False
        return True

    def create_with(file_id: str) -> object:
        jobs = client.fine_tuning.jobs
        return jobs.create(model=server.model, training_file=file_id, method=method)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(15):
            file_id = client.files.create(file=("rows.jsonl", JSONL), purpose="fine-tune").id
            outcomes = pool.map(
                succeeds,
                (partial(create_with, file_id), partial(client.files.delete, file_id)),
            )
            assert sum(outcomes) == 1


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    before = {file.id for file in server.client.files.list()}

    def broken() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxx'
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx2.post(
            f"{server.client.base_url}files",
            content=broken(),
            headers={
                "Authorization": f"Bearer {server.client.api_key}",
                "Content-Type": "multipart/form-data; boundary=b",
            },
        )
    assert {file.id for file in server.client.files.list()} == before


def test_a_server_refuses_a_database_of_another_version(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for program in ("service.serve", "service.sweeper"):
        with python(program, log=log, data_dir=tmp_path / "data", port=free_port()) as process:
            assert process.wait(30) == 1
    assert log.read_text().count("run `honed migrate`") == 2
