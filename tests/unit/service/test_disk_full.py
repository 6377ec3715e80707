"""What a client is told while there is no room for its file."""

import errno
import os

import httpx2
import pytest
from envelope import error_of
from fastapi.testclient import TestClient


def upload(client: TestClient) -> httpx2.Response:
    rows = ("rows.jsonl", b'{"messages": []}\n')
    return client.post("/v1/files", files={"file": rows}, data={"purpose": "fine-tune"})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_503_and_keeps_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def is_full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", is_full)
        answer = upload(client)

    assert error_of(answer, 503)["code"] == "storage_full"
    assert answer.headers["x-should-retry"] == "true"
    assert client.get("/v1/files").json()["data"] == []
    assert upload(client).status_code == 200
