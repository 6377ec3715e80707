"""The error envelope, as every test of an error reads it."""

from typing import Any


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error of an answer, whose envelope and status are checked."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 15
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert response.headers["x-request-id"].startswith("req_")
    return dict(error)
