"""What every process needs to know: database, broker, data folder and the clocks they share."""

from __future__ import annotations

import socket
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# A lease that ends later than this from now was given before the clock was set back.
MAX_LEASE_SECONDS = 600.0


class Settings(BaseSettings):
    """Read from `HONED_*` variables; the defaults are the embedded stack in one data folder."""

    model_config = SettingsConfigDict(env_prefix="HONED_", extra="ignore")

    data_dir: Path = Field(default=Path(".honed"))
    """Everything the embedded stack keeps: database, broker folders, artifacts, logs."""

    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in the data folder."""

    broker_url: str = "filesystem://"
    """Celery's broker; the default keeps its messages in the data folder."""

    model_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders under which a job may name a base model by path. Colon-separated in the variable."""

    unsafe_python_graders: bool = False
    """Run users' Python graders without isolation where this machine offers none. Dangerous."""

    offline: bool = False
    """Never ask a model hub; only models already in the local cache or on disk are found."""

    worker_name: str = Field(default_factory=socket.gethostname, min_length=1)
    """What this worker is called; workers that share a data folder have names of their own."""

    device_memory_gb: float | None = Field(default=None, gt=0)
    """Memory that a job may use on this worker's devices; empty means what a device has."""

    lease_seconds: float = Field(default=20.0, gt=0, le=MAX_LEASE_SECONDS)
    """An attempt that has not renewed for this long is lost, and the job goes back in the queue."""

    renew_seconds: float = Field(default=1.0, gt=0)
    """How often a running attempt renews, and so how soon it hears of a cancel or a pause."""

    progress_seconds: float = Field(default=900.0, gt=0)
    """An attempt that is alive but has done nothing for this long is stopped and retried."""

    max_losses: int = Field(default=3, ge=1)
    """Attempts lost alike in a row, with no training state saved between, before a job fails."""

    sweep_seconds: float = Field(default=2.0, gt=0)
    """How often expired leases and unanswered doorbells are looked for."""

    serving_url: str = ""
    """Where the serving process answers when it is on another machine; empty means on this one."""

    serving_listen: str = "127.0.0.1:0"
    """`host:port` of the serving process; port 0 is any. Only loopback goes without a token."""

    serving_token: str = ""
    """What the service shows the serving process; empty means one that is made at each start."""

    embedding_model: str = ""
    """The sentence encoder of text_similarity's cosine, named as a base is; empty is none."""

    poll_seconds: float = Field(default=30.0, gt=0)
    """How often a worker looks for jobs that no doorbell told it of."""

    log_format: Literal["text", "json"] = "text"
    """Lines of the log for people, or one JSON object each."""

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("worker_name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if "/" in value or value in (".", ".."):
            raise ValueError("it names a folder: no '/' in it, and not '.' or '..'")
        return value

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in value.split(":") if part)
        return value

    @cached_property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'honed.db'}"

    @property
    def artifacts_dir(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    @property
    def logs_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def run_dir(self) -> Path:
        """Locks and pid files of the processes on this machine."""
        return self.data_dir / "run"

    @property
    def slots_dir(self) -> Path:
        """Locks on this worker's devices: a data folder may be shared by several machines."""
        return self.run_dir / "slots" / self.worker_name


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """This process's settings, read once."""
    return Settings()
