"""Files over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from kept import Kept

from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

pytestmark = [pytest.mark.on_both_databases, pytest.mark.on_both_stores]

Upload = Callable[..., str]


def test_what_is_uploaded_comes_back(client: TestClient, kept: Kept) -> None:
    content = b'{"messages": []}\n' * 200_000  # beyond what is spooled in memory
    file = client.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", content)}
    ).json()
    assert (file["object"], file["status"], file["purpose"]) == ("file", "processed", "fine-tune")
    assert (file["bytes"], file["filename"]) == (len(content), "rows.jsonl")
    assert client.get(f"/v1/files/{file['id']}").json() == file
    answer = client.get(f"/v1/files/{file['id']}/content")
    assert answer.content == content
    assert 'filename="rows.jsonl"' in answer.headers["content-disposition"]
    assert kept.names() == [f"files/{file['id']}"]


def test_deleted_is_gone_with_its_bytes(client: TestClient, upload: Upload, kept: Kept) -> None:
    file_id = upload()
    assert client.delete(f"/v1/files/{file_id}").json() == {
        "id": file_id,
        "object": "file",
        "deleted": True,
    }
    assert kept.names() == []
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert error_of(client.get(path), 404)["message"] == f"No such File object: {file_id}"
    error_of(client.delete(f"/v1/files/{file_id}"), 404)


def test_a_file_that_a_job_reads_is_kept(
    client: TestClient, body: dict[str, Any], job_id: str
) -> None:
    for name in ("training_file", "validation_file"):
        error = error_of(client.delete(f"/v1/files/{body[name]}"), 400)
        assert job_id in error["message"]
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    assert client.delete(f"/v1/files/{body['training_file']}").status_code == 200


def test_list_walks_both_orders_and_filters(client: TestClient, upload: Upload) -> None:
    made = [upload(), upload(), upload(purpose="evals"), upload()]

    def ids_of(**query: Any) -> list[str]:
        page = client.get("/v1/files", params=query).json()
        found = [file["id"] for file in page["data"]]
        assert (page["first_id"], page["last_id"]) == (found[0], found[-1])
        return found

    assert ids_of() == made[::-1]
    assert ids_of(order="asc") == made
    assert ids_of(purpose="evals") == [made[2]]
    assert client.get("/v1/files", params={"limit": 3}).json()["has_more"]
    assert ids_of(limit=3, after=made[3]) == made[2::-1]
    assert ids_of(limit=2, after=made[0], order="asc") == made[1:3]


def test_an_empty_list(client: TestClient) -> None:
    assert client.get("/v1/files").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_an_empty_file_is_refused_and_not_kept(client: TestClient, kept: Kept) -> None:
    response = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a", b"")})
    error = error_of(response, 400)
    assert error["param"] == "file"
    assert "empty" in error["message"]
    assert kept.names() == []


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_file_too_large_is_refused_and_not_kept(
    client: TestClient, settings: ServiceSettings, kept: Kept, is_declared: bool
) -> None:
    settings.max_upload_bytes = 1000
    head = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    chunks = [head, b"x" * 150_000, b"\r\n--b--\r\n"]
    response = client.post(
        "/v1/files",
        content=b"".join(chunks) if is_declared else iter(chunks),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    error = error_of(response, 413)
    assert error["code"] == "body_too_large"
    assert "1,000 bytes" in error["message"]
    assert kept.names() == []


def test_a_file_just_over_the_limit_is_refused_by_its_own_size(
    client: TestClient, settings: ServiceSettings, kept: Kept
) -> None:
    settings.max_upload_bytes = 1000
    for size, status in ((1000, 200), (1001, 413)):
        response = client.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a", b"x" * size)}
        )
        assert response.status_code == status
    assert len(kept.names()) == 1


BAD_FORMS = [
    ({"purpose": "fine-tune"}, None, "file"),
    ({}, b"x", "purpose"),
    ({"purpose": "training"}, b"x", "purpose"),
    (
        {"purpose": "fine-tune", "expires_after[anchor]": "created_at"},
        b"x",
        "expires_after.seconds",
    ),
    ({"purpose": "fine-tune-results"}, b"x", "purpose"),
    ({"purpose": "fine-tune", "color": "red"}, b"x", "color"),
]


@pytest.mark.parametrize(("fields", "content", "param"), BAD_FORMS)
def test_a_bad_form_names_the_field(
    client: TestClient, fields: dict[str, str], content: bytes | None, param: str
) -> None:
    files: Any = {name: (None, value) for name, value in fields.items()}
    if content is not None:
        files["file"] = ("a.jsonl", content)
    elif not files:
        files["x"] = (None, "")
    assert error_of(client.post("/v1/files", files=files), 400)["param"] == param


BROKEN_BODIES = [
    ("application/json", b"{}", "multipart/form-data"),
    ("multipart/form-data", b"x", "boundary"),
    ("multipart/form-data; boundary=b", b"no multipart at all", "multipart"),
    ("multipart/form-data; boundary=b", b"", "file"),
]


@pytest.mark.parametrize(("kind", "content", "word"), BROKEN_BODIES)
def test_a_body_that_is_no_form(client: TestClient, kind: str, content: bytes, word: str) -> None:
    response = client.post("/v1/files", content=content, headers={"Content-Type": kind})
    assert word in error_of(response, 400)["message"]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\rows\\a.jsonl", "a.jsonl"),
        ("x" * 300, "x" * 255),
        ("na\u00efve \u4f60.jsonl", "na\u00efve \u4f60.jsonl"),
    ],
)
def test_the_clients_name_is_only_shown(
    client: TestClient, kept: Kept, sent: str, shown: str
) -> None:
    file = client.post(
        "/v1/files", data={"purpose": "fine-tune"}, files={"file": (sent, b"x")}
    ).json()
    assert file["filename"] == shown
    assert kept.names() == [f"files/{file['id']}"]
    assert client.get(f"/v1/files/{file['id']}/content").content == b"x"


def test_vanished_bytes_are_a_sentence(client: TestClient, upload: Upload, kept: Kept) -> None:
    file_id = upload()
    kept.delete(f"files/{file_id}")
    error = error_of(client.get(f"/v1/files/{file_id}/content"), 410)
    assert (error["code"], file_id in error["message"]) == ("artifact_missing", True)


def test_another_projects_file_is_not_there(
    client: TestClient, upload: Upload, other_key: IssuedKey
) -> None:
    file_id = upload()
    client.headers["Authorization"] = f"Bearer {other_key.secret}"
    assert client.get("/v1/files").json()["data"] == []
    for response in (
        client.get(f"/v1/files/{file_id}"),
        client.get(f"/v1/files/{file_id}/content"),
        client.delete(f"/v1/files/{file_id}"),
        client.get("/v1/files", params={"after": file_id}),
    ):
        error_of(response, 404)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("limit=x", "limit"), ("order=up", "order")],
)
def test_a_bad_query_names_the_parameter(client: TestClient, query: str, param: str) -> None:
    assert error_of(client.get(f"/v1/files?{query}"), 400)["param"] == param
