"""What a client is told once the database was migrated past the service that it asks."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from jobs.schema import current_version
from service import schema_watch


@pytest.mark.on_both_databases
def test_a_database_that_was_migrated_past_the_service_is_not_touched(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_watch, "EVERY_SECONDS", 0.0)
    version = current_version(engine)

    def answer_at(number: str | None) -> Any:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": number})
        return client.get("/v1/files")

    refused = answer_at("9999")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "schema_mismatch")
    assert "migrated by a newer Honed" in refused.json()["error"]["message"]
    assert refused.headers["Retry-After"]
    assert answer_at(f"9999_since_{version}").status_code == 200
    assert answer_at(version).status_code == 200
