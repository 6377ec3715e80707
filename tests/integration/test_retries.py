"""Answers that get lost on their way: OpenAI's client asks again, and one job is made."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from processes import python
from servers import free_port
from waiting import wait_for

from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

pytestmark = pytest.mark.on_both_databases

GRADER = {"type": "contains", "input": "{{sample.output_text}}", "values": ["5"]}
ROWS = b'{"messages": [{"role": "user", "content": "2 + 3"}]}\n'


class LosingAnswers(httpx2.HTTPTransport):
    """The network on a bad day: every request arrives, and the first answers to POSTs do not."""

    num_to_lose = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        if request.method == "POST" and self.num_to_lose:
            self.num_to_lose -= 1
            response.read()
            raise httpx2.ReadError("the connection was lost", request=request)
        return response


@pytest.fixture
def network() -> LosingAnswers:
    return LosingAnswers()


@pytest.fixture
def client(
    settings: ServiceSettings, key: IssuedKey, network: LosingAnswers, tmp_path: Path
) -> Iterator[openai.OpenAI]:
    """The unmodified client, on a bad network, to a server in a process of its own."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with python(
        "service.serve",
        log=tmp_path / "service.log",
        data_dir=settings.data_dir,
        database_url=settings.sqlalchemy_url,
        port=port,
    ):
        wait_for(lambda: _is_ready(url), seconds=30, what="readiness")
        http = httpx2.Client(transport=network)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key.secret, http_client=http) as client:
            yield client


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def create(client: openai.OpenAI, file_id: str, **options: Any) -> str:
    return client.fine_tuning.jobs.create(
        model="honed/starter",
        training_file=file_id,
        method={"type": "reinforcement", "reinforcement": {"grader": GRADER}},
        **options,
    ).id


def test_a_lost_answer_makes_no_second_job(client: openai.OpenAI, network: LosingAnswers) -> None:
    network.num_to_lose = 2
    file_id = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune").id
    assert [file.id for file in client.files.list()] == [file_id]
    network.num_to_lose = 2
    job_id = create(client, file_id)
    assert [job.id for job in client.fine_tuning.jobs.list()] == [job_id]

    headers = {"Idempotency-Key": "tonight's run"}
    network.num_to_lose = 1
    with pytest.raises(openai.APIConnectionError):
        create(client.with_options(max_retries=0), file_id, extra_headers=headers)
    second = create(client, file_id, extra_headers=headers)
    assert [job.id for job in client.fine_tuning.jobs.list()] == [second, job_id]
    with pytest.raises(openai.UnprocessableEntityError, match=second) as caught:
        create(client, file_id, extra_headers=headers, suffix="other")
    assert caught.value.code == "idempotency_key_reused"
