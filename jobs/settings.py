"""What every process needs to know: database, broker, data folder and the clocks they share."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


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

    offline: bool = False
    """Never ask a model hub; only models already in the local cache or on disk are found."""

    lease_seconds: float = Field(default=20.0, gt=0)
    """An attempt that has not renewed for this long is lost, and the job goes back in the queue."""

    renew_seconds: float = Field(default=1.0, gt=0)
    """How often a running attempt renews, and so how soon it hears of a cancel or a pause."""

    progress_seconds: float = Field(default=900.0, gt=0)
    """An attempt that is alive but has done nothing for this long is stopped and retried."""

    max_losses: int = Field(default=3, ge=1)
    """Attempts lost in a row, with no training state saved between, before a job fails."""

    sweep_seconds: float = Field(default=2.0, gt=0)
    """How often expired leases and unanswered doorbells are looked for."""

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

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


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """This process's settings, read once."""
    return Settings()
