"""Keys, unknown routes, and what happens when a part of the service fails."""

import io
import logging
from collections.abc import Iterator

import pytest
from envelope import error_of
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.log import TextLines
from jobs.models import ApiKey
from jobs.scopes import Scope, granted
from jobs.store import projects
from jobs.store.projects import IssuedKey
from service.settings import ServiceSettings

pytestmark = pytest.mark.on_both_databases


def v1_routes(app: FastAPI) -> list[tuple[str, str]]:
    paths = app.openapi()["paths"]
    return [
        (method, path.replace("{", "").replace("}", ""))
        for path, operations in paths.items()
        for method in operations
        if path.startswith("/v1/")
    ]


def test_every_route_needs_a_key(app: FastAPI) -> None:
    routes = v1_routes(app)
    assert len(routes) > 15
    with TestClient(app) as anonymous:
        for method, path in routes:
            answer = anonymous.request(method, path)
            error = error_of(answer, 401)
            assert error["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"


def test_no_route_is_outside_the_document(app: FastAPI) -> None:
    documented = set(app.openapi()["paths"])
    assert {route.path_format for route in app.routes if isinstance(route, APIRoute)} <= documented


@pytest.mark.parametrize(
    "header", ["Bearer hk-wrong", "Bearer ", "Basic aGs6aGs=", "hk-wrong", "Bearer \u00e9"]
)
def test_a_wrong_key(app: FastAPI, header: str) -> None:
    with TestClient(app, headers={"Authorization": header.encode("latin-1")}) as stranger:
        assert error_of(stranger.get("/v1/files"), 401)["code"] == "invalid_api_key"


def test_the_key_is_checked_before_the_body_is_read(app: FastAPI) -> None:
    with TestClient(app) as anonymous:
        for path in ("/v1/files", "/v1/fine_tuning/jobs"):
            error_of(anonymous.post(path, content=b"{not json"), 401)


def test_a_revoked_key(client: TestClient, key: IssuedKey, sessions: sessionmaker[Session]) -> None:
    assert client.get("/v1/files").status_code == 200
    with transaction(sessions) as session:
        assert projects.revoke_key(session, key.id)
        assert not projects.revoke_key(session, key.id)
    assert "revoked" in error_of(client.get("/v1/files"), 401)["message"]


class TestScopes:
    """A key does what its scopes allow; `train`, the default, is all that a user does."""

    @pytest.fixture
    def reader(self, app: FastAPI, sessions: sessionmaker[Session]) -> Iterator[TestClient]:
        with transaction(sessions) as session:
            project = projects.ensure_project(session, "default")
            key = projects.issue_key(session, project, "dashboard", scopes=[Scope.READ])
        with TestClient(app, headers={"Authorization": f"Bearer {key.secret}"}) as reader:
            yield reader

    def test_a_reading_key_looks_and_changes_nothing(
        self, app: FastAPI, reader: TestClient
    ) -> None:
        for method, path in v1_routes(app):
            answer = reader.request(method, path)
            if method == "get":
                assert answer.status_code != 403
                continue
            error = error_of(answer, 403)
            assert error["code"] == "missing_scope"
            assert "`honed keys create --scope train`" in error["message"]

    def test_the_key_is_checked_before_the_body_is_read(self, reader: TestClient) -> None:
        for path in ("/v1/files", "/v1/fine_tuning/jobs"):
            error_of(reader.post(path, content=b"{not json"), 403)

    def test_a_scope_holds_what_it_includes(self) -> None:
        assert granted("read") == {Scope.READ}
        assert granted("train") == {Scope.READ, Scope.TRAIN}
        assert granted("read priority") == set(Scope)


def test_no_answer_repeats_a_whole_key(app: FastAPI) -> None:
    secret = "hk-" + "s" * 40
    with TestClient(app, headers={"Authorization": f"Bearer {secret}"}) as stranger:
        assert secret not in stranger.get("/v1/files").text


def test_the_last_use_is_noted(
    client: TestClient, key: IssuedKey, sessions: sessionmaker[Session]
) -> None:
    client.get("/v1/files")
    with sessions() as session:
        first = session.get_one(ApiKey, key.id).last_used_at
    assert first is not None
    client.get("/v1/files")
    with sessions() as session:
        assert session.get_one(ApiKey, key.id).last_used_at == first  # not a write per request


class TestUnknownRoutes:
    @pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat", "/v1/files/", "/v2/files", "/a/b"])
    def test_404(self, client: TestClient, path: str) -> None:
        error = error_of(client.get(path), 404)
        assert (error["code"], path in error["message"]) == ("unknown_url", True)

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/v1/fine_tuning/jobs", "GET, POST"),
            ("/v1/files/file-x", "DELETE, GET"),
            ("/v1/models/ft:org%2Fbase:p:s:id", "DELETE, GET"),
            ("/v1/chat/completions", "POST"),
            ("/openapi.json", "GET, HEAD"),
        ],
    )
    def test_405_names_every_method_of_the_path(
        self, client: TestClient, path: str, allowed: str
    ) -> None:
        answer = client.put(path)
        error = error_of(answer, 405)
        assert (error["code"], allowed in error["message"]) == ("method_not_allowed", True)
        assert answer.headers["allow"] == allowed


