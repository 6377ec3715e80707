"""The system's numbers, for Prometheus."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from jobs.errors import InvalidApiKey
from service.dependencies import Resources, get_resources
from service.wire.errors import answers

router = APIRouter(tags=["health"])

# A proxy on this machine asks on behalf of others, who need the token.
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


def allowed(request: Request, resources: Annotated[Resources, Depends(get_resources)]) -> None:
    """Raises InvalidApiKey unless the request comes from this machine or shows the token.

    API keys do not count: each speaks for one project, and the numbers are of all of them.
    """
    expected = resources.settings.metrics_token
    shown = request.headers.get("authorization", "").removeprefix("Bearer ")
    if expected and secrets.compare_digest(shown.encode(), expected.encode()):
        return
    if _is_from_this_machine(request):
        return
    raise InvalidApiKey(
        "Metrics are shown to this machine itself, and elsewhere to who sends the operator's "
        "HONED_METRICS_TOKEN as 'Authorization: Bearer <token>'."
        + ("" if expected else " None is set on this server.")
    )


def _is_from_this_machine(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


@router.get(
    "/metrics",
    dependencies=[Depends(allowed)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **answers(401)},
)
def metrics(request: Request, resources: Annotated[Resources, Depends(get_resources)]) -> Response:
    """Every metric of the system in Prometheus' text format: see docs/monitoring.md."""
    registry = CollectorRegistry()
    registry.register(resources.monitoring)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"Content-Type": media_type})
