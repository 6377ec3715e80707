"""What a client is told while the database does not answer."""

from envelope import error_of
from fastapi.testclient import TestClient

from service.settings import ServiceSettings


def test_a_database_that_is_away_is_a_503(client: TestClient, settings: ServiceSettings) -> None:
    (settings.data_dir / "honed.db").rename(settings.data_dir / "away.db")
    (settings.data_dir / "honed.db").mkdir()
    answer = client.get("/v1/files")
    error = error_of(answer, 503)
    assert error["code"] == "database_unavailable"
    assert "may or may not have been done" in error["message"]
    assert "with the same Idempotency-Key" in error["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-should-retry"] == "true"
    (settings.data_dir / "honed.db").rmdir()
    (settings.data_dir / "away.db").rename(settings.data_dir / "honed.db")
    assert client.get("/v1/files").status_code == 200
