"""How requests are made up from the OpenAPI document, and what every answer is held to."""

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
)


def made_up(num_requests: int) -> Any:
    """The same requests in every run: what fails once can be looked at again."""
    return settings(
        max_examples=num_requests,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
