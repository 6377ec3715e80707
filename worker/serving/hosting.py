"""Which models are in memory: loaded when asked for, unloaded when idle or when others need it."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from jobs.errors import JobFailure, ModelNotFound, Unavailable
from jobs.serving import Served
from jobs.settings import Settings
from worker import hub
from worker.serving import memory
from worker.serving.loaded import Loaded

log = logging.getLogger(__name__)

IDLE_SECONDS = 600.0
# A base on a GPU whose memory a job could have makes room much sooner.
IDLE_BESIDE_JOBS_SECONDS = 30.0
GB = 1e9

Kind = TypeVar("Kind", bound=Loaded)


class DoesNotFit(Unavailable):
    """A base has no room now."""

    code = "model_does_not_fit"
    retry_after_seconds = 30


class Hosting:
    """The models of this process."""

    def __init__(
        self,
        settings: Settings,
        *,
        has_jobs: Callable[[], bool],
        job_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """`has_jobs` says whether a job runs, or waits, that could use the device.

        `job_bytes` is the largest forecast of these: models make room for it, those in use when
        their answers are done.
        """
        self._settings = settings
        self._has_jobs = has_jobs
        self._job_bytes = job_bytes
        self._is_draining = False
        self._hosted: dict[tuple[type[Loaded], Path], Loaded] = {}
        self._changing = threading.Lock()
        self._loading = threading.Lock()

    def take(self, kind: type[Kind], served: Served) -> Kind:
        """The request's model, loaded, and kept until it is released.

        Raises ModelNotFound when it is not on this machine, DoesNotFit when memory has no room.
        """
        folder = self._folder(served)
        if self._is_draining:
            raise DoesNotFit(
                f"A job needs the memory that '{served.name}' would take; try again when the job "
                "is done."
            )
        model = self._taken(kind, folder)
        if model is None:
            with self._loading:
                model = self._taken(kind, folder) or self._load(kind, served, folder)
        return model

    @contextmanager
    def use(self, kind: type[Kind], served: Served) -> Iterator[Kind]:
        """`take` for as long as the block runs."""
        model = self.take(kind, served)
        try:
            yield model
        finally:
            self.release(model)

    def release(self, model: Loaded) -> None:
        """The request is over."""
        with self._changing:
            model.num_users -= 1
            model.used_at = time.monotonic()

    @property
    def loaded(self) -> list[Loaded]:
        """What is in memory now."""
        with self._changing:
            return list(self._hosted.values())

    def tidy(self) -> None:
        """Unload what nobody has used for long; at once where memory runs out."""
        self._is_draining = self._is_in_the_way()
        patience = IDLE_SECONDS
        if self._is_draining or memory.is_scarce():
            patience = 0.0
        elif memory.device_type() == "cuda" and self._has_jobs():
            patience = IDLE_BESIDE_JOBS_SECONDS
        self._unload(lambda model: time.monotonic() - model.used_at >= patience)

    def _is_in_the_way(self, more_bytes: int = 0) -> bool:
        """Whether a job would not fit beside what is held here, and `more_bytes`."""
        with self._changing:
            folders = {folder for _, folder in self._hosted}
        held = sum(memory.needed_bytes(folder) for folder in folders)
        if not folders and not more_bytes:
            return False
        held = max(held, memory.reserved_bytes() if folders else 0) + more_bytes
        return memory.total_bytes() - held < self._job_bytes()

    def _folder(self, served: Served) -> Path:
        name, base = served.name, served.base
        if "folder" not in base:
            try:
                # Chat does not download: that is minutes, and the operator's disk.
                offline = self._settings.model_copy(update={"offline": True})
                base = hub.pin(base["name"], offline)
            except JobFailure as failure:
                log.info("%s: %s", name, failure.message)
                raise _absent(name, base["name"]) from None
        if base["folder"] is not None:
            return Path(base["folder"])
        folder = hub.cached(base)
        if folder is None:
            raise _absent(name, f"{base['name']}@{base['revision']}")
        return folder

    def _taken(self, kind: type[Kind], folder: Path) -> Kind | None:
        with self._changing:
            model = self._hosted.get((kind, folder))
            if model is None:
                return None
            assert isinstance(model, kind)
            model.num_users += 1
            return model

    def _load(self, kind: type[Kind], served: Served, folder: Path) -> Kind:
        try:
            needed = memory.needed_bytes(folder) + memory.RESERVE_BYTES[memory.device_type()]
            while memory.free_bytes() < needed or self._is_in_the_way(needed):
                oldest = self._oldest()
                if not self._unload(lambda model: model is oldest):  # noqa: B023 - called at once
                    raise DoesNotFit(
                        f"The model behind '{served.name}' takes about {needed / GB:.1f} GB with "
                        f"what others need, and {memory.free_bytes() / GB:.1f} GB are free beside "
                        "what runs now. Try again when a job or another model's answers are done."
                    )
            started = time.monotonic()
            model = kind(folder)
        except (OSError, ValueError) as error:
            raise ModelNotFound(f"'{served.name}' cannot be loaded: {error}") from error
        except JobFailure as failure:
            raise ModelNotFound(f"'{served.name}' cannot be loaded: {failure.message}") from failure
        log.info("loaded %s in %.1f s", folder, time.monotonic() - started)
        with self._changing:
            model.num_users += 1
            self._hosted[kind, folder] = model
        return model

    def _oldest(self) -> Loaded | None:
        idle = [model for model in self._hosted.values() if not model.num_users]
        return min(idle, key=lambda model: model.used_at, default=None)

    def _unload(self, is_due: Callable[[Loaded], bool]) -> int:
        """Unload the idle bases that are due; how many."""
        with self._changing:
            due = {
                key: model
                for key, model in self._hosted.items()
                if not model.num_users and is_due(model)
            }
            for key in due:
                del self._hosted[key]
        for _, folder in due:
            log.info("unloaded %s", folder)
        num_unloaded = len(due)
        if num_unloaded:
            del due
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return num_unloaded


def _absent(name: str, base: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model behind '{name}' is not on the machine that serves chat. The operator puts it "
        f"there with `honed models pull {base}`; a job that trains it does so too."
    )
