"""What the HTTP side needs to know beside what every process knows."""

from __future__ import annotations

from pydantic import Field

from jobs.settings import Settings

MIB = 1024 * 1024


class ServiceSettings(Settings):
    """Read from `HONED_*` variables, as the shared ones are."""

    host: str = "127.0.0.1"
    """The address to listen on. Another one than loopback needs an API key to exist."""

    port: int = Field(default=8000, ge=1, le=65535)

    max_upload_bytes: int = Field(default=512 * MIB, ge=1)
    """The largest file that can be uploaded."""

    serving_start_seconds: float = Field(default=60.0, ge=0)
    """How long chat and graders wait for the serving process to start; elsewhere, 10 at most."""

    cancel_seconds: float = Field(default=10.0, ge=0)
    """How long a cancel waits for a running job to have stopped before it answers."""

    max_body_bytes: int = Field(default=8 * MIB, ge=1)
    """The largest JSON body: a grader may hold several sources of 256 kB."""

    metrics_token: str = ""
    """What a scraper on another machine shows for `/metrics`; empty lets only this machine in."""
