"""The OpenAPI document: kept in docs/, equal to the code, and without FastAPI's own errors."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.openapi import rendered

KEPT = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_the_kept_document_is_the_codes(app: FastAPI) -> None:
    assert KEPT.read_text() == rendered(app), "run `python -m service.openapi`"


def test_every_v1_operation_documents_its_errors_in_the_envelope(app: FastAPI) -> None:
    envelope = {"$ref": "#/components/schemas/ErrorEnvelope"}
    for path, operations in app.openapi()["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in operations.items():
            answers = operation["responses"]
            assert {"200", "401", "500", "503"} <= set(answers)
            assert method == "get" or "403" in answers
            assert ("422" in answers) == ("Idempotency-Key" in str(operation.get("parameters")))
            for status, answer in answers.items():
                if int(status) >= 400:
                    assert answer["content"]["application/json"]["schema"] == envelope


def test_every_reference_has_its_schema(app: FastAPI) -> None:
    text = rendered(app)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(app.openapi()["components"]["schemas"])


def test_the_document_and_its_page_are_served_without_a_key(app: FastAPI) -> None:
    with TestClient(app) as anonymous:
        assert anonymous.get("/openapi.json").json()["info"]["title"] == "Honed"
        assert anonymous.get("/docs").status_code == 200
