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

    disk_reserve_gb: float = Field(default=1.0, ge=0)
    """Left to running jobs, in GB of 10^9 bytes, or a tenth of the disk where that is less."""

    max_waiting_jobs: int = Field(default=10_000, ge=1)
    """Jobs of all projects that wait for a worker."""

    max_project_waiting_jobs: int = Field(default=1_000, ge=1)

    max_project_uploads: int = Field(default=100, ge=1)
    """Uploads in parts of a project that are not completed."""

    max_bodies: int = Field(default=128, ge=1)
    """Bodies that are read at once by this process."""

    max_project_bodies: int = Field(default=32, ge=1)

    body_grace_seconds: float = Field(default=30.0, gt=0)
    """A body may take so long, and for each `body_bytes_per_second` of it a second more."""

    body_bytes_per_second: int = Field(default=4096, ge=1)

    max_project_chats: int = Field(default=64, ge=1)
    """Chat requests of a project that are answered at once by this process."""

    keep_samples_days: float | None = Field(default=None, gt=0)
    """How long the samples of a step are kept; empty is for ever, here and below."""

    keep_checkpoints_days: float | None = Field(default=None, gt=0)
    """Of a job that is over, beside its best and its last."""

    keep_unused_files_days: float | None = Field(default=None, gt=0)
    """How long an uploaded file is kept after it was uploaded and after a job was made of it."""

    max_body_bytes: int = Field(default=8 * MIB, ge=1)
    """The largest JSON body: a grader may hold several sources of 256 kB."""

    metrics_token: str = ""
    """What a scraper on another machine shows for `/metrics`; empty lets only this machine in."""

    @property
    def own_url(self) -> str:
        """Where this machine reaches the service."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