class TestFailures:
    def test_an_unexpected_exception_is_a_500_with_its_id(
        self, app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        @app.get("/broken")
        def broken() -> None:
            raise RuntimeError("secret detail")

        answer = client.get("/broken")
        error = error_of(answer, 500)
        request_id = answer.headers["x-request-id"]
        assert request_id in error["message"]
        assert "secret detail" not in answer.text
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.exc_info is not None

    def test_every_answer_has_an_id_of_its_own(self, client: TestClient) -> None:
        ids = {client.get(path).headers["x-request-id"] for path in ("/healthz", "/v1/files", "/x")}
        assert len(ids) == 3

    def test_every_line_in_the_log_has_its_requests_id(
        self, app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, logger="service.requests")

        @app.get("/told")
        def told() -> None:
            logging.getLogger("any.other").warning("from the endpoint's thread")

        handler = logging.StreamHandler(lines := io.StringIO())
        handler.setFormatter(TextLines())
        logging.getLogger().addHandler(handler)
        try:
            answers = [
                client.get(path, headers={"Authorization": "Bearer hk-secret"})
                for path in ("/told", "/v1/files?limit=1")
            ]
            logging.getLogger("any.other").warning("from no request")
        finally:
            logging.getLogger().removeHandler(handler)
        told_id, refused_id = (answer.headers["x-request-id"] for answer in answers)
        shown = [line.split(" ", 3)[3] for line in lines.getvalue().splitlines()]
        assert shown[0] == f"{told_id} any.other: from the endpoint's thread"
        assert shown[-1] == "- any.other: from no request"
        assert "hk-secret" not in lines.getvalue()
        requests = [line for line in shown if " service.requests: " in line]
        assert requests[0].startswith(f"{told_id} service.requests: GET /told 200 ")
        assert requests[1].startswith(f"{refused_id} service.requests: GET /v1/files 401 ")


class TestHealth:
    def test_healthy(self, app: FastAPI) -> None:
        with TestClient(app) as anonymous:
            assert anonymous.get("/healthz").json() == {"status": "ok"}
            answer = anonymous.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ready", "checks": {"database": "ok", "broker": "ok"}}

    def test_a_database_of_another_version(
        self, client: TestClient, sessions: sessionmaker[Session]
    ) -> None:
        connection = sessions.kw["bind"].raw_connection()
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
        connection.close()
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "newer Honed" in answer.json()["checks"]["database"]

    def test_a_broker_that_is_away(self, client: TestClient, settings: ServiceSettings) -> None:
        (settings.broker_dir / "messages").rmdir()
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["database"] == "ok"
        assert "messages" in answer.json()["checks"]["broker"]
